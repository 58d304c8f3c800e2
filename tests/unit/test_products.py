"""The forecast cube as analysts meet it: structure, idempotence, and plain opening."""

import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from datlstm.errors import ProductError
from datlstm.ladder import ForecastSource, NightlyForecast, nightly_forecast
from datlstm.products.forecast import forecast_cube, published_days, read_init
from datlstm.settings import Settings
from datlstm.store import Store
from tests.nights import publish_forecast

FIRST, N_INITS, LEADS = date(2024, 5, 20), 6, 4
FIELDS = ("init_time", "lead_time", "latitude", "longitude")


@pytest.fixture(params=["file", "s3"])
def anywhere(request: pytest.FixtureRequest, published: Settings) -> Settings:
    """The published store, on each kind of store."""
    if request.param == "file":
        return published
    local, remote = Store(published.store), Store(request.getfixturevalue("s3_store_url"))
    for path in local.list(""):
        remote.write(path, local.read(path) or b"")
    return published.replace(store=remote.url)


def opened(settings: Settings) -> xr.Dataset:
    store = Store(settings.store)
    path = "forecast.zarr"
    return xr.open_zarr(store.location_of(path) if store.is_local else store.zarr(path, read_only=True))


def content(settings: Settings) -> dict[str, bytes | None]:
    store = Store(settings.store)
    return {path: store.read(path) for path in store.list("forecast.zarr")}


def test_the_cube_has_the_declared_structure(published: Settings) -> None:
    cube = opened(published)
    assert dict(cube.sizes) == {"init_time": N_INITS, "lead_time": LEADS, "latitude": 16, "longitude": 16}
    dims = {name: cube[name].dims for name in cube.variables}
    names = ("model_id", "archive_snapshot", "settings_hash", "code_version", "heatwave_baseline")
    per_init = ("forecast_source", *names, "input_age_days", "n_missing_inputs", "created_at")
    assert dims == {
        **{name: (name,) for name in FIELDS},
        "valid_time": FIELDS[:2],
        "sst": FIELDS,
        "sst_anomaly": FIELDS,
        "sst_spread": FIELDS,
        **dict.fromkeys(("heatwave_category", "threshold_flags", "sst_tendency_3d"), FIELDS),
        "mask": ("init_time", "latitude", "longitude"),
        **dict.fromkeys(per_init, ("init_time",)),
    }
    assert set(cube.coords) == {*FIELDS, "valid_time"}
    names = {name: cube[name].attrs.get("standard_name") for name in ("sst", "init_time", "lead_time", "valid_time")}
    assert names == {
        "sst": "sea_surface_foundation_temperature",
        "init_time": "forecast_reference_time",
        "lead_time": "forecast_period",
        "valid_time": "time",
    }
    assert cube["sst"].attrs["units"] == cube["sst_anomaly"].attrs["units"] == "kelvin"
    assert cube["lead_time"].attrs["units"] == "days"
    assert cube["mask"].attrs["flag_meanings"] == "sea land ice"
    assert cube["mask"].attrs["flag_masks"] == [1, 2, 4]
    assert cube.attrs["Conventions"] == "CF-1.11, ACDD-1.3"
    assert {"license", "references", "acknowledgement"} <= set(cube.attrs)
    assert "synthetic" in cube.attrs["summary"]


def test_a_field_is_one_chunk_per_init_and_dates_are_few_objects(published: Settings) -> None:
    group = zarr.open_group(Store(published.store).location_of("forecast.zarr"), mode="r")
    assert group["sst"].chunks == group["sst_anomaly"].chunks == (1, LEADS, 16, 16)
    assert group["mask"].chunks == (1, 16, 16)
    paths = [path.split("/")[1] for path in content(published) if "/c/" in path]
    assert paths.count("sst") == N_INITS
    assert paths.count("model_id") == paths.count("init_time") == paths.count("valid_time") == 1


