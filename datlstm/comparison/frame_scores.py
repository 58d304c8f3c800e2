"""Scores of forecast frames as the video-forecasting field defines them; values are in 0 … 1."""

from collections.abc import Iterable

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from datlstm.settings import Frozen


class FrameScores(Frozen):
    """Means over all frames of all sequences, each frame scored by itself.

    ``mse`` and ``mae`` are the squared and the absolute error summed over a frame's channels and cells, as in the
    published code of SwinLSTM (Tang et al. 2023) and in OpenSTL (Tan et al. 2023). ``ssim`` is the structural
    similarity (Wang et al. 2004) in a uniform window of 7 x 7 cells for a data range of 1, mean over channels.
    ``ssim_range_2`` is the same for a range of 2, which both codes had: they name none, and scikit-image then took the
    width of -1 … 1 for floats. Compare it with their tables. ``psnr`` is the peak signal-to-noise ratio in dB,
    10 log10(1 / mean square error); one perfect frame makes it infinite.
    """

    mse: float
    mae: float
    ssim: float
    ssim_range_2: float
    psnr: float


def score(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> FrameScores:
    """Score batches of estimates and truth, each ``(B, N, C, H, W)`` float32, in the memory of one batch.

    Estimates are first clamped to 0 … 1, the range of every frame: a head that can leave it is not charged for what is
    trivially put right. OpenSTL clamps for SSIM and PSNR only. Frames are 7 x 7 cells or larger. Raises `ValueError`
    when there is no batch.
    """
    total, frames = np.zeros(len(FrameScores.model_fields)), 0
    for estimates, truth in batches:
        shape = (-1, *truth.shape[2:])
        for estimate, true in zip(estimates.clip(0, 1).reshape(shape), truth.reshape(shape), strict=True):
            total += _frame_scores(estimate, true)
            frames += 1
    if not frames:
        raise ValueError("there is no frame to score")
    return FrameScores(**dict(zip(FrameScores.model_fields, (total / frames).tolist(), strict=True)))


def _frame_scores(estimate: np.ndarray, true: np.ndarray) -> tuple[float, ...]:
    error = (estimate - true).astype(np.float64)
    similarity = (
        structural_similarity(true, estimate, data_range=data_range, channel_axis=0) for data_range in (1.0, 2.0)
    )
    with np.errstate(divide="ignore"):
        ratio = peak_signal_noise_ratio(true, estimate, data_range=1.0)
    return (error**2).sum(), np.abs(error).sum(), *similarity, ratio
