"""From the source into the archive: gaps stay gaps, flags stay flags, and a backfill goes on where it stopped."""

import logging
from datetime import date, timedelta

import numpy as np
import pytest
import xarray as xr

from datlstm import ingest as module
from datlstm.archive import Archive, consecutive
from datlstm.errors import ArchiveError, GridError, NotYetAvailableError, TransientSourceError
from datlstm.grid import Grid
from datlstm.ingest import backfill, ingest, yearly_pieces
from datlstm.quality import DayQuality
from datlstm.settings import ArchiveSettings, Region, Settings
from datlstm.sources import Source

JAN_1, JAN_2, JAN_3, JAN_4 = (date(2023, 1, day) for day in range(1, 5))
REGION = Region(name="box", title="Box", south=37, north=38, west=119, east=120, resolution=0.25)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A region of 4 x 4 cells: these tests are about days, and years of them."""
    return settings.replace(region=REGION, archive=ArchiveSettings(first_day=date(2022, 1, 1), chunk_days=100))


class FakeSource:
    """Flat fields around the region, one per given day; counts its reads, and fails for the years it is told to."""

    product = "FAKE"
    attribution = "nobody"

    def __init__(self, days: dict[date, float], *, version: str = "1", ice: bool = True, margin: int = 1) -> None:
        self.version = version
        self.days = days
        self.reads: list[tuple[date, date]] = []
        self.broken_years: set[int] = set()
        self._ice = ice
        edge = margin * REGION.resolution
        sides = {"south": REGION.south - edge, "north": REGION.north + edge, "west": REGION.west - edge}
        grid = Grid.from_region(Region.model_validate({**dict(REGION), **sides, "east": REGION.east + edge}))
        mask = np.ones(grid.shape, "int8")
        mask[:, 0:2] = 2
        self._mask = xr.DataArray(mask, dims=("latitude", "longitude"), coords=grid.coords())

    def coverage(self) -> tuple[date, date]:
        return min(self.days), max(self.days)

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        self.reads.append((first_day, last_day))
        if first_day.year in self.broken_years:
            raise TransientSourceError("the line is down")
        found = {day: kelvin for day, kelvin in sorted(self.days.items()) if first_day <= day <= last_day}
        time = np.array(list(found), "datetime64[ns]")
        kelvin = xr.DataArray(np.array(list(found.values()), "float32"), dims="time", coords={"time": time})
        sst = kelvin.where(self._mask == 1).transpose("time", ...)
        ice = {"sea_ice_fraction": xr.zeros_like(sst).where(self._mask == 1)} if self._ice else {}
        return xr.Dataset({"sst": sst, **ice, "mask": self._mask}).chunk(time=50)


def rising(first: date, last: date, start: float = 280.0) -> dict[date, float]:
    """Return days that warm a little from one to the next and turn back before they boil."""
    return {day: start + 0.01 * (i % 100) for i, day in enumerate(consecutive(first, last))}


def quality(settings: Settings) -> list[int]:
    return Archive(settings).open()["quality"].sel(time=slice("2023-01-01", None)).values.tolist()


def kelvin(settings: Settings, day: date) -> float:
    return float(Archive(settings).read(day, day)["sst"].mean())


def test_the_fake_is_a_source() -> None:
    assert isinstance(FakeSource({}), Source)


class TestIngest:
    def test_days_reach_the_archive_with_where_they_came_from(self, settings: Settings) -> None:
        report = ingest(settings, JAN_1, JAN_2, FakeSource({JAN_1: 280, JAN_2: 281}, version="7"))
        assert report.added == [JAN_1, JAN_2]
        stored = Archive(settings).open().sel(time=slice("2023-01-01", None)).load()
        assert stored["source_product"].values.tolist() == ["FAKE"] * 2
        assert stored["source_version"].values.tolist() == ["7"] * 2
        assert Archive(settings).attribution() == "nobody"
        assert (kelvin(settings, JAN_1), kelvin(settings, JAN_2)) == (280, 281)
        land = ~Archive(settings).ocean_mask()
        assert land.any()
        assert stored["sst"].where(land).isnull().all()
        assert stored["sea_ice_fraction"].max() == 0

    def test_a_source_without_ice_leaves_ice_unknown(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_1, FakeSource({JAN_1: 280}, ice=False))
        assert Archive(settings).open()["sea_ice_fraction"].isnull().all()

    def test_a_day_that_the_source_lacks_stays_missing(self, settings: Settings) -> None:
        report = ingest(settings, JAN_1, JAN_4, FakeSource({JAN_1: 280, JAN_3: 281}))
        assert report.added == [JAN_1, JAN_3]
        assert quality(settings) == [0, DayQuality.MISSING, 0]
        assert np.isnan(kelvin(settings, JAN_2))

    def test_a_flagged_day_is_stored_flagged_and_logged(
        self, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            ingest(settings, JAN_1, JAN_3, FakeSource({JAN_1: 280, JAN_2: 290, JAN_3: 7}))
        assert quality(settings) == [0, DayQuality.JUMP, DayQuality.JUMP | DayQuality.OUT_OF_RANGE]
        assert Archive(settings).open()["sst"][-1].max() == 7
        assert [(r.levelname, r.getMessage()) for r in caplog.records if r.name == module.__name__] == [
            ("INFO", "2023-01-02 is flagged JUMP"),
            ("WARNING", "2023-01-03 is flagged OUT_OF_RANGE|JUMP"),
        ]

    def test_the_first_day_is_checked_against_the_archive(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_1, FakeSource({JAN_1: 280}))
        ingest(settings, JAN_2, JAN_2, FakeSource({JAN_2: 290}))
        assert quality(settings) == [0, DayQuality.JUMP]

    def test_a_stale_copy_is_seen_on_every_night_it_comes_again(self, settings: Settings) -> None:
        stale = FakeSource({JAN_1: 280, JAN_2: 280, JAN_3: 280})
        for day in (JAN_1, JAN_2, JAN_3):
            ingest(settings, day, day, stale)
        assert quality(settings) == [0, DayQuality.REPEATED, DayQuality.REPEATED]
        ingest(settings, JAN_3, JAN_3, stale)
        assert Archive(settings).last_day() == JAN_1

    def test_a_revision_replaces_and_the_same_again_changes_nothing(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_2, FakeSource({JAN_1: 280, JAN_2: 281}))
        revised = FakeSource({JAN_1: 280, JAN_2: 281.5})
        assert ingest(settings, JAN_1, JAN_2, revised).revised == [JAN_2]
        assert kelvin(settings, JAN_2) == 281.5
        assert not ingest(settings, JAN_1, JAN_2, revised).changed

    def test_without_any_day_it_is_not_yet_available_and_nothing_is_made(self, settings: Settings) -> None:
        with pytest.raises(NotYetAvailableError, match="FAKE has no day in 2023-01-02 … 2023-01-03"):
            ingest(settings, JAN_2, JAN_3, FakeSource({JAN_1: 280}))
        assert not Archive(settings).exists()

    def test_a_source_that_does_not_cover_the_region_is_refused(self, settings: Settings) -> None:
        with pytest.raises(GridError, match="read more of the source"):
            ingest(settings, JAN_1, JAN_1, FakeSource({JAN_1: 280}, margin=-1))

    def test_a_refused_first_write_is_no_obstacle_to_a_right_one(self, settings: Settings) -> None:
        too_early = date(2021, 12, 31)
        with pytest.raises(ArchiveError, match="before the archive's first day 2022-01-01"):
            ingest(settings, too_early, too_early, FakeSource({too_early: 280}))
        assert ingest(settings, JAN_1, JAN_1, FakeSource({JAN_1: 280})).added == [JAN_1]


class TestBackfill:
    FIRST, LAST = date(2022, 11, 1), date(2024, 1, 10)
    PIECES = [
        (date(2022, 11, 1), date(2022, 12, 31)),
        (date(2023, 1, 1), date(2023, 12, 31)),
        (date(2024, 1, 1), date(2024, 1, 10)),
    ]

    @pytest.fixture
    def source(self, monkeypatch: pytest.MonkeyPatch) -> FakeSource:
        """The source that the settings name, for a backfill takes no other."""
        source = FakeSource(rising(self.FIRST, self.LAST))
        monkeypatch.setattr(module, "open_source", lambda settings: source)
        return source

    def test_years_are_pieces(self) -> None:
        assert yearly_pieces(self.FIRST, self.LAST) == self.PIECES
        assert yearly_pieces(JAN_1, JAN_1) == [(JAN_1, JAN_1)]

    def test_a_finished_backfill_reads_nothing_the_second_time(self, settings: Settings, source: FakeSource) -> None:
        done = list(backfill(settings, self.FIRST, self.LAST))
        assert source.reads == self.PIECES
        assert [(first, last) for first, last, _ in done] == self.PIECES
        assert [len(report.added) for _, _, report in done if report] == [61, 365, 10]
        snapshot = Archive(settings).snapshot_id()
        source.reads.clear()
        assert [report for _, _, report in backfill(settings, self.FIRST, self.LAST)] == [None] * 3
        assert source.reads == []
        assert Archive(settings).snapshot_id() == snapshot

    def test_one_that_stopped_goes_on_with_the_remaining_years(self, settings: Settings, source: FakeSource) -> None:
        source.broken_years = {2023}
        with pytest.raises(TransientSourceError):
            list(backfill(settings, self.FIRST, self.LAST))
        assert Archive(settings).last_day() == date(2022, 12, 31)
        source.broken_years = set()
        source.reads.clear()
        list(backfill(settings, self.FIRST, self.LAST))
        assert source.reads == self.PIECES[1:]
        assert Archive(settings).usable_days() == consecutive(self.FIRST, self.LAST)

    def test_a_year_that_lacks_a_day_is_asked_for_again(self, settings: Settings, source: FakeSource) -> None:
        lost = source.days.pop(date(2023, 6, 1))
        list(backfill(settings, self.FIRST, self.LAST))
        source.days[date(2023, 6, 1)] = lost
        source.reads.clear()
        reports = [report for _, _, report in backfill(settings, self.FIRST, self.LAST)]
        assert source.reads == [self.PIECES[1]]
        assert reports[1] is not None
        assert reports[1].added == [date(2023, 6, 1)]

    def test_a_year_the_source_does_not_have_is_skipped_aloud(
        self, settings: Settings, source: FakeSource, caplog: pytest.LogCaptureFixture
    ) -> None:
        source.days = {day: kelvin for day, kelvin in source.days.items() if day.year != 2022}
        reports = [report for _, _, report in backfill(settings, self.FIRST, self.LAST)]
        assert [report is None for report in reports] == [True, False, False]
        assert "FAKE has no day in 2022-11-01 … 2022-12-31" in caplog.text
        assert Archive(settings).usable_days()[0] == JAN_1

    def test_the_turn_of_a_year_is_checked_like_any_other_night(self, settings: Settings, source: FakeSource) -> None:
        new_year = date(2023, 1, 1)
        source.days[new_year] = source.days[new_year - timedelta(days=1)]
        list(backfill(settings, self.FIRST, JAN_3))
        assert quality(settings)[0] == DayQuality.REPEATED
