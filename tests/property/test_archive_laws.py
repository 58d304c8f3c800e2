"""The law of the archive: what it holds follows from the days it was given, not from how they were given."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import xarray as xr
from hypothesis import HealthCheck, given
from hypothesis import settings as law
from hypothesis import strategies as st

from datlstm.archive import FIELDS, PER_DAY, Archive
from datlstm.grid import Grid
from datlstm.quality import DayQuality
from datlstm.settings import ArchiveSettings, Region, Settings

REGION = Region(name="box", title="Box", south=37, north=38, west=119, east=120, resolution=0.5)
GRID = Grid.from_region(REGION)
OCEAN = xr.DataArray([[False, True], [True, True]], dims=("latitude", "longitude"), coords=GRID.coords())
FIRST_DAY = date(2024, 1, 1)
FLAGS = [DayQuality.GOOD, DayQuality.PARTIAL, DayQuality.OUT_OF_RANGE]
DAYS = st.integers(0, 11)


def fields(days: list[int]) -> xr.Dataset:
    """Return days whose every value, gap, flag and origin follows from the day."""
    stacked = []
    for day in days:
        random = np.random.default_rng(day)
        values = random.uniform(271, 308, (len(FIELDS), *GRID.shape)).astype("float32")
        values[:, random.random(GRID.shape) < 0.2] = np.nan
        stacked.append(np.where(OCEAN.values, values, np.float32(np.nan)))
    dims = ("time", "latitude", "longitude")
    time = [np.datetime64(FIRST_DAY + timedelta(days=day), "ns") for day in days]
    return xr.Dataset(
        {
            **{name: (dims, np.array(stacked)[:, i]) for i, name in enumerate(FIELDS)},
            "quality": ("time", np.array([FLAGS[day % 3] for day in days], "uint8")),
            "source_product": ("time", np.array([f"P{day % 2}" for day in days], dtype=object)),
            "source_version": ("time", np.array([str(day) for day in days], dtype=object)),
        },
        {"time": time, **GRID.coords()},
    )


@contextmanager
def archive() -> Iterator[Archive]:
    """Yield an empty archive of the smallest region, in chunks that pieces cut."""
    with TemporaryDirectory() as folder:
        yield Archive(
            Settings(
                region=REGION, store=Path(folder).as_uri(), archive=ArchiveSettings(first_day=FIRST_DAY, chunk_days=3)
            )
        )


def contents_after(pieces: list[list[int]]) -> xr.Dataset:
    """Upsert piece by piece and return all the archive then holds, but for the time of writing."""
    with archive() as made:
        for piece in pieces:
            made.upsert(fields(piece), OCEAN, attribution="A")
        return made.open().load().drop_vars("ingested_at")


@st.composite
def ways_of_giving(draw: st.DrawFn) -> list[list[int]]:
    """Draw days, in any order and split, some of them given again."""
    days = draw(st.lists(DAYS, min_size=1, max_size=8, unique=True))
    pieces = [draw(st.permutations(days))]
    for cut in draw(st.lists(st.integers(1, 7), max_size=2)):
        pieces = [part for piece in pieces for part in (piece[:cut], piece[cut:]) if part]
    repeats = draw(st.lists(st.lists(st.sampled_from(days), min_size=1, max_size=3, unique=True), max_size=2))
    return draw(st.permutations(pieces + repeats))


@law(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(ways_of_giving())
def test_any_order_split_and_repetition_of_the_same_days_gives_the_same_archive(pieces: list[list[int]]) -> None:
    days = sorted({day for piece in pieces for day in piece})
    expected = contents_after([days])
    xr.testing.assert_identical(contents_after(pieces), expected)
    assert expected.sizes["time"] == days[-1] + 1
    stored = expected.isel(time=days)
    given_fields = fields(days)
    for name in (*FIELDS, *PER_DAY):
        np.testing.assert_array_equal(stored[name].values, given_fields[name].values)
    absent = expected.drop_isel(time=days)
    assert (absent["quality"] == DayQuality.MISSING).all()
    assert absent["sst"].isnull().all()
