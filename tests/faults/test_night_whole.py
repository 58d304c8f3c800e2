"""A night's publication killed around its writes: whoever reads sees one whole night, and the next run completes it."""

import io
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pystac
import pytest
import xarray as xr

from datlstm.ladder import nightly_forecast
from datlstm.lease import LEASE_SECONDS
from datlstm.products.forecast import draft_forecast, forecast_cube
from datlstm.products.latest import read_latest
from datlstm.products.scoring import score
from datlstm.products.skill import skill_cube
from datlstm.settings import Settings, load_settings
from datlstm.store import Store
from datlstm.store_server import StoreServer
from tests.conftest import LAST_DAY
from tests.faults.killing_proxy import When, killing_proxy
from tests.faults.victims import count_writes, publish, start
from tests.nights import publish_forecast

# Nights before the first that is killed; one that was scored among them.
STANDING = 2
Drafts = tuple[xr.Dataset, xr.Dataset]
Kill = Callable[[Callable[..., BaseProcess]], None]
WHENS: tuple[When, ...] = ("before", "after")


@pytest.fixture(scope="module")
def drafts(settings_file: Path, service_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Drafts:
    """A forecast and a day's scores, to be moved from night to night."""
    settings = load_settings(str(settings_file)).replace(store=service_store.as_uri())
    forecast = draft_forecast(settings, nightly_forecast(settings, LAST_DAY - timedelta(days=3)))
    apart = settings.replace(store=tmp_path_factory.mktemp("apart").as_uri())
    for path in [p for prefix in ("archive", "models", "heatwave") for p in Store(settings.store).list(prefix)]:
        Store(apart.store).write(path, Store(settings.store).read(path) or b"")
    publish_forecast(apart, nightly_forecast(apart, LAST_DAY - timedelta(days=3)))
    scores = score(apart, LAST_DAY - timedelta(days=2))
    assert scores is not None and scores.sizes["scoring"] == 1
    return forecast, scores


def night(drafts: Drafts, number: int) -> Drafts:
    """The drafts of a night: days and values follow from its number."""
    forecast, scores = drafts
    shift = np.timedelta64(number, "D")
    moved = forecast.copy()
    for name, step in (("sst", np.float32(number)), ("init_time", np.int32(number)), ("valid_time", np.int32(number))):
        moved[name] = forecast[name].variable + step
    rows = scores.copy()
    for name, step in (("rmse", np.float32(number)), ("valid_time", shift), ("init_time", shift)):
        rows[name] = scores[name].variable + step
    return moved, rows


def check_whole(drafts: Drafts, forecast: xr.Dataset, skill: xr.Dataset) -> None:
    """Assert that each cube holds as many nights as it is long, from the first on, and each of them whole."""
    nights = [night(drafts, number) for number in range(max(forecast.sizes["init_time"], skill.sizes["scoring"]))]
    forecasts, scores = ([one[i] for one in nights] for i in (0, 1))
    forecasts, scores = forecasts[: forecast.sizes["init_time"]], scores[: skill.sizes["scoring"]]
    days = np.concatenate([one["init_time"].values for one in forecasts]).astype("datetime64[D]")
    np.testing.assert_array_equal(forecast["init_time"].values.astype("datetime64[D]"), days)
    for name in ("sst", "sst_anomaly", "mask", "sst_tendency_3d", "model_id", "settings_hash"):
        expected = np.concatenate([one[name].values for one in forecasts])
        np.testing.assert_array_equal(forecast[name].values, expected.astype(forecast[name].dtype))
    for name in ("valid_time", "rmse", "n", "truth_product"):
        expected = np.concatenate([one[name].values for one in scores])
        np.testing.assert_array_equal(skill[name].values, expected.astype(skill[name].dtype))


def cubes(settings: Settings) -> tuple[xr.Dataset, xr.Dataset]:
    forecast, skill = forecast_cube(settings).open(), skill_cube(settings).open()
    assert forecast is not None and skill is not None
    return forecast, skill


def check_seen(drafts: Drafts, settings: Settings) -> int:
    """Assert that all a reader can start from leads to whole nights; return how many ``latest.json`` shows."""
    store = Store(settings.store)
    latest = read_latest(store)
    assert latest is not None
    forecast, skill = cubes(settings)
    check_whole(drafts, forecast, skill)
    count = latest["forecast"]["inits"]
    assert latest["skill"]["scorings"] == count <= min(forecast.sizes["init_time"], skill.sizes["scoring"])
    init = str(forecast["init_time"].values[count - 1])[:10]
    assert latest["init_time"] == init
    for url in (latest["netcdf"], latest["quicklook"], latest["page"], *latest["stac"].values()):
        assert store.read(url.removeprefix(f"{store.url}/")) is not None, url
    file = xr.load_dataset(
        io.BytesIO(store.read(f"netcdf/{init}.nc") or b""), engine="h5netcdf", decode_timedelta=False
    )
    np.testing.assert_array_equal(file["sst"].values, forecast["sst"].values[count - 1])
    assert json.loads(store.read("skill/summary.json") or b"")["windows"]["all"]["days"] >= count
    check_catalogue(settings, [str(day)[:10] for day in forecast["init_time"].values], count)
    return count


def check_catalogue(settings: Settings, days: list[str], count: int) -> None:
    """Assert that every item that the catalogue names is there, with its assets, and the cube has its forecast."""
    store = Store(settings.store)
    collection = json.loads(store.read("stac/collection.json") or b"")
    named, assets = [], []
    for year in [link["href"].removeprefix("./") for link in collection["links"] if link["rel"] == "child"]:
        catalogue = json.loads(store.read(f"stac/{year}") or b"")
        folder = f"stac/{year.split('/')[0]}"
        for path in [
            f"{folder}/{link['href'].removeprefix('./')}" for link in catalogue["links"] if link["rel"] == "item"
        ]:
            item = pystac.Item.from_dict(json.loads(store.read(path) or b""))
            named.append(item.properties["forecast:reference_datetime"][:10])
            assets += [item.assets[name].href.removeprefix("../../") for name in ("netcdf", "quicklook")]
    assert named == days[: len(named)]
    assert set(assets) <= {*store.list("netcdf"), *store.list("quicklook")}
    assert len(named) >= count


def survive(drafts: Drafts, settings: Settings, kills: list[Kill]) -> list[bool]:
    """Kill one night after the other, each completed by the next run; return which were to be seen when they died."""
    for number in range(STANDING):
        publish(settings, *night(drafts, number))
    ahead, count, seen = timedelta(), STANDING, []
    readers: list[tuple[xr.Dataset, xr.Dataset]] = []
    for kill in kills:
        readers.append(cubes(settings))
        drafted = night(drafts, count)
        kill(partial(start, publish, ahead, settings, *drafted))
        shown = check_seen(drafts, settings)
        assert shown in (count, count + 1)
        seen.append(shown > count)
        readers.append(cubes(settings))
        ahead += timedelta(seconds=LEASE_SECONDS)
        repair = start(publish, ahead, settings, *drafted)
        repair.join(120)
        assert repair.exitcode == 0
        count += 1
        assert check_seen(drafts, settings) == count
    for forecast, skill in readers[:: max(1, len(readers) // 20)]:
        check_whole(drafts, forecast, skill)
    return seen


def around_the_roots(writes: list[str]) -> list[tuple[int, When]]:
    """Before every third write from the first root's to the one after ``latest.json``, and after two others."""
    first = next(k for k, path in enumerate(writes) if path.endswith("forecast.zarr/zarr.json"))
    last = next(k for k, path in enumerate(writes) if path.endswith("latest.json"))
    others: list[tuple[int, When]] = [(k, "after") for k in (first // 2, len(writes) - 1)]
    return sorted([*((k, WHENS[0]) for k in range(first, last + 2, 3)), *others])


@pytest.fixture
def settings_at(settings: Settings, service_store: Path) -> Callable[[str], Settings]:
    """The settings of a store at a URL that has the archive, the models and no forecast."""

    def at(url: str) -> Settings:
        origin, store = Store(service_store.as_uri()), Store(url)
        for prefix in ("archive", "models"):
            for path in origin.list(prefix):
                store.write(path, origin.read(path) or b"")
        return settings.replace(store=url)

    return at


@pytest.mark.parametrize("which", ["around the roots", pytest.param("every", marks=pytest.mark.long)])
@pytest.mark.timeout(3600)
def test_on_object_storage_killed_before_and_after_writes(
    which: str,
    drafts: Drafts,
    settings_at: Callable[[str], Settings],
    s3_server: StoreServer,
    s3_store_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_at(s3_store_url)
    with killing_proxy(s3_server.environment["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        alive = settings_at(f"{s3_store_url}/alive")
        publish(alive, *night(drafts, 0))
        proxy.arm(None, "before")
        publish(alive, *night(drafts, 1))
        writes = proxy.writes
        assert len(writes) >= 40

        def kill(begin: Callable[[], BaseProcess], k: int, when: When) -> None:
            proxy.arm(k, when)
            victim = begin()
            proxy.aim(victim.pid or 0)
            victim.join(120)
            assert victim.exitcode == -9
            proxy.arm(None, "before")

        every = [(k, when) for k in range(len(writes)) for when in WHENS]
        chosen = every if which == "every" else around_the_roots(writes)
        seen = survive(drafts, settings, [partial(kill, k=k, when=when) for k, when in chosen])
    assert seen == sorted(seen)
    assert seen[0] is False and seen[-1] is True


@pytest.mark.parametrize("which", ["some", pytest.param("every", marks=pytest.mark.long)])
@pytest.mark.timeout(3600)
def test_on_files_killed_before_writes(
    which: str, drafts: Drafts, settings_at: Callable[[str], Settings], tmp_path: Path
) -> None:
    settings = settings_at((tmp_path / "store").as_uri())
    alive = settings_at((tmp_path / "alive").as_uri())
    publish(alive, *night(drafts, 0))
    writes = count_writes(partial(publish, alive, *night(drafts, 1)))

    def kill(begin: Callable[..., BaseProcess], k: int) -> None:
        victim = begin(dies_at=k)
        victim.join(120)
        assert victim.exitcode == -9

    chosen = range(writes) if which == "every" else range(0, writes, 16)
    seen = survive(drafts, settings, [partial(kill, k=k) for k in chosen])
    assert seen == sorted(seen)
    assert seen[0] is False and seen[-1] is True
