"""The DatLSTM architecture: its attention against a slow literal one, its laws, and what it refuses."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datlstm.errors import SettingsError
from datlstm.models import build
from datlstm.models.datlstm import DatLSTM, DatLSTMConfig, DeformableAttention, DisplacementBias
from datlstm.models.encoder_decoder import Stage
from datlstm.models.layers import PatchInflate, StochasticDepth

SMALL: dict[str, Any] = {
    "height": 12,
    "width": 18,
    "embed": 8,
    "down": (3,),
    "up": (2,),
    "heads": (2, 4),
    "groups": (1, 2),
    "window": 3,
    "drop_path": 0.0,
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(7)


def small(**changes: Any) -> DatLSTM:
    return DatLSTM(DatLSTMConfig(**{**SMALL, **changes}))


def days(count: int, *, batch: int = 2, channels: int = 1, size: tuple[int, int] = (12, 18)) -> Tensor:
    return torch.rand(batch, count, channels, *size)


def deformable(grid: tuple[int, int], heads: int, groups: int, **options: Any) -> DeformableAttention:
    config = DatLSTMConfig(**{**SMALL, "embed": 16, "heads": (heads, 1), "groups": (groups, 1), **options})
    return DeformableAttention(Stage(0, grid, 16, heads, []), config)


def literal_positions(attention: DeformableAttention, query: Tensor, centred: bool) -> Tensor:
    """Key positions ``(B, G, hk, wk, 2)`` by the published formulas, one group at a time."""
    rows, columns = attention.grid
    image = query.mT.unflatten(2, (rows, columns))
    found = []
    for part in image.chunk(attention.groups, dim=1):
        local = attention.offset_convolution(part).permute(0, 2, 3, 1)
        offset = attention.offset(F.gelu(attention.offset_norm(local)))
        key_rows, key_columns = offset.shape[1:3]
        spacing = torch.tensor([key_rows - 1, key_columns - 1], dtype=query.dtype)
        extent = torch.tensor([key_rows, key_columns]) if centred else spacing
        y, x = torch.meshgrid(torch.arange(key_rows), torch.arange(key_columns), indexing="ij")
        reference = 2 * (torch.stack([y, x], dim=-1) + 0.5) / extent - 1
        if attention.offset_range >= 0:
            found.append(torch.tanh(offset) * attention.offset_range / spacing + reference)
        else:
            found.append((offset + reference).clamp(-1, 1))
    return torch.stack(found, dim=1)


def literal_attention(attention: DeformableAttention, tokens: Tensor, centred: bool) -> Tensor:
    """Deformable attention that forms the displacement of every query from every key and reads the table there."""
    rows, columns = attention.grid
    query = attention.query(tokens)
    positions = literal_positions(attention, query, centred)
    image = tokens.mT.unflatten(2, (rows, columns))
    sampled = torch.cat(
        [
            F.grid_sample(part, positions[:, group].flip(-1), align_corners=True).flatten(2)
            for group, part in enumerate(image.chunk(attention.groups, dim=1))
        ],
        dim=1,
    ).mT
    keys, values = attention.key_value(sampled).chunk(2, dim=-1)
    places = torch.stack(
        torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij"), dim=-1
    ).reshape(-1, 1, 2)
    width = tokens.shape[-1] // attention.heads
    mixed = []
    for head in range(attention.heads):
        group = head * attention.groups // attention.heads
        displacement = (places.to(tokens) - positions[:, group].flatten(1, 2).unsqueeze(1)) / 2
        table = attention.relative_bias.table[head].expand(len(tokens), 1, -1, -1)
        bias = F.grid_sample(table, displacement.flip(-1), align_corners=True)[:, 0]
        channels = slice(head * width, (head + 1) * width)
        logits = query[..., channels] @ keys[..., channels].mT / width**0.5 + bias
        mixed.append(logits.softmax(-1) @ values[..., channels])
    return attention.output(torch.cat(mixed, dim=-1))


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("offset_range", [2.0, 0.5, -1.0])
@pytest.mark.parametrize(("grid", "heads", "groups"), [((6, 6), 2, 1), ((3, 9), 4, 4), ((10, 5), 4, 2), ((7, 4), 2, 2)])
def test_deformable_attention_equals_reading_the_bias_of_every_pair(
    grid: tuple[int, int], heads: int, groups: int, offset_range: float, centred: bool
) -> None:
    attention = deformable(grid, heads, groups, offset_range=offset_range, uncentred_keys=not centred).double()
    nn.init.normal_(attention.relative_bias.table)
    nn.init.normal_(attention.offset.weight, std=2)
    tokens = torch.randn(3, grid[0] * grid[1], 16, dtype=torch.float64, requires_grad=True)
    wanted = (tokens, *attention.parameters())

    fast, slow = attention(tokens), literal_attention(attention, tokens, centred)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=0)

    upstream = torch.randn_like(fast)
    gradients = (torch.autograd.grad(output, wanted, upstream) for output in (fast, slow))
    for ours, literal in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, literal, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads_per_group", [1, 2])
@pytest.mark.parametrize(("grid", "reach"), [((5, 5), (0.5, 0.5)), ((3, 8), (1.5, 0.2)), ((6, 2), (0.4, 3.0))])
def test_the_bias_is_read_bilinearly_with_and_without_a_gradient(
    grid: tuple[int, int], reach: tuple[float, float], heads_per_group: int
) -> None:
    bias = DisplacementBias(grid, 2 * heads_per_group, 2, reach).double()
    nn.init.normal_(bias.table)
    extent = torch.tensor([1 + beyond for beyond in reach], dtype=torch.float64)
    positions = (2 * torch.rand(3, 2, 7, 2, dtype=torch.float64) - 1) * extent
    positions[:, :, 0], positions[:, :, 1] = extent, -extent

    lines = (torch.linspace(-1, 1, size, dtype=torch.float64) for size in grid)
    displacement = (torch.cartesian_prod(*lines)[:, None] - positions.unsqueeze(2)).flip(-1) / 2
    expected = torch.stack(
        [
            F.grid_sample(
                table.expand(3, 1, -1, -1), displacement[:, head // heads_per_group], align_corners=True
            ).squeeze(1)
            for head, table in enumerate(bias.table)
        ],
        dim=1,
    )
    torch.testing.assert_close(bias(positions), expected, atol=1e-10, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(bias(positions), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("offset_range", [2.0, -1.0])
def test_a_forecast_is_the_same_with_and_without_a_gradient(offset_range: float) -> None:
    model, frames = small(offset_range=offset_range), days(3, batch=3)
    for block in model.modules():
        if isinstance(block, DeformableAttention):
            nn.init.normal_(block.relative_bias.table)
            nn.init.normal_(block.offset.weight)
    with torch.no_grad():
        forecast = model(frames, 2)
    torch.testing.assert_close(forecast, model(frames, 2), atol=1e-6, rtol=0)


def test_centred_keys_without_offset_lie_symmetrically_on_the_map() -> None:
    attention = deformable((6, 8), 2, 1, uncentred_keys=False)
    nn.init.zeros_(attention.offset.weight)
    positions = attention.key_positions(torch.randn(1, 48, 16))
    torch.testing.assert_close(positions.mean(dim=2), torch.zeros(1, 1, 2))
    assert positions.abs().max() < 1


@pytest.mark.parametrize(("patch", "frame_channels"), [(1, 1), (2, 3), (4, 1)])
def test_patch_inflate_is_a_transposed_convolution(patch: int, frame_channels: int) -> None:
    inflate = PatchInflate((3, 5), patch, 6, frame_channels)
    tokens = torch.randn(2, 15, 6)
    expected = inflate.convolution(tokens.mT.unflatten(2, (3, 5)))
    assert expected.shape == (2, frame_channels, 3 * patch, 5 * patch)
    torch.testing.assert_close(inflate(tokens), expected)


def test_the_published_configuration_holds_the_published_live_parameters() -> None:
    with torch.device("meta"):
        model = DatLSTM(DatLSTMConfig(height=64, width=64))
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_730_833 - 6_814_024


def test_every_parameter_receives_a_gradient() -> None:
    model = small(forcing_channels=2)
    model(days(3), 2, days(4, channels=2)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("size", "patch", "finest"),
    [((20, 40), 2, (12, 24)), ((33, 17), 2, (18, 12)), ((3, 5), 4, (6, 6)), ((24, 36), 2, (12, 18))],
)
def test_frames_of_any_size_are_padded_to_whole_windows_and_cropped_back(
    size: tuple[int, int], patch: int, finest: tuple[int, int]
) -> None:
    model = small(height=size[0], width=size[1], patch=patch)
    output = model(days(3, size=size), 2)
    assert model.config.grid(0) == finest
    assert output.shape == (2, 4, 1, *size) and output.isfinite().all()


def test_every_stage_is_large_enough_for_two_keys() -> None:
    config = DatLSTMConfig(**{**SMALL, "height": 1, "width": 1, "window": 2})
    assert config.grid(1) == (4, 4)


def test_untrained_increment_head_is_persistence() -> None:
    frames = 5 * torch.randn(2, 3, 1, 12, 18)
    output = small(head="increment")(frames, 4)
    torch.testing.assert_close(output, torch.cat([frames, frames[:, -1:].expand(-1, 3, -1, -1, -1)], dim=1))


def test_sigmoid_head_stays_between_zero_and_one() -> None:
    output = small()(10 * torch.randn(2, 3, 1, 12, 18), 2)
    assert output.min() >= 0 and output.max() <= 1


def test_some_training_steps_learn_a_moving_pattern() -> None:
    x = torch.arange(18) * (2 * torch.pi / 9)
    phase = torch.arange(4)[:, None] + torch.tensor([0.0, 3.0])[:, None, None]
    movie = torch.sin(x - phase)[:, :, None, None, :].expand(-1, -1, 1, 12, -1)
    model = small(head="increment")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(model(movie[:, :3], 1), movie[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_one_sample_does_not_depend_on_the_others() -> None:
    model = small().eval()
    frames = days(3, batch=3)
    torch.testing.assert_close(model(frames, 2)[1:2], model(frames[1:2], 2), atol=1e-6, rtol=0)


def test_same_seed_gives_the_same_weights_and_the_same_forecast() -> None:
    frames = days(3)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(small().eval()(frames, 2))
    assert torch.equal(*outputs)


def test_weights_survive_a_state_dict() -> None:
    frames, model, other = days(3), small(), small()
    assert not torch.equal(model(frames, 2), other(frames, 2))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(frames, 2), other(frames, 2))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_stepping_by_hand_gives_the_same_forecast() -> None:
    model, frames, forcing = small(forcing_channels=1), days(2), days(3)
    states, outputs = None, list[Tensor]()
    for index in range(3):
        frame = frames[:, index] if index < 2 else outputs[-1]
        output, states = model.step(frame, forcing[:, index], states)
        outputs.append(output)
    assert torch.equal(torch.stack(outputs, dim=1), model(frames, 2, forcing))


def test_forcing_of_a_step_reaches_that_step_and_no_earlier_one() -> None:
    model, frames, forcing = small(forcing_channels=1).eval(), days(3), days(5)
    changed = forcing.clone()
    changed[:, 3] += 1
    difference = (model(frames, 3, changed) - model(frames, 3, forcing)).abs().amax(dim=(0, 2, 3, 4))
    assert torch.equal(difference[:3], torch.zeros(3)) and (difference[3:] > 0).all()


def test_recomputing_steps_changes_no_gradient() -> None:
    frames, gradients = days(3), []
    weights = small().state_dict()
    for recompute in (False, True):
        model = small(checkpoint_steps=recompute, drop_path=0.5)
        model.load_state_dict(weights)
        torch.manual_seed(1)
        model(frames, 2).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_half_precision_products_keep_frames_and_states_in_full_precision() -> None:
    model, frames = small().eval(), days(3)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output, (states, *_) = model.step(frames[:, 0], None, None)
        forecast = model(frames, 3)
    assert {output.dtype, states[0].dtype, states[1].dtype} == {torch.float32}
    torch.testing.assert_close(forecast, model(frames, 3), atol=0.03, rtol=0)


def test_a_diverged_input_gives_a_diverged_forecast_instead_of_a_crash() -> None:
    for gradient in (torch.enable_grad(), torch.no_grad()):
        with gradient:
            assert small()(torch.full((1, 2, 1, 12, 18), torch.nan), 1).isnan().all()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """No graph of another test is found again, and none is left behind."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("gradient", [torch.enable_grad(), torch.no_grad()], ids=["training", "forecasting"])
