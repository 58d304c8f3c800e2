"""The TCTN architecture: its parts against slow literal ones, its laws, and what it refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datlstm.errors import SettingsError
from datlstm.models import build, configure
from datlstm.models.tctn import (
    TCTN,
    WHOLE_CHANNELS,
    WHOLE_KEYS,
    AttentionPast,
    CausalConvolution,
    MapNorm,
    TCTNConfig,
    TemporalAttention,
    WholeDropout,
)

SIZE = (6, 10)
SMALL: dict[str, Any] = {
    "height": SIZE[0],
    "width": SIZE[1],
    "patch": 2,
    "depth": 8,
    "layers": 2,
    "heads": 2,
    "dropout": 0.0,
}
CAUSAL = {"pooled_norm": False, "masks_zero_logits": False}
BEGINNING = AttentionPast(None, None, None, None)


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(7)


def small(**changes: Any) -> TCTN:
    return TCTN(TCTNConfig(**{**SMALL, **changes}))


def days(count: int, *, batch: int = 2, channels: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(batch, count, channels, *size)


def literal_convolution(convolution: CausalConvolution, maps: Tensor) -> Tensor:
    """A convolution of volumes, two zero maps before the first and after the last, the last two outputs removed."""
    kernel = convolution.planar.weight.unflatten(1, (3, -1)).transpose(1, 2)
    output = F.conv3d(maps.transpose(1, 2), kernel, convolution.planar.bias, padding=(2, 1, 1))
    return output[:, :, :-2].transpose(1, 2)


def literal_code(times: int, channels: int) -> Tensor:
    """Half a sine for every even channel, then half a cosine for every odd one."""
    sines = [[torch.tensor(t / 10000 ** (i / channels)).sin() for i in range(0, channels, 2)] for t in range(times)]
    cosines = [
        [torch.tensor(t / 10000 ** ((i - 1) / channels)).cos() for i in range(1, channels, 2)] for t in range(times)
    ]
    return 0.5 * torch.cat([torch.tensor(sines), torch.tensor(cosines)], dim=1)


def literal_attention(attention: TemporalAttention, maps: Tensor) -> Tensor:
    """Attention by the published formulas, one query of one head at one position at a time."""
    samples, times, channels, rows, columns = maps.shape
    code = literal_code(times, channels).to(maps.dtype)[:, :, None, None]
    query, key, value = literal_convolution(attention.qkv, maps).chunk(3, dim=2)
    query, key, width = query + code, key + code, channels // attention.heads
    mixed = torch.zeros_like(maps)
    for b, head, y, x, t in torch.cartesian_prod(
        *map(torch.arange, (samples, attention.heads, rows, columns, times))
    ).tolist():
        part = slice(head * width, (head + 1) * width)
        logits = key[b, :, part, y, x] @ query[b, t, part, y, x] / width**0.5
        seen = (torch.arange(times) <= t).to(maps.dtype)
        masked = seen * logits == 0 if attention.masks_zero_logits else seen == 0
        weights = (seen * logits).masked_fill(masked, -1e9).softmax(0)
        mixed[b, t, part, y, x] = weights @ value[b, :, part, y, x]
    return literal_convolution(attention.output, mixed)


@pytest.mark.parametrize("masks_zero_logits", [False, True])
@pytest.mark.parametrize("zeroed", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_attention_equals_a_loop_over_positions_heads_and_queries(
    heads: int, zeroed: bool, masks_zero_logits: bool
) -> None:
    config = TCTNConfig(**{**SMALL, "heads": heads, "masks_zero_logits": masks_zero_logits})
    attention = TemporalAttention(config).double()
    if zeroed:
        # Position codes alone: the sines of the first time are 0, and so are the logits of its key in the first head.
        for parameter in attention.qkv.parameters():
            with torch.no_grad():
                parameter[: 2 * config.depth] = 0
    maps = torch.randn(2, 4, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    wanted = (maps, *attention.parameters())

    fast, slow = attention(maps, BEGINNING)[0], literal_attention(attention, maps)
    torch.testing.assert_close(fast, slow, atol=1e-7, rtol=0)

    upstream = torch.randn_like(fast)
    gradients = (torch.autograd.grad(output, wanted, upstream) for output in (fast, slow))
    for ours, literal in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, literal, atol=1e-6, rtol=1e-6)


def test_a_zero_logit_is_masked_by_the_quirk_alone() -> None:
    outputs = []
    for masks_zero_logits in (True, False):
        torch.manual_seed(7)
        attention = TemporalAttention(TCTNConfig(**{**SMALL, "masks_zero_logits": masks_zero_logits}))
        with torch.no_grad():
            for parameter in attention.qkv.parameters():
                parameter[: 2 * 8] = 0
        outputs.append(attention(torch.randn(1, 4, 8, 2, 3), BEGINNING)[0])
    assert (outputs[0] - outputs[1]).abs().max() > 0.01


@pytest.mark.parametrize("pooled", [False, True])
def test_map_norm_is_a_group_norm_of_one_group(pooled: bool) -> None:
    norm, maps = MapNorm(6, pooled=pooled), 3 + 2 * torch.randn(2, 4, 6, 3, 5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    if pooled:
        expected = F.group_norm(maps.transpose(1, 2), 1, norm.weight, norm.bias).transpose(1, 2)
    else:
        expected = torch.stack([F.group_norm(day, 1, norm.weight, norm.bias) for day in maps.unbind(1)], dim=1)
    torch.testing.assert_close(norm(maps), expected)


@pytest.mark.parametrize("split", [1, 2, 4])
def test_a_convolution_that_knows_its_past_continues_where_it_stopped(split: int) -> None:
    convolution, maps = CausalConvolution(3, 5), torch.randn(2, 6, 3, 4, 4)
    first, past = convolution(maps[:, :split], None)
    rest, _ = convolution(maps[:, split:], past)
    whole, _ = convolution(maps, None)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)
    torch.testing.assert_close(whole, literal_convolution(convolution, maps))


def whole_rollout(model: TCTN, frames: Tensor, lead_frames: int, forcing: Tensor) -> Tensor:
    """Forecast by decoding the whole sequence anew for every lead."""
    for lead in range(lead_frames):
        end = frames.shape[1]
        estimates = model(frames, 1, forcing[:, :end])
        if lead < lead_frames - 1:
            frames = torch.cat([frames, estimates[:, -1:]], dim=1)
    return estimates


@pytest.mark.parametrize("head", ["linear", "increment"])
@pytest.mark.parametrize("pooled_norm", [False, True])
def test_a_rollout_equals_decoding_the_whole_sequence_for_every_lead(pooled_norm: bool, head: str) -> None:
    model = small(pooled_norm=pooled_norm, head=head, forcing_channels=1).double()
    nn.init.normal_(model.last.weight, std=0.3)
    frames, forcing = days(3).double().requires_grad_(), days(6).double()
    wanted = (frames, *model.parameters())
    outputs = model(frames, 4, forcing), whole_rollout(model, frames, 4, forcing)
    torch.testing.assert_close(*outputs)
    upstream = torch.randn_like(outputs[0])
    torch.testing.assert_close(*(torch.autograd.grad(output, wanted, upstream) for output in outputs))


def frames_read(model: TCTN) -> list[int]:
    """Return how many frames each pass of a forecast of three leads from four frames embeds."""
    passes: list[int] = []
    model.embed.register_forward_pre_hook(lambda module, inputs: passes.append(inputs[0].shape[1]))
    model(days(4), 3)
    return passes


def test_a_causal_forecast_reads_every_frame_once_and_a_pooled_one_reads_all_again() -> None:
    assert frames_read(small(**CAUSAL)) == [4, 1, 1]
    assert frames_read(small()) == [4, 5, 6]


def change_by_a_later_frame(model: TCTN) -> Tensor:
    """Return by how much each estimate moves when the third of five frames does."""
    frames = days(5)
    changed = frames.clone()
    changed[:, 2] += torch.randn(SIZE)
    return (model(changed, 2) - model(frames, 2)).abs().amax(dim=(0, 2, 3, 4))


def test_without_pooled_norms_a_later_frame_changes_no_earlier_estimate() -> None:
    difference = change_by_a_later_frame(small(**CAUSAL))
    assert torch.equal(difference[:2], torch.zeros(2)) and (difference[2:] > 1e-4).all()


def test_pooled_norms_leak_a_later_frame_into_earlier_estimates_as_published() -> None:
    assert (change_by_a_later_frame(small()) > 1e-4).all()


def test_forcing_of_a_step_reaches_that_step_and_no_earlier_one() -> None:
    model, frames, forcing = small(**CAUSAL, forcing_channels=1), days(3), days(5)
    changed = forcing.clone()
    changed[:, 3] += 1
    difference = (model(frames, 3, changed) - model(frames, 3, forcing)).abs().amax(dim=(0, 2, 3, 4))
    assert torch.equal(difference[:3], torch.zeros(3)) and (difference[3:] > 0).all()


def test_patches_are_read_and_written_row_by_row_then_channel_by_channel() -> None:
    model, frames = small(frame_channels=3), days(1, channels=3)
    seen: list[Tensor] = []
    model.embed.wide.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.last.register_forward_hook(lambda module, inputs, output: seen[0])
    assert torch.equal(model(frames, 1), frames)
    for row, column, channel in ((0, 1, 2), (1, 0, 0), (1, 1, 1)):
        expected = frames[:, 0, channel, row::2, column::2]
        assert torch.equal(seen[0][:, (row * 2 + column) * 3 + channel], expected)


def test_the_published_configuration_holds_the_published_live_parameters() -> None:
    with torch.device("meta"):
        model = TCTN(TCTNConfig(height=64, width=64))
    template, positions, second_fine = 4_425_216, 1_280, 409_728
    live = 31_900_032 - template - positions - second_fine
    assert sum(parameter.numel() for parameter in model.parameters()) == live


@pytest.mark.parametrize("preset", ["reference", "operational"])
def test_every_parameter_of_a_preset_receives_a_gradient(preset: Any) -> None:
    small_reference = {"depth": 16, "layers": 2} if preset == "reference" else {}
    model = build("tctn", configure("tctn", preset, height=8, width=8, forcing_channels=2, **small_reference))
    nn.init.normal_(model.get_parameter("last.weight"), std=0.1)
    frames = days(3, size=(8, 8))
    model(frames, 2, days(4, channels=2, size=(8, 8))).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("size", "patch", "channels", "frames", "leads"),
    [((20, 40), 3, 1, 2, 3), ((3, 5), 4, 2, 1, 1), ((1, 1), 1, 3, 4, 2), ((7, 16), 4, 1, 1, 4)],
)
@pytest.mark.parametrize("pooled_norm", [False, True])
def test_frames_of_any_size_number_and_channels_are_forecast(
    size: tuple[int, int], patch: int, channels: int, frames: int, leads: int, pooled_norm: bool
) -> None:
    model = small(height=size[0], width=size[1], patch=patch, frame_channels=channels, pooled_norm=pooled_norm)
    output = model(days(frames, channels=channels, size=size), leads)
    assert output.shape == (2, frames - 1 + leads, channels, *size) and output.isfinite().all()


@pytest.mark.parametrize("pooled_norm", [False, True])
def test_untrained_increment_head_is_persistence(pooled_norm: bool) -> None:
    frames = 5 * days(3)
    output = small(head="increment", pooled_norm=pooled_norm)(frames, 4)
    torch.testing.assert_close(output, torch.cat([frames, frames[:, -1:].expand(-1, 3, -1, -1, -1)], dim=1))


def test_sigmoid_head_stays_between_zero_and_one() -> None:
    output = small(head="sigmoid")(10 * days(3), 2)
    assert output.min() >= 0 and output.max() <= 1


def test_some_training_steps_learn_a_moving_pattern() -> None:
    phase = torch.arange(4)[:, None] + torch.tensor([0.0, 3.0])[:, None, None]
    movie = torch.sin(torch.arange(10) * (2 * torch.pi / 10) - phase)[:, :, None, None, :].expand(-1, -1, 1, 6, -1)
    model = small(**CAUSAL, head="increment")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(model(movie[:, :3], 1), movie[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("pooled_norm", [False, True])
def test_one_sample_does_not_depend_on_the_others(pooled_norm: bool) -> None:
    model, frames = small(pooled_norm=pooled_norm), days(3, batch=3)
    torch.testing.assert_close(model(frames, 2)[1:2], model(frames[1:2], 2), atol=1e-5, rtol=0)


def test_same_seed_gives_the_same_weights_the_same_dropout_and_the_same_forecast() -> None:
    frames, outputs = days(3), []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(small(dropout=0.3)(frames, 2))
    assert torch.equal(*outputs)


def test_weights_survive_a_state_dict() -> None:
    frames, model, other = days(3), small(), small()
    assert not torch.equal(model(frames, 2), other(frames, 2))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(frames, 2), other(frames, 2))
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


# A pooled forecast runs the same pass for every lead; a causal one continues from a past, which is another graph.
@pytest.mark.parametrize(("changes", "leads"), [({}, 1), (CAUSAL, 2)])
def test_a_captured_graph_forecasts_the_same(changes: dict[str, bool], leads: int) -> None:
    model, frames = small(**changes, layers=1).eval(), days(2)
    with torch.no_grad():
        eager = model(frames, leads)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(frames, leads)
    exported = torch.export.export(model, (frames, leads)).module()(frames, leads)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(exported, eager)


@pytest.mark.parametrize("pooled_norm", [False, True])
def test_half_precision_products_keep_estimates_in_full_precision(pooled_norm: bool) -> None:
    model, frames = small(pooled_norm=pooled_norm), days(3)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(frames, 3)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, model(frames, 3), atol=0.05, rtol=0)


def test_a_diverged_input_gives_a_diverged_forecast_instead_of_a_crash() -> None:
    assert small()(torch.full((1, 2, 1, *SIZE), torch.nan), 2).isnan().all()


def test_dropout_takes_a_whole_channel_of_a_sample_in_training_only() -> None:
    maps, dropping = torch.ones(40, 3, 50, 2, 2), WholeDropout(0.25, WHOLE_CHANNELS)
    dropped = dropping(maps)
    assert torch.equal(dropped, dropped[:, :1, :, :1, :1].expand_as(maps))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(dropping.eval()(maps), maps)


def test_dropout_takes_a_key_from_a_head_at_all_positions_and_queries() -> None:
    dropped = WholeDropout(0.5, WHOLE_KEYS)(torch.ones(5, 4, 3, 2, 6))
    assert torch.equal(dropped, dropped[:, :1, :, :1, :].expand_as(dropped))
    assert len(dropped[:, 0, :, 0].unique(dim=0)) == 5


@pytest.mark.parametrize(
    ("frames", "lead_frames", "forcing", "message"),
    [
        (days(3, size=(6, 9)), 2, days(4), r"\(batch, at least 1 frame, 1, 6, 10\)"),
        (days(3), 0, days(2), "lead_frames is 0"),
        (days(3), 2, None, "no forcing"),
        (days(3), 2, days(3), r"4 steps .* take \(2, 4, 1, 6, 10\)"),
    ],
)
def test_inputs_of_another_shape_are_refused(
    frames: Tensor, lead_frames: int, forcing: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(forcing_channels=1)(frames, lead_frames, forcing)


@pytest.mark.parametrize("changes", [{"heads": 3}, {"depth": 9, "heads": 3}])
def test_a_depth_that_heads_and_position_codes_can_not_share_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="it must be even and heads must divide it"):
        build("tctn", {**SMALL, **changes})
