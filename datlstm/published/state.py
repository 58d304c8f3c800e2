"""A published state dict, read entry by entry, so that what is missing or left over is known."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from datlstm.errors import WeightsError


class PublishedState:
    """The entries of a published state dict by name; remembers which were taken."""

    def __init__(self, entries: Mapping[str, Tensor]) -> None:
        self._entries = entries
        self._taken: set[str] = set()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an entry. Raises `WeightsError` for one that does not exist."""
        return tuple(self._entry(name).shape)

    def has(self, name: str) -> bool:
        """Whether there is an entry of this name."""
        return name in self._entries

    def count(self, prefix: str) -> int:
        """Return how many numbered members follow ``prefix``: ``layers`` counts ``layers.0.…``, ``layers.1.…``."""
        numbers = {match[1] for name in self._entries if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
        return len(numbers)

    def take(self, *names: str, dim: int = 0) -> Tensor:
        """Return one entry, or several joined along ``dim``."""
        self._taken.update(names)
        return torch.cat([self._entry(name) for name in names], dim)

    def linear(self, *names: str) -> Tensor:
        """Return the weight of a linear layer ``(out, in)`` from linear layers or convolutions, joined on ``out``."""
        return self.take(*names).flatten(1)

    def check_rest(self, unused: str) -> None:
        """Raise `WeightsError` for entries that were not taken, unless their names match ``unused``."""
        rest = [name for name in self._entries if name not in self._taken and not re.search(unused, name)]
        if rest:
            raise WeightsError(
                f"{len(rest)} entries, such as {rest[0]!r}, belong to no layer of this architecture: choose another "
                "architecture, or convert a state dict of the released model"
            )

    def _entry(self, name: str) -> Tensor:
        if name not in self._entries:
            raise WeightsError(
                f"the state dict has no entry {name!r}: choose another architecture, or give the whole state dict"
            )
        return self._entries[name]
