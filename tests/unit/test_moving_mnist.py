"""Moving MNIST: what moves, what is drawn, and the files digits and sequences come from."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from datlstm.comparison.moving_mnist import (
    STAND_IN,
    MovingMnist,
    moving_mnist_task,
    read_digits,
    read_test_sequences,
    stand_in_digits,
)
from datlstm.errors import SettingsError

DIGITS = np.random.default_rng(5).integers(0, 256, (30, 28, 28), dtype=np.uint8)
MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz"


def idx(digits: np.ndarray, magic: int = 2051) -> bytes:
    return np.array([magic, *digits.shape], ">i4").tobytes() + digits.tobytes()


def solid(count: int, brightness: float = 1.0) -> np.ndarray:
    return np.full((count, 4, 4), brightness, np.float32)


def corners(sequence: torch.Tensor) -> np.ndarray:
    """First and last lit row and column ``(frames, 4)``: where two solid digits reach to."""
    lit = sequence[:, 0] > 0
    rows, columns = lit.any(dim=2).float(), lit.any(dim=1).float()
    ends = [part.argmax(dim=1) for part in (rows, rows.flip(1), columns, columns.flip(1))]
    return torch.stack(ends, dim=1).numpy()


def test_a_sequence_depends_on_seed_split_and_number_and_on_nothing_else() -> None:
    sequences = MovingMnist(DIGITS, "train", 50, seed=3)
    backwards = [sequences[i] for i in (9, 4, 0)]
    again = [MovingMnist(DIGITS, "train", 10, seed=3)[i] for i in (9, 4, 0)]
    assert all(torch.equal(a, b) for a, b in zip(backwards, again, strict=True))
    for other in (sequences[5], MovingMnist(DIGITS, "test", 50, seed=3)[4], MovingMnist(DIGITS, "train", 50)[4]):
        assert not torch.equal(other, sequences[4])


def test_a_sequence_has_twenty_frames_of_64_cells_in_0_to_1() -> None:
    sequence = MovingMnist(DIGITS, "train", 1)[0]
    assert sequence.shape == (20, 1, 64, 64)
    assert sequence.dtype == torch.float32
    assert 0 == sequence.min() < sequence.max() <= 1


def test_the_digits_of_the_test_split_never_move_in_training() -> None:
    digits = solid(20, 0.25)
    digits[18:] = 0.75
    train, test = (MovingMnist(digits, split, 20, side=16, frames=2) for split in ("train", "test"))
    assert {train[i].max().item() for i in range(20)} == {0.25}
    assert {test[i].max().item() for i in range(20)} == {0.75}


def test_the_brighter_digit_shows_where_two_overlap() -> None:
    digits = np.concatenate([solid(10, 0.4), solid(10, 0.8)])
    sequences = MovingMnist(digits, "train", 40, side=6, frames=8)
    values = torch.cat([sequences[i] for i in range(40)]).unique()
    assert values.tolist() == pytest.approx([0.0, 0.4, 0.8])


def test_digits_keep_their_speed_and_turn_back_at_the_edges() -> None:
    sequences = MovingMnist(solid(20), "train", 30, side=64, frames=60)
    touched = set()
    for number in range(30):
        ends = corners(sequences[number])
        # A tenth of the room of 60 cells, and one for the rounding.
        assert np.abs(np.diff(ends, axis=0)).max() <= 7
        touched |= set(np.flatnonzero((ends == 0).any(axis=0)))
        assert (sequences[number].sum(dim=(1, 2, 3)) >= 16).all()
    assert touched == {0, 1, 2, 3}


def test_a_number_past_the_end_is_no_sequence() -> None:
    with pytest.raises(IndexError):
        MovingMnist(DIGITS, "train", 3)[3]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_digits_of_an_idx_file_come_back_plain_and_compressed(compress, tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(compress(idx(DIGITS)))
    np.testing.assert_array_equal(read_digits(path), DIGITS)


def test_digits_of_an_npz_file_are_its_first_array_of_their_shape(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, labels=np.arange(30), images=DIGITS)
    np.testing.assert_array_equal(read_digits(path), DIGITS)


BROKEN = {
    "no IDX": b"<html>not found</html>",
    "labels": idx(DIGITS, magic=2049),
    "other size": idx(DIGITS[:, :20, :20]),
    "cut short": idx(DIGITS)[:-1],
    "empty": b"",
    "cut archive": gzip.compress(idx(DIGITS))[:-20],
    "one digit": idx(DIGITS[:1]),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_malformed_idx_file_is_refused_with_the_place_of_a_good_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "digits"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=MIRROR):
        read_digits(path)


@pytest.mark.parametrize("name", ["absent", "absent.npz"])
def test_a_missing_file_of_digits_is_refused_with_the_place_of_a_good_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=MIRROR):
        read_digits(tmp_path / name)


def test_an_npz_file_without_digits_or_out_of_range_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    np.savez(path, images=DIGITS[:, :20])
    with pytest.raises(SettingsError, match=r"no array .* is \(N, 28, 28\)"):
        read_digits(path)
    np.savez(path, images=DIGITS.astype(np.float32))
    with pytest.raises(SettingsError, match="scale it to 0 … 1"):
        read_digits(path)
    path.write_bytes(b"no archive")
    with pytest.raises(SettingsError, match=MIRROR):
        read_digits(path)


def test_stand_in_digits_are_laid_out_as_mnists() -> None:
    digits = stand_in_digits()
    assert digits.shape == (1797, 28, 28)
    assert digits.dtype == np.float32
    assert digits.max() == pytest.approx(1, abs=0.05)
    assert not digits[:, :4].any() and not digits[:, :, -4:].any()
    assert digits[:, 4:24, 4:24].mean(axis=(1, 2)).min() > 0.1


def test_published_test_sequences_are_read_sequence_by_sequence(tmp_path: Path) -> None:
    published = np.random.default_rng(1).integers(0, 256, (20, 3, 64, 64), dtype=np.uint8)
    path = tmp_path / "mnist_test_seq.npy"
    np.save(path, published)
    task = moving_mnist_task(sequences_path=path, test_sequences=2)
    assert len(task.scored) == 2
    np.testing.assert_allclose(task.scored[1][:, 0].numpy(), published[:, 1] / 255, rtol=1e-6)


def test_other_arrays_are_no_test_sequences(tmp_path: Path) -> None:
    path = tmp_path / "mnist_test_seq.npy"
    with pytest.raises(SettingsError, match="can't be read as test sequences"):
        read_test_sequences(path)
    for array in (np.zeros((3, 20, 64, 64), np.uint8), np.zeros((20, 3, 64, 64)), np.zeros((20, 0, 64, 64), np.uint8)):
        np.save(path, array)
        with pytest.raises(SettingsError, match=r"of shape .* give mnist_test_seq\.npy"):
            read_test_sequences(path)
    np.savez(tmp_path / "several.npz", a=DIGITS)
    with pytest.raises(SettingsError, match="archive of several arrays"):
        read_test_sequences(tmp_path / "several.npz")


def test_the_task_says_what_keeps_it_from_published_numbers(tmp_path: Path) -> None:
    digits, sequences = tmp_path / "digits", tmp_path / "mnist_test_seq.npy"
    digits.write_bytes(idx(DIGITS))
    np.save(sequences, np.zeros((20, 1, 64, 64), np.uint8))
    assert moving_mnist_task().note == STAND_IN
    assert moving_mnist_task(sequences_path=sequences).note == STAND_IN
    assert "mnist_test_seq.npy" in moving_mnist_task(digits).note
    assert moving_mnist_task(digits, sequences).note == ""