def test_a_published_init_is_the_forecast_with_its_lineage(anywhere: Settings) -> None:
    made = nightly_forecast(anywhere, FIRST + timedelta(days=3))
    init = opened(anywhere).sel(init_time=str(FIRST + timedelta(days=2))).load()
    np.testing.assert_array_equal(init["sst"], made.sst)
    climatology = made.bundle.normaliser.climatology(made.sst["valid_time"])
    np.testing.assert_allclose(init["sst"] - init["sst_anomaly"], climatology, atol=1e-4)
    expected = pd.date_range(FIRST + timedelta(days=3), periods=LEADS)
    np.testing.assert_array_equal(init["valid_time"], expected)
    assert init["model_id"].item() == made.bundle.id
    assert init["archive_snapshot"].item() == made.snapshot_id
    assert init["forecast_source"].item() == ForecastSource.MODEL
    assert (init["input_age_days"].item(), init["n_missing_inputs"].item()) == (1, 0)
    assert init["created_at"].values > np.datetime64("2024-05-22")
    sea = made.bundle.normaliser.ocean_mask.values
    assert (init["mask"].values[sea] & 1 == 1).all() and (init["mask"].values[~sea] == 2).all()
    assert init["sst"].isnull().values[:, ~sea].all()


def test_publishing_twice_leaves_every_byte(anywhere: Settings) -> None:
    before = content(anywhere)
    assert publish_forecast(anywhere, nightly_forecast(anywhere, FIRST + timedelta(days=3))) == "unchanged"
    assert content(anywhere) == before


def test_another_forecast_of_the_same_init_is_kept_out_and_says_so(
    anywhere: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    before = content(anywhere)
    made = nightly_forecast(anywhere, FIRST + timedelta(days=3))
    warmer = NightlyForecast(**{**vars(made), "sst": made.sst + np.float32(1), "input_age_days": 2})
    assert publish_forecast(anywhere, warmer) == "kept"
    assert content(anywhere) == before
    assert f"the first forecast from 2024-05-22, by {made.bundle.id}, stands" in caplog.text


def test_a_night_without_a_forecast_is_a_visible_gap(anywhere: Settings) -> None:
    publish_forecast(anywhere, nightly_forecast(anywhere, FIRST + timedelta(days=9)))
    cube = opened(anywhere)
    assert cube["init_time"].size == 9
    gap = cube.isel(init_time=slice(N_INITS, 8)).load()
    assert (gap["forecast_source"] == ForecastSource.NONE).all()
    assert gap["sst"].isnull().all()
    assert gap["valid_time"].isnull().all()
    assert published_days(anywhere) == [FIRST + timedelta(days=i) for i in (0, 1, 2, 3, 4, 5, 8)]
    assert read_init(anywhere, FIRST + timedelta(days=7)) is None


def test_a_missed_init_before_the_newest_is_refused_and_nothing_changes(published: Settings) -> None:
    publish_forecast(published, nightly_forecast(published, FIRST + timedelta(days=9)))
    before = content(published)
    for night in (FIRST, FIRST + timedelta(days=8)):
        init = night - timedelta(days=1)
        with pytest.raises(ProductError, match=f"no forecast from {init} and .* goes on to 2024-05-28.* oldest first"):
            publish_forecast(published, nightly_forecast(published, night))
    assert content(published) == before


def test_missed_nights_run_oldest_first_leave_no_gap(published: Settings) -> None:
    for night in range(7, 10):
        assert publish_forecast(published, nightly_forecast(published, FIRST + timedelta(days=night))) == "published"
    assert published_days(published) == [FIRST + timedelta(days=i) for i in range(9)]


def test_a_cube_of_another_structure_is_refused(published: Settings) -> None:
    shorter = published.replace(model=published.model.model_copy(update={"lead_days": 3}))
    with pytest.raises(ProductError, match="not built as this code builds it, in .*sst"):
        publish_forecast(shorter, nightly_forecast(shorter, FIRST + timedelta(days=7)))


def test_before_the_first_night_nothing_is_published(settings: Settings, store_url: str) -> None:
    settings = settings.replace(store=store_url)
    assert forecast_cube(settings).open() is None
    assert published_days(settings) == []
    assert read_init(settings, FIRST) is None


def test_an_analyst_needs_nothing_but_xarray(published: Settings, tmp_path: Path) -> None:
    location = Store(published.store).location_of("forecast.zarr")
    script = (
        "import xarray as xr, sys\n"
        f"cube = xr.open_zarr({location!r})\n"
        "lead = cube.lead_time\n"
        "print(lead.values.tolist(), lead.attrs['units'], float(cube.sst.isel(init_time=-1).mean().values))\n"
        "assert not any(name.split('.')[0] == 'datlstm' for name in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("[1, 2, 3, 4] days 29")
