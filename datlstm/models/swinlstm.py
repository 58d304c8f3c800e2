"""SwinLSTM-B and SwinLSTM-D: gated recurrent cells of shifted-window transformer blocks (Tang et al. 2023, ICCV).

B runs its cells one after another on one grid; D is an encoder-decoder over coarser grids.
"""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from datlstm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
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
from datlstm.models.layers import Block, CellState, GatedCell, PatchEmbed, PatchInflate, WindowAttention
from datlstm.settings import PositiveInt

BIAS_STD = 0.02
"""Spread of the learnt relative biases at the start."""


class SwinLSTMDConfig(EncoderDecoderConfig):
    """Size and shape of a SwinLSTM-D; the defaults are the published model.

    ``heads`` lists the encoder's cells; the decoder's have the same, last to first.
    """

    heads: tuple[PositiveInt, ...] = (4, 8)

    @classmethod
    def operational(cls, height: int, width: int) -> dict[str, Any]:
        """Return one level of two heads, fitted to frames of a size."""
        return cls.fitted(height, width, heads=(2,))

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if len(self.heads) != len(self.down):
            raise ValueError(f"heads needs {len(self.down)} entries for {len(self.down)} levels; got {self.heads}")
        for stage in (*self.encoder_stages(), *self.decoder_stages()):
            _check_heads(stage.channels, stage.heads)
        return self

    def heads_at(self, position: int) -> int:
        """Return the heads of the cell that runs at ``position``."""
        return (*self.heads, *self.heads[::-1])[position]

    def tiles(self, grid: Grid) -> bool:
        """Whether windows tile a grid."""
        return _tiled(grid, self.window)


class SwinLSTMD(EncoderDecoder):
    """The recurrent forecaster over several grids whose blocks attend inside windows, odd ones inside shifted ones."""

    def __init__(self, config: SwinLSTMDConfig) -> None:
        super().__init__(
            config,
            lambda index, stage: shifted_window_attention(
                index, stage.grid, stage.channels, stage.heads, config.window
            ),
        )


class SwinLSTMBConfig(RecurrentConfig):
    """Size and shape of a SwinLSTM-B; the defaults are the published model.

    ``depths`` and ``heads`` list the cells in the order they run. Every block has the same ``drop_path``.
    """

    patch: PositiveInt = 2
    embed: PositiveInt = 128
    depths: tuple[PositiveInt, ...] = (12,)
    heads: tuple[PositiveInt, ...] = (4,)
    window: PositiveInt = 4
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    head: Head = "sigmoid"

    @classmethod
    def operational(cls, height: int, width: int) -> dict[str, Any]:
        """Return one cell of four blocks on at most 16 tokens along the shorter side."""
        small = {"embed": 32, "depths": (4,), "heads": (2,), "drop_path": 0.0}
        return small | {"patch": fitting_patch(height, width), "head": "increment"}

    @model_validator(mode="after")
    def _lists_fit(self) -> Self:
        if not self.depths or len(self.heads) != len(self.depths):
            raise ValueError(f"heads needs one entry for each of the depths; got {self.heads} and {self.depths}")
        for heads in self.heads:
            _check_heads(self.embed, heads)
        return self

    @property
    def grid(self) -> Grid:
        """The token grid, the frame padded to whole windows."""
        rows, columns = (-(-cells // self.patch) for cells in self.size)
        candidates = ((rows + below, columns + right) for below in range(self.window) for right in range(self.window))
        return min((grid for grid in candidates if _tiled(grid, self.window)), key=lambda grid: grid[0] * grid[1])


class SwinLSTMB(RecurrentNetwork):
    """The recurrent forecaster on one grid; see `SwinLSTMBConfig`."""

    config: SwinLSTMBConfig

    def __init__(self, config: SwinLSTMBConfig) -> None:
        super().__init__(config)
        self.embed = PatchEmbed(config.step_channels, config.patch, config.embed)
        self.cells = nn.ModuleList(
            GatedCell([_block(index, heads, config) for index in range(depth)])
            for depth, heads in zip(config.depths, config.heads, strict=True)
        )
        self.inflate = PatchInflate(config.grid, config.patch, config.embed, config.output_channels)
        start_as_persistence(config.head, self.inflate)

    def step(
        self, frame: Tensor, forcing: Tensor | None, state: list[CellState] | None
    ) -> tuple[Tensor, list[CellState]]:
        """Return the estimate ``(B, output_channels, H, W)`` of what follows and the new states of all cells."""
        tokens = self.embed(pad_to(with_forcing(frame, forcing), self.inflate.size))
        new_state: list[CellState] = []
        for index, cell in enumerate(self.cells):
            new_state.append(cell(tokens, None if state is None else state[index]))
            tokens = new_state[-1][0]
        height, width = self.config.size
        output: Tensor = self.inflate(tokens)[..., :height, :width]
        return self.config.read(output, frame), new_state


def shifted_window_attention(index: int, grid: Grid, channels: int, heads: int, window: int) -> WindowAttention:
    """Return the attention of block ``index``: odd ones shift by half a window.

    On a grid no larger than one window nothing is shifted.
    """
    if min(grid) <= window:
        return WindowAttention(grid, channels, heads, min(grid), BIAS_STD)
    return WindowAttention(grid, channels, heads, window, BIAS_STD, shift=window // 2 if index % 2 else 0)


def _block(index: int, heads: int, config: SwinLSTMBConfig) -> Block:
    attention = shifted_window_attention(index, config.grid, config.embed, heads, config.window)
    return Block(config.embed, attention, mixes=index % 2 == 0, drop_path=config.drop_path)


def _tiled(grid: Grid, window: int) -> bool:
    return all(size % min(window, *grid) == 0 for size in grid)


def _check_heads(channels: int, heads: int) -> None:
    if channels % heads:
        raise ValueError(f"a cell of {channels} channels can't have {heads} heads; heads must divide channels")
