"""The SimVP architecture: its blocks against slow literal ones, its laws, and what it refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datlstm.errors import SettingsError
from datlstm.models import build, configure
from datlstm.models.layers import StochasticDepth
from datlstm.models.simvp import GatedAttention, Norm, SimVP, SimVPConfig, SpatialBlock, TranslatorBlock

SIZE = (6, 10)
SMALL: dict[str, Any] = {
    "height": SIZE[0],
    "width": SIZE[1],
    "input_frames": 3,
    "hidden_spatial": 4,
    "hidden_temporal": 8,
    "temporal_blocks": 3,
    "drop_path": 0.0,
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(7)


def small(**changes: Any) -> SimVP:
    """A model in evaluation: batch norms then know no other sample."""
    return SimVP(SimVPConfig(**{**SMALL, **changes})).eval()


def days(count: int, *, batch: int = 2, channels: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(batch, count, channels, *size)


def literal_depthwise(convolution: nn.Conv2d, maps: Tensor) -> Tensor:
    """Add up the map shifted to every tap of a kernel of its own for each channel."""
    size, dilation = convolution.kernel_size[0], convolution.dilation[0]
    reach = size // 2 * dilation
    padded, (height, width) = F.pad(maps, (reach,) * 4), maps.shape[-2:]
    assert convolution.bias is not None
    output = convolution.bias[:, None, None].expand_as(maps)
    for row in range(size):
        for column in range(size):
            y, x = row * dilation, column * dilation
            tap = convolution.weight[:, 0, row, column, None, None]
            output = output + tap * padded[..., y : y + height, x : x + width]
    return output


def literal_mix(convolution: nn.Conv2d, maps: Tensor) -> Tensor:
    """A convolution of one cell, written as a product of matrices."""
    assert convolution.bias is not None
    mixed = torch.einsum("oc,bchw->bohw", convolution.weight[..., 0, 0], maps)
    return mixed + convolution.bias[:, None, None]


def literal_attention(attention: GatedAttention, maps: Tensor) -> Tensor:
    """P2(sg(b) * a) + z with [a|b] = 1x1(depthwise 7x7 of dilation 3(depthwise 5x5(GELU(P1 z))))."""
    entered = literal_mix(attention.enter, maps)
    entered = entered / 2 * (1 + torch.erf(entered / 2**0.5))
    seen = literal_depthwise(attention.far, literal_depthwise(attention.near, entered))
    both = literal_mix(attention.split, seen)
    channels = maps.shape[1]
    gated = both[:, :channels] / (1 + torch.exp(-both[:, channels:]))
    return literal_mix(attention.leave, gated) + maps


def literal_block(block: TranslatorBlock, maps: Tensor) -> Tensor:
    """A gSTA block in training: every norm over the batch and the map, or over a whole sample."""

    def normed(norm: nn.Module, values: Tensor) -> Tensor:
        pooled = (0, 2, 3) if isinstance(norm, nn.BatchNorm2d) else (1, 2, 3)
        centred = values - values.mean(pooled, keepdim=True)
        scaled = centred / (centred.square().mean(pooled, keepdim=True) + 1e-5).sqrt()
        weight, bias = (parameter[:, None, None] for parameter in norm.parameters())
        return scaled * weight + bias

    maps = maps + block.scale1 * literal_attention(block.attention, normed(block.norm1, maps))
    first, depthwise, _, last = block.feed_forward
    assert isinstance(first, nn.Conv2d) and isinstance(depthwise, nn.Conv2d) and isinstance(last, nn.Conv2d)
    wide = literal_depthwise(depthwise, literal_mix(first, normed(block.norm2, maps)))
    maps = maps + block.scale2 * literal_mix(last, wide / 2 * (1 + torch.erf(wide / 2**0.5)))
    return literal_mix(block.resize, maps) if isinstance(block.resize, nn.Conv2d) else maps


@pytest.mark.parametrize("outputs", [4, 6])
@pytest.mark.parametrize("norm", ["batch", "sample"])
def test_a_translator_block_equals_its_equations(norm: Norm, outputs: int) -> None:
    block = TranslatorBlock(4, outputs, norm, drop_path=0.0).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    maps = torch.randn(3, 4, 5, 7, dtype=torch.float64, requires_grad=True)
    wanted = (maps, *block.parameters())
    fast, slow = block(maps), literal_block(block, maps)
    torch.testing.assert_close(fast, slow)
    upstream = torch.randn_like(fast)
    torch.testing.assert_close(*(torch.autograd.grad(output, wanted, upstream) for output in (fast, slow)))


def test_the_published_configuration_holds_the_published_parameters() -> None:
    with torch.device("meta"):
        model = SimVP(SimVPConfig(height=32, width=64, input_frames=12))
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(12.8, abs=0.05)


def test_every_second_block_halves_the_map_and_the_decoder_mirrors_them() -> None:
    model = small(spatial_blocks=4, height=8, width=12)
    heights: list[int] = []
    for block in (*model.encoder, *model.decoder):
        block.register_forward_hook(lambda module, inputs, output: heights.append(output.shape[-2]))
    model(days(3, size=(8, 12)), 3)
    assert heights == [8, 4, 4, 2, 4, 4, 8, 8]


def test_the_last_block_of_the_decoder_reads_the_first_one_of_the_encoder() -> None:
    model = small()
    first, last = list[Tensor](), list[Tensor]()
    model.encoder[0].register_forward_hook(lambda module, inputs, output: first.append(output))
    model.decoder[0].register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    model.decoder[-1].register_forward_pre_hook(lambda module, inputs: last.append(inputs[0]))
    model(days(3), 3)
    assert torch.equal(first[0], last[0])


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_block_that_doubles_undoes_one_that_halves(kernel: int) -> None:
    maps = torch.randn(2, 4, 6, 10)
    half = SpatialBlock(4, 6, kernel, halves=True)(maps)
    assert half.shape == (2, 6, 3, 5)
    assert SpatialBlock(6, 4, kernel, doubles=True)(half).shape == maps.shape


def test_fewer_leads_are_the_first_of_all_leads() -> None:
    model, frames = small(), days(3)
    torch.testing.assert_close(model(frames, 2), model(frames, 3)[:, :2])


def test_more_leads_than_input_frames_are_forecast_from_the_forecast_with_its_gradient() -> None:
    model = small(forcing_channels=1).double()
    frames, forcing = days(3).double().requires_grad_(), days(9).double()
    first = model(frames, 3, forcing[:, :5])
    second = model(first, 3, forcing[:, 3:8])
    third = model(second, 1, forcing[:, 6:])
    expected = torch.cat([first, second, third], dim=1)
    output = model(frames, 7, forcing)
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(output)
    wanted = (frames, *model.parameters())
    torch.testing.assert_close(*(torch.autograd.grad(values, wanted, upstream) for values in (output, expected)))


def test_only_the_last_input_frames_and_their_forcing_are_read() -> None:
    model, frames, forcing = small(forcing_channels=2), days(5), days(6, channels=2)
    expected = model(frames[:, 2:], 2, forcing[:, 2:])
    frames[:, :2], forcing[:, :2], forcing[:, 5:] = torch.nan, torch.nan, torch.nan
    assert torch.equal(model(frames, 2, forcing), expected)


def test_forcing_of_every_frame_read_reaches_the_forecast() -> None:
    model, frames, forcing = small(forcing_channels=1), days(3), days(4)
    for day in range(3):
        changed = forcing.clone()
        changed[:, day] += torch.randn(SIZE)
        assert (model(frames, 2, changed) - model(frames, 2, forcing)).abs().max() > 1e-6


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 frames; this model reads 3"):
        small()(days(2), 1)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_spatial": 5}, "an even number"),
        ({"spatial_kernel": 2}, "only an odd one"),
        ({"temporal_blocks": 1}, "temporal_blocks"),
        ({"input_frames": 0}, "input_frames"),
    ],
)
def test_a_configuration_that_can_not_be_built_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build("simvp", {**SMALL, **changes})


@pytest.mark.parametrize("preset", ["reference", "operational"])
def test_every_parameter_of_a_preset_receives_a_gradient(preset: Any) -> None:
    narrow = {"hidden_spatial": 4, "hidden_temporal": 8} if preset == "reference" else {}
    options = {"height": 20, "width": 24, "input_frames": 3, "forcing_channels": 2, **narrow}
    model = build("simvp", configure("simvp", preset, **options)).train()
    nn.init.normal_(model.get_parameter("last.weight"), std=0.1)
    frames, forcing = days(3, batch=4, size=(20, 24)), days(4, batch=4, channels=2, size=(20, 24))
    # One block in ten is dropped at most: of four samples and some tries one is always kept.
    for _ in range(2):
        model(frames, 2, forcing).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("size", "patch", "blocks", "channels", "leads"),
    [((20, 40), 3, 2, 1, 3), ((3, 5), 2, 4, 2, 1), ((1, 1), 1, 1, 3, 2), ((7, 16), 1, 3, 1, 8)],
)
def test_frames_of_any_size_and_channels_are_forecast_to_any_lead(
    size: tuple[int, int], patch: int, blocks: int, channels: int, leads: int
) -> None:
    model = small(height=size[0], width=size[1], patch=patch, spatial_blocks=blocks, frame_channels=channels)
    output = model(days(4, channels=channels, size=size), leads)
    assert output.shape == (2, leads, channels, *size) and output.isfinite().all()


def test_untrained_increment_head_is_persistence() -> None:
    frames = 5 * days(4)
    assert torch.equal(small(head="increment")(frames, 5), frames[:, -1:].expand(-1, 5, -1, -1, -1))


def test_increments_are_added_to_the_newest_frame_at_every_lead() -> None:
    model, frames = small(head="increment"), days(3)
    nn.init.ones_(model.get_parameter("last.bias"))
    expected = torch.cat([frames[:, -1:] + 1, frames[:, -1:] + 2], dim=1)[:, [0, 0, 0, 1]]
    torch.testing.assert_close(model(frames, 4), expected)


def test_sigmoid_head_stays_between_zero_and_one() -> None:
    output = small(head="sigmoid")(10 * days(3), 2)
    assert output.min() >= 0 and output.max() <= 1


def test_some_training_steps_learn_a_moving_pattern() -> None:
    phase = torch.arange(6)[:, None] + torch.tensor([0.0, 3.0])[:, None, None]
    movie = torch.sin(torch.arange(10) * (2 * torch.pi / 10) - phase)[:, :, None, None, :].expand(-1, -1, 1, 6, -1)
    model = small(head="increment", norm="sample").train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(model(movie[:, :3], 3), movie[:, 3:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("norm", "independent"), [("sample", True), ("batch", False)])
def test_in_training_a_sample_depends_on_the_others_through_batch_norms_alone(norm: Norm, independent: bool) -> None:
    model, frames = small(norm=norm).train(), days(3, batch=3)
    for block in model.translator:
        nn.init.ones_(block.get_parameter("scale1"))
    difference = (model(frames, 2)[1:2] - model(frames[1:2], 2)).abs().max()
    assert bool(difference < 1e-5) is independent


def test_a_sample_that_drops_a_branch_keeps_its_input_whole() -> None:
    block = TranslatorBlock(4, 4, "sample", drop_path=0.5)
    for scale in (block.scale1, block.scale2):
        nn.init.ones_(scale)
    maps = torch.randn(64, 4, 5, 7)
    changed = (block(maps) - maps).flatten(1) != 0
    assert torch.equal(changed.any(1), changed.float().mean(1) > 0.9)
    assert 0.1 < (~changed.any(1)).float().mean() < 0.4


def test_stochastic_depth_rises_through_the_translator() -> None:
    modules = small(temporal_blocks=5, drop_path=0.2).translator.modules()
    rates = [1 - float(module.kept_share) for module in modules if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.05, 0.1, 0.15, 0.2])


def test_same_seed_gives_the_same_weights_and_the_same_forecast() -> None:
    frames, outputs = days(3), []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(small(drop_path=0.3).train()(frames, 2))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("norm", ["batch", "sample"])
def test_weights_and_running_statistics_survive_a_state_dict(norm: Norm) -> None:
    frames, model, other = days(3), small(norm=norm), small(norm=norm)
    model.train()(5 + frames, 2)
    other.load_state_dict(model.eval().state_dict())
    assert torch.equal(model(frames, 2), other(frames, 2))


def test_norms_over_a_sample_leave_nothing_but_parameters_to_average() -> None:
    model = small(norm="sample")
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_a_captured_graph_forecasts_the_same() -> None:
    model, frames = small(input_frames=1, temporal_blocks=2), days(1)
    with torch.no_grad():
        eager = model(frames, 2)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(frames, 2)
    exported = torch.export.export(model, (frames, 2)).module()(frames, 2)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(exported, eager)


@pytest.mark.parametrize("norm", ["batch", "sample"])
def test_half_precision_products_keep_estimates_in_full_precision(norm: Norm) -> None:
    model, frames = small(norm=norm), days(3)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(frames, 4)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, model(frames, 4), atol=0.05, rtol=0)


def test_a_diverged_input_gives_a_diverged_forecast_instead_of_a_crash() -> None:
    assert small()(torch.full((1, 3, 1, *SIZE), torch.nan), 2).isnan().all()
