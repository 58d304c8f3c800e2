"""SwinLSTM-B and SwinLSTM-D: their attention against a slow literal one, their grids and laws, what they refuse."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datlstm.errors import SettingsError
from datlstm.models import build, configure
from datlstm.models.frames import Grid, RecurrentNetwork
from datlstm.models.layers import Block, GatedCell, StochasticDepth, WindowAttention
from datlstm.models.swinlstm import SwinLSTMB, SwinLSTMBConfig, SwinLSTMD, SwinLSTMDConfig, shifted_window_attention

SIZE = (12, 18)
SMALL: dict[str, dict[str, Any]] = {
    "swinlstm-b": {"embed": 8, "depths": (3, 2), "heads": (2, 4), "window": 3, "drop_path": 0.0},
    "swinlstm-d": {"embed": 8, "down": (3,), "up": (2,), "heads": (2,), "window": 3, "drop_path": 0.0},
}
TINY = {"swinlstm-b": {"depths": (2,), "heads": (2,)}, "swinlstm-d": {"down": (2,), "up": (1,)}}
NAMES = tuple(SMALL)


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(7)


def small(name: str, **changes: Any) -> RecurrentNetwork:
    model = build(name, {"height": SIZE[0], "width": SIZE[1], **SMALL[name], **changes})
    assert isinstance(model, RecurrentNetwork)
    return model


def finest_grid(config: Any) -> Grid:
    grid: Grid = config.grid(0) if isinstance(config, SwinLSTMDConfig) else config.grid
    return grid


def days(count: int, *, batch: int = 2, channels: int = 1, size: Grid = SIZE) -> Tensor:
    return torch.rand(batch, count, channels, *size)


def literal_window(index: int, grid: Grid, window: int) -> tuple[int, int]:
    """Window and shift of a block: a small map is one window high or wide, and never shifted."""
    if min(grid) <= window:
        return min(grid), 0
    return window, window // 2 if index % 2 else 0


def literal_region(place: Grid, grid: Grid, window: int, shift: int) -> tuple[int, ...]:
    """The region of a place on the rolled map, which is cut one window and one shift before its end."""
    return tuple(sum(at >= size - cut for cut in (window, shift)) for at, size in zip(place, grid, strict=True))


def literal_attention(attention: WindowAttention, tokens: Tensor, window: int, shift: int) -> Tensor:
    """Attention token by token: roll the map, ask all tokens of the window, hide those of another region."""
    (rows, columns), heads = attention.grid, attention.heads
    places = list(product(range(rows), range(columns)))
    rolled_from = [(y + shift) % rows * columns + (x + shift) % columns for y, x in places]
    query, key, value = (part.unflatten(2, (heads, -1)) for part in attention.qkv(tokens).chunk(3, dim=2))
    outputs: list[Tensor] = [tokens] * len(places)
    for own, (y, x) in enumerate(places):
        members = [n for n, (v, u) in enumerate(places) if (v // window, u // window) == (y // window, x // window)]
        sources = [rolled_from[n] for n in members]
        rows_of_table = [
            (y - places[n][0] + window - 1) * (2 * window - 1) + (x - places[n][1] + window - 1) for n in members
        ]
        logits = (query[:, [rolled_from[own]]] * key[:, sources]).sum(-1) / query.shape[-1] ** 0.5
        logits = logits + attention.relative_bias[rows_of_table]
        if shift:
            region = literal_region((y, x), attention.grid, window, shift)
            hidden = [literal_region(places[n], attention.grid, window, shift) != region for n in members]
            logits = logits - 100.0 * torch.tensor(hidden).unsqueeze(1)
        mixed = (logits.softmax(1).unsqueeze(-1) * value[:, sources]).sum(1)
        outputs[rolled_from[own]] = attention.output(mixed.flatten(1))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("grid", "window", "heads"),
    [
        ((4, 4), 2, 1),
        ((6, 6), 3, 2),
        ((8, 4), 2, 4),
        ((2, 10), 2, 2),
        ((12, 9), 3, 2),
        ((6, 9), 3, 1),
        ((8, 12), 4, 2),
        ((10, 10), 5, 2),
        ((4, 8), 4, 2),
        ((3, 6), 4, 2),
        ((4, 2), 5, 4),
        ((2, 2), 2, 1),
    ],
)
def test_shifted_window_attention_equals_asking_every_token_of_the_window(
    index: int, grid: Grid, window: int, heads: int
) -> None:
    attention = shifted_window_attention(index, grid, 8, heads, window).double()
    nn.init.normal_(attention.relative_bias)
    tokens = torch.randn(2, grid[0] * grid[1], 8, dtype=torch.float64, requires_grad=True)
    wanted = (tokens, *attention.parameters())

    fast, slow = attention(tokens), literal_attention(attention, tokens, *literal_window(index, grid, window))
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=0)

    upstream = torch.randn_like(fast)
    gradients = (torch.autograd.grad(output, wanted, upstream) for output in (fast, slow))
    for ours, literal in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, literal, atol=1e-10, rtol=1e-10)


def test_tokens_that_only_the_roll_brings_together_do_not_see_each_other() -> None:
    attention = shifted_window_attention(1, (6, 6), 8, 2, 3)
    tokens = torch.randn(1, 36, 8)
    changed = tokens.clone()
    changed[:, 0] += 1
    difference = (attention(changed) - attention(tokens)).abs().amax(dim=(0, 2))
    # Shifted by one, the window of the first token holds nothing else but tokens of the far sides of the map.
    assert difference.nonzero().flatten().tolist() == [0]


# Blocks without a second map carry a reduction that they never run, and the decoder of D an embedding.
@pytest.mark.parametrize(
    ("name", "count"), [("swinlstm-b", 2_778_417 - 197_376), ("swinlstm-d", 20_191_969 - 1_346_560)]
)
def test_the_published_configuration_holds_the_published_live_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        model = build(name, configure(name, "reference", height=64, width=64))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_encoder_and_decoder_stages_have_the_published_sizes() -> None:
    config = SwinLSTMDConfig(height=64, width=64)
    stages = [(*stage[1:4], len(stage.drop_rates)) for stage in (*config.encoder_stages(), *config.decoder_stages())]
    assert stages == [((32, 32), 128, 4, 2), ((16, 16), 256, 8, 6), ((8, 8), 512, 8, 2), ((16, 16), 256, 4, 6)]


def test_every_block_shifts_in_turn_and_even_ones_mix() -> None:
    model = SwinLSTMB(SwinLSTMBConfig(height=16, width=16, embed=8, depths=(4,), heads=(2,)))
    blocks = [block for block in model.modules() if isinstance(block, Block)]
    assert [block.reduction is not None for block in blocks] == [True, False, True, False]
    shifts = [block.attention.shift for block in blocks if isinstance(block.attention, WindowAttention)]
    assert shifts == [0, 2, 0, 2]


def drop_rates(model: nn.Module) -> list[float]:
    return [
        1 - block.drop_path.kept_share.item() if isinstance(block.drop_path, StochasticDepth) else 0.0
        for block in model.modules()
        if isinstance(block, Block)
    ]


def test_drop_path_of_d_rises_through_the_encoder_and_restarts_backwards_in_the_decoder() -> None:
    model = SwinLSTMD(SwinLSTMDConfig(height=32, width=32, embed=8, down=(2, 3), up=(3, 2), heads=(1, 1)))
    rising = [0.1 / 4 * index for index in range(5)]
    assert drop_rates(model.encoder) == pytest.approx(rising, abs=1e-7)
    assert drop_rates(model.decoder) == pytest.approx(rising[::-1], abs=1e-7)
    assert [len(drop_rates(cell)) for cell in model.decoder] == [2, 3]


def test_drop_path_of_b_is_the_same_in_every_block() -> None:
    assert drop_rates(small("swinlstm-b", drop_path=0.3)) == pytest.approx([0.3] * 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("head", ["sigmoid", "linear", "increment"])
def test_every_parameter_receives_a_gradient(name: str, head: str) -> None:
    model = small(name, forcing_channels=2, head=head)
    # A zero head passes no gradient down.
    for parameter in model.get_submodule("inflate").parameters():
        nn.init.normal_(parameter)
    model(days(3), 2, days(4, channels=2)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


def published_takes(grid: Grid, window: int, levels: int) -> bool:
    """Whether the published model runs on a token grid: merging halves it, windows tile every stage, shrunk to it."""
    stages = [(grid[0] / 2**level, grid[1] / 2**level) for level in range(levels + 1)]
    whole = all(size == int(size) and size > 0 for stage in stages for size in stage)
    return whole and all(size % min(window, *stage) == 0 for stage in stages for size in stage)


@pytest.mark.parametrize(("window", "levels"), [(4, 0), (3, 0), (4, 1), (3, 2), (5, 1), (6, 2)])
def test_a_frame_is_padded_to_the_smallest_grid_that_the_published_model_takes(window: int, levels: int) -> None:
    for height, width in [(1, 1), (8, 8), (24, 24), (20, 40), (33, 17), (48, 36), (5, 64), (12, 60)]:
        config: SwinLSTMBConfig | SwinLSTMDConfig = (
            SwinLSTMDConfig(
                height=height, width=width, window=window, down=(1,) * levels, up=(1,) * levels, heads=(1,) * levels
            )
            if levels
            else SwinLSTMBConfig(height=height, width=width, window=window)
        )
        least = (-(-height // 2), -(-width // 2))
        larger = product(*(range(cells, cells + 2**levels * (window + 1)) for cells in least))
        smallest = min(rows * columns for rows, columns in larger if published_takes((rows, columns), window, levels))
        rows, columns = finest_grid(config)
        assert published_takes((rows, columns), window, levels)
        assert rows >= least[0] and columns >= least[1] and rows * columns == smallest


@pytest.mark.parametrize(
    ("size", "window", "windows"),
    [((64, 64), 4, [4, 4, 4]), ((16, 16), 4, [4, 4, 2]), ((24, 24), 6, [6, 6, 3]), ((32, 64), 8, [8, 8, 4])],
)
def test_windows_shrink_on_stages_smaller_than_they_are(size: Grid, window: int, windows: list[int]) -> None:
    config = SwinLSTMDConfig(
        height=size[0], width=size[1], embed=4, down=(2, 2), up=(2, 2), heads=(1, 1), window=window
    )
    assert config.grid(0) == (size[0] // 2, size[1] // 2)
    model = SwinLSTMD(config)
    attentions = [module for module in model.modules() if isinstance(module, WindowAttention)]
    assert [attention.window for attention in attentions[::2]] == [*windows, windows[1]]
    shifted = [bool(attention.shift) for attention in attentions[1::2]]
    assert shifted == [min(config.grid(level)) > window for level in (0, 1, 2, 1)]
    assert model(days(1, batch=1, size=size), 1).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("size", "patch", "channels"), [((20, 40), 2, 1), ((33, 17), 2, 3), ((3, 5), 4, 2), ((1, 1), 1, 1)]
)
def test_frames_of_any_size_and_channels_are_forecast(name: str, size: Grid, patch: int, channels: int) -> None:
    model = small(name, height=size[0], width=size[1], patch=patch, frame_channels=channels)
    output = model(days(3, size=size, channels=channels), 2)
    assert output.shape == (2, 4, channels, *size) and output.isfinite().all()


def cell(shift: int) -> GatedCell:
    """A cell of three blocks whose first norm turns zeros into something that matters."""
    blocks = [
        Block(8, WindowAttention((4, 6), 8, 2, 2, 1.0, shift=shift), mixes=index % 2 == 0, drop_path=0.0)
        for index in range(3)
    ]
    for block in blocks:
        nn.init.normal_(block.norm1.bias)
    return GatedCell(blocks)


@pytest.mark.parametrize("shift", [0, 1])
def test_no_state_equals_a_state_of_zeros(shift: int) -> None:
    gated = cell(shift).double()
    tokens = torch.randn(2, 24, 8, dtype=torch.float64, requires_grad=True)
    wanted = (tokens, *gated.parameters())
    upstream = torch.randn(2, 2, 24, 8, dtype=torch.float64)
    results = []
    for state in (None, (torch.zeros_like(tokens), torch.zeros_like(tokens))):
        output = torch.stack(gated(tokens, state))
        results.append((output, *torch.autograd.grad(output, wanted, upstream)))
    torch.testing.assert_close(*results, atol=1e-12, rtol=1e-10)


def literal_block(block: Block, tokens: Tensor, mix: Tensor | None) -> Tensor:
    """A block whose reduction is the sum of a product with the tokens and one with the second map."""
    attended = block.norm1(tokens)
    if mix is not None:
        assert block.reduction is not None
        own, other = block.reduction.weight.chunk(2, dim=1)
        attended = F.linear(attended, own, block.reduction.bias) + F.linear(block.norm1(mix), other)
    tokens = tokens + block.attention(attended)
    return tokens + block.feed_forward(block.norm2(tokens))


def test_a_cell_has_one_gate_for_input_memory_and_output() -> None:
    gated, (tokens, hidden, memory) = cell(1), torch.randn(3, 2, 24, 8)
    flow = tokens
    for block, mix in zip(gated.blocks, (hidden, None, tokens), strict=True):
        assert isinstance(block, Block)
        flow = literal_block(block, flow, mix)
    gate = torch.sigmoid(flow)
    expected = gate * (memory + torch.tanh(flow))
    torch.testing.assert_close(gated(tokens, (hidden, memory)), (gate * torch.tanh(expected), expected))


@pytest.mark.parametrize("name", NAMES)
def test_stepping_by_hand_gives_the_same_forecast(name: str) -> None:
    model, frames, forcing = small(name, forcing_channels=1), days(2), days(3)
    states, outputs = None, list[Tensor]()
    for index in range(3):
        frame = frames[:, index] if index < 2 else outputs[-1]
        output, states = model.step(frame, forcing[:, index], states)
        outputs.append(output)
    assert torch.equal(torch.stack(outputs, dim=1), model(frames, 2, forcing))


@pytest.mark.parametrize("name", NAMES)
def test_forcing_of_a_step_reaches_that_step_and_no_earlier_one(name: str) -> None:
    model, frames, forcing = small(name, forcing_channels=1), days(3), days(5)
    changed = forcing.clone()
    changed[:, 3] += 1
    difference = (model(frames, 3, changed) - model(frames, 3, forcing)).abs().amax(dim=(0, 2, 3, 4))
    assert torch.equal(difference[:3], torch.zeros(3)) and (difference[3:] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_untrained_increment_head_is_persistence(name: str) -> None:
    frames = 5 * torch.randn(2, 3, 1, *SIZE)
    expected = torch.cat([frames, frames[:, -1:].expand(-1, 3, -1, -1, -1)], dim=1)
    torch.testing.assert_close(small(name, head="increment")(frames, 4), expected)


@pytest.mark.parametrize("name", NAMES)
def test_sigmoid_head_stays_between_zero_and_one(name: str) -> None:
    output = small(name)(10 * torch.randn(2, 3, 1, *SIZE), 2)
    assert output.min() >= 0 and output.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_some_training_steps_learn_a_moving_pattern(name: str) -> None:
    phase = torch.arange(4)[:, None] + torch.tensor([0.0, 3.0])[:, None, None]
    movie = torch.sin(torch.arange(SIZE[1]) * 0.7 - phase)[:, :, None, None, :].expand(-1, -1, 1, SIZE[0], -1)
    model = small(name, head="increment")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(model(movie[:, :3], 1), movie[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_one_sample_does_not_depend_on_the_others(name: str) -> None:
    model, frames = small(name), days(3, batch=3)
    torch.testing.assert_close(model(frames, 2)[1:2], model(frames[1:2], 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_gives_the_same_weights_the_same_dropped_branches_and_the_same_forecast(name: str) -> None:
    frames, outputs = days(3), []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(small(name, drop_path=0.5)(frames, 2))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", NAMES)
def test_dropped_branches_change_a_forecast_in_training_only(name: str) -> None:
    model, frames = small(name, drop_path=0.5), days(3)
    assert not torch.equal(model(frames, 2), model(frames, 2))
    model.eval()
    assert torch.equal(model(frames, 2), model(frames, 2))


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_steps_changes_no_gradient(name: str) -> None:
    frames, gradients = days(3), []
    weights = small(name).state_dict()
    for recompute in (False, True):
        model = small(name, checkpoint_steps=recompute, drop_path=0.5)
        model.load_state_dict(weights)
        torch.manual_seed(1)
        model(frames, 2).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_a_state_dict(name: str) -> None:
    frames, model, other = days(3), small(name), small(name)
    assert not torch.equal(model(frames, 2), other(frames, 2))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(frames, 2), other(frames, 2))
    assert set(model.state_dict()) == {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_products_keep_frames_and_states_in_full_precision(name: str) -> None:
    model, frames = small(name), days(3)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output, states = model.step(frames[:, 0], None, None)
        output, states = model.step(output, None, states)
        forecast = model(frames, 3)
    assert {part.dtype for part in (output, *(part for state in states for part in state))} == {torch.float32}
    torch.testing.assert_close(forecast, model(frames, 3), atol=0.03, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_diverged_input_gives_a_diverged_forecast_instead_of_a_crash(name: str) -> None:
    assert small(name)(torch.full((1, 2, 1, *SIZE), torch.nan), 1).isnan().all()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """No graph of another test is found again, and none is left behind."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_step_is_one_graph_and_gives_the_same_estimate_and_state(name: str) -> None:
    shape = {"swinlstm-b": {"depths": (2,), "heads": (2,)}, "swinlstm-d": {"down": (1,), "up": (1,)}}[name]
    model, frame = small(name, **shape), days(1)[:, 0]
    with torch.no_grad():
        _, state = model.step(frame, None, None)
        compiled = torch.compile(model.step, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(frame, None, state), model.step(frame, None, state), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_model_gives_the_same_forecast(name: str) -> None:
    model, frames = small(name, **TINY[name]).eval(), days(1)
    exported = torch.export.export(model, (frames, 2)).module()
    torch.testing.assert_close(exported(frames, 2), model(frames, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("swinlstm-b", {"heads": (2,)}, "one entry for each of the depths"),
        ("swinlstm-b", {"depths": (), "heads": ()}, "one entry for each of the depths"),
        ("swinlstm-b", {"heads": (2, 3)}, "heads must divide channels"),
        ("swinlstm-d", {"heads": (2, 2)}, "heads needs 1 entries"),
        ("swinlstm-d", {"heads": (3,)}, "heads must divide channels"),
        ("swinlstm-d", {"up": (2, 2)}, "same number of depths"),
        ("swinlstm-d", {"down": (), "up": (), "heads": ()}, "at least 1"),
        ("swinlstm-d", {"groups": (1, 1)}, "groups"),
        ("swinlstm-b", {"window": 0}, "window"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        small(name, **changes)
