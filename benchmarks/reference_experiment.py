"""The reference experiment: a bundle's RMSE by lead over the test years, beside the baselines fitted with it.

``python -m benchmarks.reference_experiment --settings docs/reference-experiment.toml [--bundle ID]`` reads the archive
and the registry of ``DATLSTM_STORE``. Test: every forecast whose valid day lies in 2015-01-01 … 2018-12-31.
"""

import argparse
import resource
import time
from datetime import date

from datlstm.bundle import Bundle
from datlstm.comparison.sst import hindcast_scores
from datlstm.registry import champion_id
from datlstm.settings import load_settings
from datlstm.store import Store
from datlstm.verification import pooled_rmse

TEST_PERIOD = (date(2015, 1, 1), date(2018, 12, 31))


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
    rmse = pooled_rmse(hindcast_scores(settings, bundle, TEST_PERIOD))
    print(f"RMSE (°C) of {bundle_id} over valid days {TEST_PERIOD[0]} … {TEST_PERIOD[1]}\n")
    print("| forecaster | " + " | ".join(f"day {lead}" for lead in rmse["lead_time"].values) + " |")
    print("|---" * (1 + rmse.sizes["lead_time"]) + "|")
    for name in rmse["forecaster"].values:
        print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in rmse.sel(forecaster=name).values) + " |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{time.perf_counter() - started:.0f} s, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
