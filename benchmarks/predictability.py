"""How much a linear regression can save: fitted on earlier years, on all other years, on the very years it forecasts.

``python -m benchmarks.predictability --settings FILE.toml [--block 4]`` solves the recipe's regression
(`datlstm.models.regression`) by least squares on the days that train and validate, per block of years and without a
network, and prints by how many percent its RMSE is below that of damped persistence. The last of the three has seen the
truth: no regression on these features does better. Climatology and damping are those of the training period throughout.
"""

import argparse
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.models.regression import Regression, with_season
from datlstm.preparation import prepare
from datlstm.settings import load_settings
from datlstm.store import Store
from datlstm.training import TrainingData

BATCH = 64
RIDGE = 1e-4
"""Of the mean square of each feature: keeps the solution finite."""


class Sums(NamedTuple):
    """Sums of products over windows: of features, of features and targets, and of squared targets."""

    features: Tensor
    products: Tensor
    squares: Tensor


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings")
    parser.add_argument("--block", type=int, default=4, help="years that are forecast at once")
    arguments = parser.parse_args()
    settings = load_settings(arguments.settings)
    cube_path, baseline_id = prepare(settings, Archive(settings).snapshot_id())
    baseline = Bundle.load(Store(settings.store), baseline_id)
    damping = torch.from_numpy(baseline.damping.fillna(0.0).values).float()
    sums = sums_by_year(TrainingData.open(settings, cube_path, baseline), damping)
    years = sorted(sums)
    leads = range(1, settings.model.lead_days + 1)
    print("| years | fitted on | mean | " + " | ".join(map(str, leads)) + " |")
    print("|---" * (3 + len(leads)) + "|")
    for first in range(years[-1] + 1 - arguments.block, years[0] + arguments.block, -arguments.block):
        block = range(first, first + arguments.block)
        others = {
            "the years before": [year for year in years if year < first],
            "all other years": [year for year in years if year not in block],
            "these years themselves": list(block),
        }
        for name, fitted in others.items():
            gain = 100 * gained(sums, fitted, block)
            told = " | ".join(f"{value:.1f}" for value in gain.tolist())
            print(f"| {block[0]}-{block[-1]} | {name} | {gain.mean().item():.1f} | {told} |")


def sums_by_year(data: TrainingData, damping: Tensor) -> dict[int, Sums]:
    """Return the sums over the windows that lie in one year, by year; ``damping`` is ``(lead_days, height, width)``."""
    regression = Regression(data.input_days, data.lead_days)
    length = data.input_days + data.lead_days
    starts = torch.cat([data.training.starts, data.validation.starts])
    first, last = (data.days[(starts + shift).numpy()].year.values for shift in (0, length - 1))

    def sums(starts: Tensor) -> Sums:
        days = data.record.gather(starts, length)
        read = days.until(data.input_days)
        plain = regression.features(read.frames, read.observed)
        features = with_season(plain, read.phase).flatten(2).transpose(1, 2)
        truth, observed = days.frames[:, data.input_days :, 0], days.observed[:, data.input_days :, 0]
        counted = (observed.all(dim=1) * data.cells).sqrt().flatten(1)[:, :, None]
        targets = (truth - damping * read.frames[:, -1]).flatten(2).transpose(1, 2)
        x, y = ((part * counted).flatten(0, 1) for part in (features, targets))
        return Sums((x.T @ x).double(), (x.T @ y).double(), y.square().sum(0).double())

    found = {}
    for year in np.unique(first[first == last]):
        within = torch.from_numpy((first == year) & (last == year))
        parts = [sums(batch) for batch in starts[within].split(BATCH)]
        found[int(year)] = Sums(*(torch.stack(part).sum(0) for part in zip(*parts, strict=True)))
    return found


def gained(sums: Mapping[int, Sums], fitted: Iterable[int], scored: Iterable[int]) -> Tensor:
    """Return by what share, lead by lead, a regression fitted on some years lowers the RMSE of others."""
    of = Sums(*(torch.stack(part).sum(0) for part in zip(*(sums[year] for year in fitted), strict=True)))
    coefficients = torch.linalg.solve(of.features + RIDGE * torch.diag(of.features.diag()), of.products)
    on = Sums(*(torch.stack(part).sum(0) for part in zip(*(sums[year] for year in scored), strict=True)))
    left = on.squares - 2 * (coefficients * on.products).sum(0) + (coefficients * (on.features @ coefficients)).sum(0)
    return 1 - (left / on.squares).sqrt()


if __name__ == "__main__":
    main()