def test_a_compiled_step_is_one_graph_and_gives_the_same_estimate_and_state(
    gradient: AbstractContextManager[None],
) -> None:
    model, frame = small(down=(2,), up=(1,)), days(1)[:, 0]
    with torch.no_grad():
        _, state = model.step(frame, None, None)
    with gradient:
        compiled = torch.compile(model.step, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(frame, None, state), model.step(frame, None, state), atol=1e-6, rtol=0)


@pytest.mark.parametrize("gradient", [torch.enable_grad(), torch.no_grad()], ids=["training", "forecasting"])
def test_an_exported_model_gives_the_same_forecast(gradient: AbstractContextManager[None]) -> None:
    model, frames = small(down=(2,), up=(1,)).eval(), days(1)
    with gradient:
        exported = torch.export.export(model, (frames, 2)).module()
        torch.testing.assert_close(exported(frames, 2), model(frames, 2), atol=1e-6, rtol=0)


def test_stochastic_depth_drops_whole_samples_in_training_only() -> None:
    branch = torch.ones(4000, 3, 2)
    dropping = StochasticDepth(0.25)
    values = dropping(branch).flatten(1)
    assert torch.equal(values.amin(1), values.amax(1))
    assert values.unique().tolist() == pytest.approx([0, 4 / 3])
    assert values.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(dropping.eval()(branch), branch)


