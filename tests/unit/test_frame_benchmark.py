"""Training and scoring architectures on frame sequences: the budget, the array file, the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from datlstm.comparison.cli import app
from datlstm.comparison.frame_scores import score
from datlstm.comparison.frame_training import (
    COPY,
    Budget,
    FrameModule,
    compare,
    copy_last_frame,
    forecasts,
    network_config,
    train_and_score,
)
from datlstm.comparison.moving_mnist import MovingMnist, stand_in_digits
from datlstm.comparison.sequences import ArraySequences, FrameTask, load_task
from datlstm.errors import SettingsError
from datlstm.models import ARCHITECTURES, build

RECURRENT = next(name for name, found in ARCHITECTURES.items() if "input_frames" not in found.config.model_fields)
TWO_STEPS = {"steps": 2, "batch_size": 2, "accelerator": "cpu"}


def task(channels: int = 1, sequences: int = 5, frames: int = 5) -> FrameTask:
    """Small squares of noise that brighten from frame to frame; three frames are given."""
    noise = np.random.default_rng(0).random((sequences, 1, channels, 16, 16), dtype=np.float32)
    brightness = np.linspace(0.2, 1.0, frames, dtype=np.float32)[:, None, None, None]
    arrays = ArraySequences(noise * brightness)
    return FrameTask("noise", arrays, arrays, input_frames=3)


def data_file(folder: Path, **arrays: np.ndarray) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (6, 5, 1, 16, 16), dtype=np.uint8)
    path = folder / "taxi.npz"
    np.savez(path, **{"train": values[:3], "validation": values[3:5], "test": values[5:], **arrays})
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_architecture_takes_the_frames_of_a_task(name: str, channels: int) -> None:
    wanted = task(channels)
    network = build(name, network_config(name, "operational", wanted))
    (batch,) = forecasts(network, wanted, 8, torch.device("cpu"))
    assert [part.shape for part in batch] == [(5, 2, channels, 16, 16)] * 2


def test_the_copy_of_the_last_frame_repeats_the_newest_input() -> None:
    row = copy_last_frame(task(), Budget(**TWO_STEPS))
    frames = np.stack([task().scored[i].numpy() for i in range(5)])
    assert row.model == COPY
    assert row.scores == score([(np.repeat(frames[:, 2:3], 2, axis=1), frames[:, 3:])])


def test_training_learns_to_move_digits_better_than_a_copy() -> None:
    digits = stand_in_digits()[:, 4:24:3, 4:24:3]
    moving = FrameTask(
        "moving",
        MovingMnist(digits, "train", 1000, side=16, frames=6),
        MovingMnist(digits, "test", 20, side=16, frames=6),
        input_frames=3,
    )
    budget = Budget(steps=15, batch_size=4, learning_rate=5e-3, accelerator="cpu")
    row = train_and_score(RECURRENT, "operational", moving, budget)
    assert row.scores.mse < 0.85 * copy_last_frame(moving, budget).scores.mse


@pytest.mark.parametrize("estimated", [2, 4])
def test_the_loss_compares_estimates_with_the_last_frames_however_many_they_are(estimated: int) -> None:
    frames = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(2, 5, 1, 8, 8)

    class OneTooHigh(torch.nn.Module):
        def forward(self, given: torch.Tensor, lead_frames: int) -> torch.Tensor:
            assert (given.shape[1], lead_frames) == (3, 2)
            return frames[:, -estimated:] + 1

    assert FrameModule(OneTooHigh(), 3, 1e-3).training_step(frames, 0).item() == 1


def test_equal_budgets_give_equal_rows_and_another_seed_another() -> None:
    def scores(seed: int) -> Any:
        return train_and_score(RECURRENT, "operational", task(), Budget(**TWO_STEPS, seed=seed)).scores

    assert scores(0) == scores(0) != scores(1)


def test_training_ends_after_the_stated_steps_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = train_and_score(RECURRENT, "operational", task(), Budget(**TWO_STEPS))
    parameters = build(RECURRENT, network_config(RECURRENT, "operational", task())).parameters()
    assert (row.steps, row.parameters) == (2, sum(parameter.numel() for parameter in parameters))
    assert not list(tmp_path.iterdir())


def test_training_ends_after_the_stated_minutes() -> None:
    row = train_and_score(RECURRENT, "operational", task(), Budget(minutes=0.005, batch_size=2, accelerator="cpu"))
    assert row.steps > 0
    assert row.minutes < 0.1


def test_a_budget_without_an_end_or_out_of_range_is_refused() -> None:
    with pytest.raises(SettingsError, match="give --steps, --minutes or both"):
        Budget.of(batch_size=4)
    with pytest.raises(SettingsError, match="learning_rate"):
        Budget.of(steps=1, learning_rate=0.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_an_accelerator_that_is_not_there_is_refused() -> None:
    budget = Budget(steps=1, accelerator="gpu")
    with pytest.raises(SettingsError, match="choose --accelerator cpu"):
        train_and_score(RECURRENT, "operational", task(), budget)


def test_an_architecture_that_does_not_exist_is_refused_before_any_is_trained() -> None:
    with pytest.raises(SettingsError, match="no architecture 'elman'"):
        next(compare(task(), [RECURRENT, "elman"], "operational", Budget(**TWO_STEPS)))


def test_splits_of_an_array_file_come_back_as_frames_in_0_to_1(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((2, 7, 3, 8, 9), dtype=np.float32)
    codes = np.arange(2 * 5 * 3 * 8 * 9).astype(np.uint8).reshape(2, 5, 3, 8, 9)
    loaded = load_task(data_file(tmp_path, train=codes, validation=values), 4, "validation")
    assert loaded.frame_shape == (3, 8, 9)
    np.testing.assert_allclose(loaded.train[1].numpy(), codes[1] / 255, rtol=1e-6)
    np.testing.assert_array_equal(loaded.scored[1].numpy(), values[1])


def test_an_array_file_needs_no_validation_to_be_scored_on_test(tmp_path: Path) -> None:
    path = tmp_path / "kth.npz"
    values = np.zeros((1, 5, 1, 8, 8), np.uint8)
    np.savez(path, train=values, test=values)
    assert len(load_task(path, 3).scored) == 1
    with pytest.raises(SettingsError, match="no array validation; the file holds"):
        load_task(path, 3, "validation")


GOOD = np.zeros((2, 5, 1, 16, 16), np.float32)
BAD_TESTS = {
    "four dimensions": (GOOD[:, :, 0], "has shape"),
    "no sequence": (GOOD[:0], "has shape"),
    "doubles": (GOOD.astype(float), "convert it to float32"),
    "missing values": (np.where(np.arange(16) == 3, np.float32(np.nan), GOOD), "fill what is missing"),
    "bytes as floats": (GOOD + np.float32(255), "scale it to 0 … 1"),
    "nothing to forecast": (GOOD[:, :3], "leave at least one to forecast"),
    "too small for SSIM": (GOOD[..., :6], "are the fewest"),
    "other frames than in training": (GOOD[..., :12], "give both the same"),
    "objects": (np.array([None, 1]), "can't be read as an NPZ file"),
}


@pytest.mark.parametrize(("array", "message"), BAD_TESTS.values(), ids=BAD_TESTS)
def test_an_array_that_does_not_fit_the_format_is_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        load_task(data_file(tmp_path, test=array), 3)


def test_a_file_that_is_no_array_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frames.npz"
    with pytest.raises(SettingsError, match="can't be read as an NPZ file"):
        load_task(path, 3)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(SettingsError, match="can't be read as an NPZ file"):
        load_task(path, 3)
    with path.open("wb") as file:
        np.save(file, GOOD)
    with pytest.raises(SettingsError, match="can't be read as an NPZ file"):
        load_task(path, 3)


def test_frames_are_compared_from_the_command_line_and_written_as_json(tmp_path: Path) -> None:
    output = tmp_path / "rows.json"
    result = run(
        "frames", data_file(tmp_path), "--input-frames", 3, "--model", RECURRENT, "--steps", 2,
        "--batch-size", 2, "--accelerator", "cpu", "--output", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    written = json.loads(output.read_text())
    assert [row["model"] for row in written["rows"]] == [COPY, RECURRENT]
    assert [row["steps"] for row in written["rows"]] == [0, 2]
    assert written["budget"]["batch_size"] == 2
    assert f"{written['rows'][1]['scores']['mse']:.2f}" in result.stdout


def test_moving_digits_are_compared_from_the_command_line_and_say_that_they_stand_in(tmp_path: Path) -> None:
    output = tmp_path / "rows.md"
    result = run(
        "moving-mnist", "--model", RECURRENT, "--steps", 1, "--batch-size", 1, "--test-size", 1,
        "--accelerator", "cpu", "--output", output,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for text in (result.stdout, output.read_text()):
        assert "not comparable with published numbers" in text
        assert RECURRENT in text and "SSIM" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("moving-mnist",), "give --steps, --minutes or both"),
        (("moving-mnist", "--steps", 1, "--output", "rows.csv"), "name a .json or .md file"),
        (("moving-mnist", "--steps", 1, "--output", "absent/rows.md"), "make its folder first"),
        (("moving-mnist", "--steps", 1, "--digits", "absent"), "train-images-idx3-ubyte.gz"),
        (("frames", "absent.npz", "--input-frames", 3, "--steps", 1), "the file holds arrays 'train', 'test'"),
    ],
)
def test_a_refusal_is_one_message_and_an_exit_code(arguments: tuple[Any, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
