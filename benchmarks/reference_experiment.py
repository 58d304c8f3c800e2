"""The reference experiment: a bundle's RMSE by lead over the test years, beside the baselines fitted with it.

``python -m benchmarks.reference_experiment --settings docs/reference-experiment.toml [--bundle ID]`` reads the archive
and the registry of ``DATLSTM_STORE``. Test: every forecast whose valid day lies in 2015-01-01 … 2018-12-31.
"""

import argparse
import resource
import time

import pandas as pd
import xarray as xr

from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.forecasting import forecast, reference_forecasts
from datlstm.registry import champion_id
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from datlstm.verification import pooled_rmse, score, valid_truth

TEST_DAYS = pd.date_range("2015-01-01", "2018-12-31")


def rmse_by_lead(settings: Settings, bundle: Bundle) -> xr.DataArray:
    """Return the RMSE over the test days, °C, ``(forecaster, lead_time)``."""
    reach = pd.Timedelta(days=bundle.lead_days)
    inits = pd.date_range(TEST_DAYS[0] - reach, TEST_DAYS[-1] - pd.Timedelta(days=1))
    first = inits[0] - pd.Timedelta(days=bundle.input_days - 1)
    sst = Archive(settings).read(first.date(), TEST_DAYS[-1].date())["sst"].load()
    forecasts = {bundle.forecaster: forecast(bundle, sst, inits), **reference_forecasts(bundle, sst, inits)}
    valid_time = forecasts["climatology"]["valid_time"]
    tested = (valid_time >= TEST_DAYS[0]) & (valid_time <= TEST_DAYS[-1])
    truth = valid_truth(sst, valid_time).where(tested)
    return pooled_rmse(score(forecasts, truth, forecasts["climatology"]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--bundle", help="default: the champion")
    arguments = parser.parse_args()
    started = time.perf_counter()
    settings = load_settings(arguments.settings)
    store = Store(settings.store)
    bundle_id = arguments.bundle or champion_id(store)
    if bundle_id is None:
        parser.error("no champion: run `datlstm retrain` or give --bundle")
    bundle = Bundle.load(store, bundle_id)
    rmse = rmse_by_lead(settings, bundle)
    print(f"RMSE (°C) of {bundle_id} over {TEST_DAYS.size} test days\n")
    print("| forecaster | " + " | ".join(f"day {lead}" for lead in rmse["lead_time"].values) + " |")
    print("|---" * (1 + rmse.sizes["lead_time"]) + "|")
    for name in rmse["forecaster"].values:
        print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in rmse.sel(forecaster=name).values) + " |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{time.perf_counter() - started:.0f} s, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
