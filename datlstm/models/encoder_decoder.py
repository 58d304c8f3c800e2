"""The body that DatLSTM and SwinLSTM-D share: gated cells on ever coarser token grids, and back to the finest."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import product
from math import ceil
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from datlstm.models.frames import (
    Grid,
    Head,
    RecurrentConfig,
    RecurrentNetwork,
    fitting_patch,
    pad_to,
    start_as_persistence,
    with_forcing,
)
from datlstm.models.layers import (
    Block,
    CellState,
    GatedCell,
    PatchEmbed,
    PatchExpanding,
    PatchInflate,
    PatchMerging,
    stage_rates,
)
from datlstm.settings import PositiveInt


class Stage(NamedTuple):
    """One cell: its place in the encoder and then the decoder, token grid, width, heads, each block's drop rate."""

    position: int
    grid: Grid
    channels: int
    heads: int
    drop_rates: list[float]


class EncoderDecoderConfig(RecurrentConfig):
    """Size and shape of an encoder-decoder of gated cells.

    ``down`` are the encoder's depths from the finest grid to the coarsest; ``up`` the decoder's, **also** from the
    finest to the coarsest, so that the first cell of the decoder has depth ``up[-1]``. A head ``sigmoid`` gives frames
    in 0 … 1.
    """

    patch: PositiveInt = 2
    embed: PositiveInt = 128
    down: tuple[PositiveInt, ...] = (2, 6)
    up: tuple[PositiveInt, ...] = (6, 2)
    heads: tuple[PositiveInt, ...]
    window: PositiveInt = 4
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    head: Head = "sigmoid"

    @classmethod
    def fitted(cls, height: int, width: int, **own: Any) -> dict[str, Any]:
        """Return a small model's options, a child's ``own`` among them, for frames of a size.

        One level on at most 16 tokens along the shorter side, in the windows that need least padding.
        """
        small: dict[str, Any] = {"embed": 16, "down": (2,), "up": (2,), "drop_path": 0.0, **own}
        small |= {"patch": fitting_patch(height, width), "head": "increment"}
        configs = [cls(height=height, width=width, **small, window=window) for window in (4, 5, 6)]
        fewest = min(configs, key=lambda config: config.grid(0)[0] * config.grid(0)[1])
        return small | {"window": fewest.window}

    @abstractmethod
    def heads_at(self, position: int) -> int:
        """Return the heads of the cell that runs at ``position``, counted through the encoder and the decoder."""

    @abstractmethod
    def tiles(self, grid: Grid) -> bool:
        """Whether a cell can run on a token grid."""

    @model_validator(mode="after")
    def _lists_fit(self) -> Self:
        levels = len(self.down)
        if levels == 0 or len(self.up) != levels:
            raise ValueError(f"down and up need the same number of depths, at least 1; got {self.down} and {self.up}")
        return self

    def encoder_stages(self) -> Iterator[Stage]:
        """Yield the encoder's stages from the finest to the coarsest."""
        rates = stage_rates(self.drop_path, self.down)
        for level in range(len(self.down)):
            yield self._stage(level, level, rates[level])

    def decoder_stages(self) -> Iterator[Stage]:
        """Yield the decoder's stages from the coarsest to the finest; rates fall along a stage's blocks."""
        levels = len(self.up)
        rates = stage_rates(self.drop_path, self.up)
        for step in range(levels):
            yield self._stage(levels - step, levels + step, rates[levels - 1 - step][::-1])

    def grid(self, level: int) -> Grid:
        """Return the token grid after ``level`` mergings, the frame padded so that a cell can run on every level."""
        return _coarser(self._padded_grid, level)

    @cached_property
    def _padded_grid(self) -> Grid:
        unit = 2 ** len(self.down)
        smallest = [ceil(cells / (self.patch * unit)) * unit for cells in self.size]
        # Rounding up to whole windows always suffices, twice over for the smallest maps.
        padding = range(0, 2 * unit * (self.window + 2), unit)
        grids = [(smallest[0] + below, smallest[1] + right) for below, right in product(padding, padding)]
        levels = range(len(self.down) + 1)
        possible = (grid for grid in grids if all(self.tiles(_coarser(grid, level)) for level in levels))
        return min(possible, key=lambda grid: grid[0] * grid[1])

    def _stage(self, level: int, position: int, drop_rates: list[float]) -> Stage:
        return Stage(position, self.grid(level), self.embed * 2**level, self.heads_at(position), drop_rates)


class EncoderDecoder(RecurrentNetwork):
    """Gated cells with patch merging between them, then gated cells with patch expanding; no skip connections.

    ``attention`` makes the attention of the block with an index in a stage. A frame of any height and width is padded
    with zeros inside.
    """

    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig, attention: Callable[[int, Stage], nn.Module]) -> None:
        super().__init__(config)
        encoder, decoder = list(config.encoder_stages()), list(config.decoder_stages())
        self.embed = PatchEmbed(config.step_channels, config.patch, config.embed)
        self.encoder = nn.ModuleList(_cell(stage, attention) for stage in encoder)
        self.merging = nn.ModuleList(PatchMerging(stage.grid, stage.channels) for stage in encoder)
        self.decoder = nn.ModuleList(_cell(stage, attention) for stage in decoder)
        self.expanding = nn.ModuleList(PatchExpanding(stage.grid, stage.channels) for stage in decoder)
        self.inflate = PatchInflate(config.grid(0), config.patch, config.embed, config.output_channels)
        start_as_persistence(config.head, self.inflate)

    def step(
        self, frame: Tensor, forcing: Tensor | None, state: list[CellState] | None
    ) -> tuple[Tensor, list[CellState]]:
        """Return the estimate ``(B, output_channels, H, W)`` of what follows and the new states of all cells."""
        cells, resamplings = (*self.encoder, *self.decoder), (*self.merging, *self.expanding)
        tokens = self.embed(pad_to(with_forcing(frame, forcing), self.inflate.size))
        given: Sequence[CellState | None] = [None] * len(cells) if state is None else state
        new_state: list[CellState] = []
        for cell, resampling, cell_state in zip(cells, resamplings, given, strict=True):
            new_state.append(cell(tokens, cell_state))
            tokens = resampling(new_state[-1][0])
        height, width = self.config.size
        output: Tensor = self.inflate(tokens)[..., :height, :width]
        return self.config.read(output, frame), new_state


def _cell(stage: Stage, attention: Callable[[int, Stage], nn.Module]) -> GatedCell:
    return GatedCell(
        [
            Block(stage.channels, attention(index, stage), mixes=index % 2 == 0, drop_path=rate)
            for index, rate in enumerate(stage.drop_rates)
        ]
    )


def _coarser(grid: Grid, level: int) -> Grid:
    return grid[0] // 2**level, grid[1] // 2**level