def test_drop_path_rises_through_the_encoder_and_restarts_backwards_in_the_decoder() -> None:
    config = DatLSTMConfig(height=64, width=64)
    encoder, decoder = (
        [stage.drop_rates for stage in side] for side in (config.encoder_stages(), config.decoder_stages())
    )
    seventh = 0.1 / 7
    assert sum(encoder, []) == pytest.approx([seventh * index for index in range(8)])
    assert [len(rates) for rates in decoder] == [2, 6]
    assert sum(decoder, []) == pytest.approx([seventh * index for index in range(7, -1, -1)])


def test_encoder_and_decoder_stages_have_the_published_sizes() -> None:
    config = DatLSTMConfig(height=64, width=64)
    stages = (*config.encoder_stages(), *config.decoder_stages())
    sizes = [(*stage[1:4], config.groups[stage.position]) for stage in stages]
    assert sizes == [((32, 32), 128, 4, 2), ((16, 16), 256, 8, 4), ((8, 8), 512, 16, 8), ((16, 16), 256, 8, 4)]


@pytest.mark.parametrize(
    ("frames", "lead_frames", "forcing", "message"),
    [
        (torch.zeros(2, 3, 1, 12, 17), 2, torch.zeros(2, 4, 1, 12, 18), r"\(batch, at least 1 frame, 1, 12, 18\)"),
        (torch.zeros(2, 3, 12, 18), 2, torch.zeros(2, 4, 1, 12, 18), "frames have shape"),
        (torch.zeros(2, 0, 1, 12, 18), 2, torch.zeros(2, 1, 1, 12, 18), "at least 1 frame"),
        (torch.zeros(2, 3, 1, 12, 18), 0, torch.zeros(2, 2, 1, 12, 18), "lead_frames is 0"),
        (torch.zeros(2, 3, 1, 12, 18), 2, None, "no forcing"),
        (torch.zeros(2, 3, 1, 12, 18), 2, torch.zeros(2, 3, 1, 12, 18), r"4 steps .* take \(2, 4, 1, 12, 18\)"),
    ],
)
def test_inputs_of_another_shape_are_refused(
    frames: Tensor, lead_frames: int, forcing: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(forcing_channels=1)(frames, lead_frames, forcing)


def test_forcing_that_the_model_has_no_channels_for_is_refused() -> None:
    with pytest.raises(ValueError, match="forcing of shape"):
        small()(days(2), 1, days(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"up": (2, 2)}, "same number of depths"),
        ({"down": (), "up": ()}, "at least 1"),
        ({"heads": (2,)}, "heads needs 2 entries"),
        ({"groups": (1, 1, 1)}, "groups needs 2 entries"),
        ({"heads": (3, 4)}, "heads must divide channels"),
        ({"groups": (1, 3)}, "groups must divide heads"),
        ({"heed": 3}, "heed"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build("datlstm", {**SMALL, **changes})


def test_build_makes_the_named_architecture() -> None:
    assert isinstance(build("datlstm", SMALL), DatLSTM)


def test_an_unknown_architecture_is_refused_with_the_known_names() -> None:
    with pytest.raises(SettingsError, match="no architecture 'nonsense'.*datlstm"):
        build("nonsense", SMALL)
