"""How often the skill chart alarms without cause, and how late it tells a loss: simulated, and on real hindcasts.

``python -m benchmarks.skill_chart`` charts years of first-order autoregressions; with ``--settings`` and ``--bundle``
also hindcasts from the archive of ``DATLSTM_STORE``: the bundle's, and persistence in the place of a network
whose errors are more unlike damped persistence's. Monitored is a year after the reference; the loss begins on its 60th
day.
"""

import argparse
from collections.abc import Iterator
from datetime import date

import numpy as np
from scipy.signal import lfilter

from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.comparison.sst import hindcast_scores
from datlstm.settings import ValidationSettings, load_settings
from datlstm.store import Store
from datlstm.validation.control_chart import YEAR_DAYS, Chart, Tuning, chart, cumulative_sum

REFERENCE_DAYS = (365, 3 * 365)
LOSSES = (0.2, 0.5, 1.0)
LOSS_DAY, NEVER = 60, 999
CORRELATION, DEVIATIONS, SERIES = 0.9, (0.05, 0.1, 0.2), 150
STEP_DAYS = 73
TUNING = Tuning(float(np.log1p(ValidationSettings().skill_loss)), ValidationSettings().false_alarm_years)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings")
    parser.add_argument("--bundle")
    parser.add_argument("--years", nargs=2, type=int, default=(2000, 2018), metavar=("FIRST", "LAST"))
    arguments = parser.parse_args()
    told = " | ".join(f"days to tell {loss:.0%} (nine in ten)" for loss in LOSSES)
    print(f"| series | reference, days | years | with an alarm | {told} |")
    print("|---" * (4 + len(LOSSES)) + "|")
    for deviation in DEVIATIONS:
        for size in REFERENCE_DAYS:
            _row(f"autoregression {deviation:g}", size, list(_simulated(deviation, size)))
    if arguments.settings and arguments.bundle:
        for name, values in _hindcasts(arguments.settings, arguments.bundle, *arguments.years).items():
            for size in REFERENCE_DAYS:
                _row(name, size, list(_sliding(values, size)))


def _row(name: str, size: int, charts: list[Chart]) -> None:
    share = np.mean([(made.level > made.threshold).any() for made in charts])
    delays = ([_delay(made, float(np.log1p(loss))) for made in charts] for loss in LOSSES)
    told = " | ".join(f"{np.median(found):.0f} ({np.quantile(found, 0.9):.0f})" for found in delays)
    print(f"| {name} | {size} | {len(charts)} | {share:.2f} | {told} |", flush=True)


def _delay(made: Chart, rise: float) -> int:
    lost = made.excess + rise * (np.arange(made.excess.size) >= LOSS_DAY)
    above = np.flatnonzero(cumulative_sum(lost, TUNING.allowance)[LOSS_DAY:] > made.threshold)
    return int(above[0]) if above.size else NEVER


def _simulated(deviation: float, size: int) -> Iterator[Chart]:
    for seed in range(SERIES):
        noise = np.random.default_rng(seed).standard_normal(size + YEAR_DAYS + 100)
        own = np.sqrt(1 - CORRELATION**2) * deviation
        yield _split(
            np.asarray(lfilter([own], [1.0, -CORRELATION], noise))[100:], size, np.datetime64("2001-01-01", "D")
        )


def _sliding(values: np.ndarray, size: int) -> Iterator[Chart]:
    """Yield the chart of every year after the longest reference, `STEP_DAYS` apart."""
    for start in range(max(REFERENCE_DAYS), len(values) - YEAR_DAYS, STEP_DAYS):
        first = np.datetime64("2001-01-01", "D") + start - size
        yield _split(values[start - size : start + YEAR_DAYS], size, first)


def _split(values: np.ndarray, size: int, first: np.datetime64) -> Chart:
    days = first + np.arange(values.size)
    return chart(days[size:], values[size:], days[:size], values[:size], TUNING)


def _hindcasts(settings_name: str, bundle_id: str, first_year: int, last_year: int) -> dict[str, np.ndarray]:
    """Return the daily log ratio of RMSE to damped persistence's, by forecaster, of every init with all leads."""
    settings = load_settings(settings_name)
    bundle = Bundle.load(Store(settings.store), bundle_id)
    scored = hindcast_scores(settings, bundle, (date(first_year, 1, 1), date(last_year, 12, 31)))
    leads = scored["lead_time"].values
    days = scored["init_time"].values[leads.max() :]
    by_day = {
        name: np.mean(
            [
                scored["rmse"]
                .sel(forecaster=name, lead_time=lead)
                .reindex(init_time=days - np.timedelta64(int(lead), "D"))
                for lead in leads
            ],
            axis=0,
        )
        for name in (bundle.forecaster, "persistence", DAMPED_PERSISTENCE)
    }
    bar = by_day.pop(DAMPED_PERSISTENCE)
    return {name: np.log(values / bar)[np.isfinite(values / bar)] for name, values in by_day.items()}


if __name__ == "__main__":
    main()
