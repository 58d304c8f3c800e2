"""From the source into the archive: gaps stay gaps, better days stay, and whatever stopped goes on where it stopped."""

import logging
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

from datlstm import ingest as module
from datlstm.archive import Archive, consecutive
from datlstm.errors import (
    ArchiveError,
    GridError,
    NotYetAvailableError,
    PermanentSourceError,
    SourceError,
    TransientSourceError,
)
from datlstm.ingest import backfill, ingest, ingest_night, night_window, patient_ingest, yearly_pieces
from datlstm.product_step import ProductStep
from datlstm.quality import DayQuality
from datlstm.settings import ArchiveSettings, CopernicusSource, Settings
from datlstm.sources import Source
from datlstm.store import Store
from tests.fake_source import REGION, FakeSource, Record, record, rising

if TYPE_CHECKING:
    from tests.unit.conftest import Clock

JAN_1, JAN_2, JAN_3, JAN_4 = (date(2023, 1, day) for day in range(1, 5))
NIGHT = date(2023, 6, 15)
"""A Thursday, the day on which the `clock` starts."""
SUNDAY = date(2023, 6, 18)
ARCHIVE = ArchiveSettings(first_day=date(2022, 1, 1), chunk_days=100)
DOWN, LATE = TransientSourceError("the line is down"), NotYetAvailableError("not there yet")
POLL_MINUTES = 120
"""From five in the morning three polls reach up to the deadline at noon."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    retry = settings.source.retry.model_copy(update={"poll_minutes": POLL_MINUTES})
    source = settings.source.model_copy(update={"retry": retry})
    return settings.replace(region=REGION, archive=ARCHIVE, source=source)


def source_of(days: dict[date, float], **options: str) -> FakeSource:
    return FakeSource([record(days, **options)])


def held(settings: Settings) -> xr.Dataset:
    """Return all the archive holds, but for when it was written."""
    return Archive(settings).open().load().drop_vars("ingested_at")


def quality(settings: Settings) -> list[int]:
    return Archive(settings).open()["quality"].sel(time=slice("2023-01-01", None)).values.tolist()


def kelvin(settings: Settings, day: date) -> float:
    return float(Archive(settings).read(day, day)["sst"].mean())


def origins(settings: Settings, *days: date) -> list[str]:
    """Return product and version of days of the archive."""
    known = Archive(settings).provenance().loc[list(days)]
    return [f"{row.source_product} {row.source_version}" for row in known.itertuples()]


def test_the_fake_is_a_source() -> None:
    assert isinstance(FakeSource([]), Source)


class TestIngest:
    def test_days_reach_the_archive_with_where_they_came_from(self, settings: Settings) -> None:
        report = ingest(settings, JAN_1, JAN_2, source_of({JAN_1: 280, JAN_2: 281}, version="7"))
        assert report.upsert.added == [JAN_1, JAN_2]
        assert (report.missing, report.problems) == ([], [])
        stored = held(settings).sel(time=slice("2023-01-01", None))
        assert origins(settings, JAN_1, JAN_2) == ["NRT 7", "NRT 7"]
        assert Archive(settings).attribution() == "nobody"
        assert (kelvin(settings, JAN_1), kelvin(settings, JAN_2)) == (280, 281)
        land = ~Archive(settings).ocean_mask()
        assert land.any()
        assert stored["sst"].where(land).isnull().all()
        assert (stored["sea_ice_fraction"].max(), stored["analysis_error"].max()) == (0, 0.25)

    def test_what_a_source_does_not_have_beside_sst_is_left_unknown(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_1, FakeSource([record({JAN_1: 280})], ice=False, error=False))
        assert held(settings)[["sea_ice_fraction", "analysis_error"]].isnull().all().to_array().all()

    def test_a_day_that_the_source_lacks_stays_missing_and_is_noted(self, settings: Settings) -> None:
        report = ingest(settings, JAN_1, JAN_4, source_of({JAN_1: 280, JAN_3: 281}))
        assert report.upsert.added == [JAN_1, JAN_3]
        assert report.upsert.absent == [JAN_2]
        assert report.missing == [JAN_2, JAN_4]
        assert quality(settings) == [0, DayQuality.MISSING, 0]
        assert np.isnan(kelvin(settings, JAN_2))
        assert origins(settings, JAN_2) == ["NRT 1"]

    def test_the_report_is_one_line_that_names_what_is_missing(self, settings: Settings) -> None:
        report = ingest(settings, JAN_1, date(2023, 1, 9), source_of({JAN_1: 280, JAN_3: 281}))
        assert str(report) == (
            "2023-01-01 … 2023-01-09: 2 days added, 0 revised, 0 unchanged, 7 missing (2023-01-02, 2023-01-04, "
            f"2023-01-05, 2023-01-06, 2023-01-07, …); snapshot {Archive(settings).snapshot_id()}"
        )

    def test_what_the_source_says_of_itself_is_reported_and_logged(
        self, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = FakeSource([record({JAN_1: 280})], problems=["NRT will be retired"])
        assert ingest(settings, JAN_1, JAN_1, source).problems == ["NRT will be retired"]
        assert "NRT will be retired" in caplog.text

    def test_a_flagged_day_is_stored_flagged_and_logged(
        self, settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            ingest(settings, JAN_1, JAN_3, source_of({JAN_1: 280, JAN_2: 290, JAN_3: 7}))
        assert quality(settings) == [0, DayQuality.JUMP, DayQuality.JUMP | DayQuality.OUT_OF_RANGE]
        assert Archive(settings).open()["sst"][-1].max() == 7
        assert [(r.levelname, r.getMessage()) for r in caplog.records if r.name == module.__name__] == [
            ("INFO", "2023-01-02 is flagged JUMP"),
            ("WARNING", "2023-01-03 is flagged OUT_OF_RANGE|JUMP"),
        ]

    def test_the_first_day_is_checked_against_the_archive(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_1, source_of({JAN_1: 280}))
        ingest(settings, JAN_2, JAN_2, source_of({JAN_2: 290}))
        assert quality(settings) == [0, DayQuality.JUMP]

    def test_a_stale_copy_is_seen_on_every_night_it_comes_again(self, settings: Settings) -> None:
        stale = source_of({JAN_1: 280, JAN_2: 280, JAN_3: 280})
        for day in (JAN_1, JAN_2, JAN_3):
            ingest(settings, day, day, stale)
        assert quality(settings) == [0, DayQuality.REPEATED, DayQuality.REPEATED]
        ingest(settings, JAN_3, JAN_3, stale)
        assert Archive(settings).last_day() == JAN_1

    def test_a_lone_stale_copy_is_flagged_and_gives_way_to_the_true_day(self, settings: Settings) -> None:
        days = rising(JAN_1, date(2023, 1, 14))
        true = days[JAN_3]
        report = ingest(settings, JAN_1, date(2023, 1, 14), source_of({**days, JAN_3: days[JAN_2]}))
        assert report.missing == [JAN_3]
        assert ingest(settings, JAN_1, date(2023, 1, 14), source_of(days)).upsert.revised == [JAN_3]
        assert kelvin(settings, JAN_3) == pytest.approx(true, abs=1e-4)

    def test_a_revision_replaces_and_the_same_again_changes_nothing(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_2, source_of({JAN_1: 280, JAN_2: 281}))
        revised = source_of({JAN_1: 280, JAN_2: 281.5})
        assert ingest(settings, JAN_1, JAN_2, revised).upsert.revised == [JAN_2]
        assert kelvin(settings, JAN_2) == 281.5
        assert not ingest(settings, JAN_1, JAN_2, revised).upsert.changed

    @pytest.mark.parametrize("shift", [-1, 1], ids=["later", "earlier"])
    def test_a_delivery_in_which_every_day_is_the_one_beside_it_is_refused_whole(
        self, settings: Settings, shift: int
    ) -> None:
        days = rising(JAN_1, date(2023, 1, 20))
        ingest(settings, JAN_1, date(2023, 1, 18), source_of(days))
        before, snapshot = held(settings), Archive(settings).snapshot_id()
        shifted = {day: days[day + timedelta(days=shift)] for day in consecutive(JAN_4, date(2023, 1, 19))}
        with pytest.raises(TransientSourceError, match="came as the archive's day beside them.*nothing was taken"):
            ingest(settings, JAN_4, date(2023, 1, 19), source_of(shifted))
        assert Archive(settings).snapshot_id() == snapshot
        xr.testing.assert_identical(held(settings), before)

    def test_without_any_day_it_is_not_yet_available_and_nothing_is_made(self, settings: Settings) -> None:
        with pytest.raises(NotYetAvailableError, match="NRT have no whole day in 2023-01-02 … 2023-01-03"):
            ingest(settings, JAN_2, JAN_3, source_of({JAN_1: 280}))
        assert not Archive(settings).exists()

    def test_without_any_day_an_archive_notes_that_it_asked(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_1, source_of({JAN_1: 280}))
        with pytest.raises(NotYetAvailableError):
            ingest(settings, JAN_2, JAN_3, source_of({JAN_4: 280}, version="2"))
        assert held(settings)["source_version"].values[-1] == "1"
        with pytest.raises(NotYetAvailableError):
            ingest(settings, JAN_2, JAN_3, FakeSource([record({}, version="2", announced=(JAN_1, JAN_4))]))
        assert origins(settings, JAN_1, JAN_2, JAN_3) == ["NRT 1", "NRT 2", "NRT 2"]
        assert kelvin(settings, JAN_1) == 280

    def test_a_source_that_does_not_cover_the_region_is_refused(self, settings: Settings) -> None:
        with pytest.raises(GridError, match="read more of the source"):
            ingest(settings, JAN_1, JAN_1, FakeSource([record({JAN_1: 280})], margin=-1))

    def test_a_refused_first_write_is_no_obstacle_to_a_right_one(self, settings: Settings) -> None:
        too_early = date(2021, 12, 31)
        with pytest.raises(ArchiveError, match="before the archive's first day 2022-01-01"):
            ingest(settings, too_early, too_early, source_of({too_early: 280}))
        assert ingest(settings, JAN_1, JAN_1, source_of({JAN_1: 280})).upsert.added == [JAN_1]


class TestTwoProducts:
    def source(self, reprocessed: dict[date, float], near_real_time: dict[date, float]) -> FakeSource:
        better = record(reprocessed, "REP", "2020", (JAN_1, JAN_3))
        return FakeSource([better, record(near_real_time, "NRT", "1", (JAN_1, JAN_4))])

    def test_each_day_is_of_the_best_product_that_has_it_and_second_choices_say_so(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_4, self.source({JAN_1: 280, JAN_3: 281}, {JAN_2: 280.5, JAN_4: 281.5}))
        assert origins(settings, JAN_1, JAN_2, JAN_3, JAN_4) == [
            "REP 2020",
            "NRT 1 (not in REP 2020)",
            "REP 2020",
            "NRT 1",
        ]

    def test_a_better_day_replaces_a_lesser_one_and_never_the_other_way(self, settings: Settings) -> None:
        days = {JAN_1: 280.0, JAN_2: 280.5}
        ingest(settings, JAN_1, JAN_2, self.source({}, days))
        better = {day: kelvin + 0.1 for day, kelvin in days.items()}
        assert ingest(settings, JAN_1, JAN_2, self.source(better, days)).upsert.revised == [JAN_1, JAN_2]
        snapshot = Archive(settings).snapshot_id()
        report = ingest(settings, JAN_1, JAN_2, self.source({}, days))
        assert not report.upsert.changed
        assert report.upsert.snapshot_id == Archive(settings).snapshot_id() == snapshot
        assert origins(settings, JAN_1, JAN_2) == ["REP 2020"] * 2

    def test_an_unusable_better_day_leaves_the_lesser_one_and_is_noted(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_2, self.source({}, {JAN_1: 280, JAN_2: 280.5}))
        report = ingest(settings, JAN_1, JAN_2, self.source({JAN_1: 280.1, JAN_2: 999}, {}))
        assert (report.upsert.revised, report.upsert.refused) == ([JAN_1], [JAN_2])
        assert kelvin(settings, JAN_2) == 280.5
        assert origins(settings, JAN_1, JAN_2) == ["REP 2020", "NRT 1 (not in REP 2020)"]


class TestStepBetweenProducts:
    @pytest.fixture
    def corrected(self, settings: Settings) -> Settings:
        copernicus = CopernicusSource(subtract_step=True)
        return settings.replace(source=settings.source.model_copy(update={"copernicus": copernicus}))

    @pytest.fixture
    def source(self) -> FakeSource:
        return FakeSource(
            [record({JAN_1: 280}, "REP", "2020", (JAN_1, JAN_2)), record({JAN_2: 280.5, JAN_3: 281}, "NRT", "1")]
        )

    def test_it_is_taken_off_near_real_time_days_only_and_they_say_so(
        self, corrected: Settings, source: FakeSource
    ) -> None:
        step = stored_step(corrected, 0.25)
        ingest(corrected, JAN_1, JAN_3, source)
        assert [kelvin(corrected, day) for day in (JAN_1, JAN_2, JAN_3)] == [280, 280.25, 280.75]
        assert origins(corrected, JAN_1, JAN_2, JAN_3) == [
            "REP 2020",
            f"NRT 1 (not in REP 2020) minus step {step}",
            f"NRT 1 minus step {step}",
        ]

    def test_one_that_was_never_measured_is_asked_for(self, corrected: Settings, source: FakeSource) -> None:
        with pytest.raises(ArchiveError, match="no step is stored: run `datlstm product-step`"):
            ingest(corrected, JAN_1, JAN_3, source)

    def test_a_single_product_has_none(self, corrected: Settings) -> None:
        ingest(corrected, JAN_1, JAN_1, source_of({JAN_1: 280}))
        assert kelvin(corrected, JAN_1) == 280


def stored_step(settings: Settings, value: float) -> str:
    """Store a step that is the same everywhere and always, and return its id."""
    grid = Archive(settings).grid
    coords = {"month": np.arange(1, 13, dtype="int8"), **grid.coords()}
    maps = xr.DataArray(np.full((12, *grid.shape), value, "float32"), coords, ("month", "latitude", "longitude"))
    n_days = xr.DataArray(np.full(12, 60, "int32"), {"month": coords["month"]}, ("month",), name="n_days")
    step = ProductStep(maps, xr.zeros_like(maps), n_days, "NRT 1", "REP 2020", JAN_1, JAN_2)
    return step.save(Store(settings.store))


class TestNight:
    def test_the_window_is_two_weeks_and_on_sundays_two_months(self, settings: Settings) -> None:
        assert night_window(settings, NIGHT) == (NIGHT - timedelta(days=14), NIGHT - timedelta(days=1))
        assert night_window(settings, SUNDAY) == (SUNDAY - timedelta(days=60), SUNDAY - timedelta(days=1))

    def test_after_an_outage_the_window_is_that_of_the_last_good_night_and_all_since(self, settings: Settings) -> None:
        ingest(settings, JAN_1, JAN_2, source_of(rising(JAN_1, JAN_2)))
        assert night_window(settings, NIGHT) == (JAN_4 - timedelta(days=14), NIGHT - timedelta(days=1))
        assert night_window(settings, JAN_4) == (JAN_4 - timedelta(days=14), JAN_3)

    def test_the_window_never_reaches_before_the_archive_s_first_day(self, settings: Settings) -> None:
        assert night_window(settings, date(2022, 1, 5))[0] == ARCHIVE.first_day

    def test_days_missing_in_the_last_two_months_are_asked_for_and_older_ones_not(self, settings: Settings) -> None:
        days = rising(date(2023, 3, 1), NIGHT - timedelta(days=1))
        for gap in (date(2023, 4, 1), date(2023, 5, 1)):
            del days[gap]
        ingest(settings, date(2023, 3, 1), NIGHT, source_of(days))
        assert night_window(settings, NIGHT)[0] == date(2023, 5, 1)

    def test_a_night_before_the_archive_s_first_day_is_refused(self, settings: Settings) -> None:
        with pytest.raises(ArchiveError, match="choose a later night"):
            ingest_night(settings, ARCHIVE.first_day, source_of({JAN_1: 280}))

    @pytest.mark.parametrize("outage_days", [10, 800])
    def test_an_outage_is_caught_up_in_pieces_of_a_year(self, settings: Settings, outage_days: int) -> None:
        last = NIGHT - timedelta(days=1)
        back = last - timedelta(days=outage_days)
        settings = settings.replace(archive=ARCHIVE.model_copy(update={"first_day": date(2021, 1, 1)}))
        source = source_of(rising(back - timedelta(days=20), last))
        ingest(settings, back - timedelta(days=20), back, source)
        source.reads.clear()
        report = ingest_night(settings, NIGHT, source)
        assert Archive(settings).usable_days() == consecutive(back - timedelta(days=20), last)
        assert report.upsert.added == consecutive(back + timedelta(days=1), last)
        assert (report.first_day, report.last_day, report.missing) == (back - timedelta(days=12), last, [])
        assert (source.reads[0][0], source.reads[-1][1]) == (report.first_day, report.last_day)
        assert len(source.reads) == (1 if outage_days == 10 else 3)
        assert max((end - start).days + 1 for start, end in source.reads) <= 366

    def test_a_year_that_the_source_lacks_does_not_stop_the_night(self, settings: Settings) -> None:
        settings = settings.replace(archive=ARCHIVE.model_copy(update={"first_day": date(2020, 1, 1)}))
        recent = rising(date(2023, 6, 1), NIGHT - timedelta(days=1))
        ingest(settings, date(2020, 1, 1), date(2020, 1, 2), source_of(rising(date(2020, 1, 1), date(2020, 1, 2))))
        report = ingest_night(settings, NIGHT, source_of(recent))
        assert report.upsert.added == list(recent)
        assert report.missing == consecutive(date(2020, 1, 3), date(2023, 5, 31))

    @pytest.mark.parametrize(
        "error",
        [DOWN, LATE, PermanentSourceError("no such dataset"), SourceError("odd")],
        ids=lambda e: type(e).__name__,
    )
    def test_the_week_before_is_untouched_after_any_failure_of_the_source(
        self, settings: Settings, error: SourceError
    ) -> None:
        source = source_of(rising(date(2023, 6, 1), NIGHT))
        ingest_night(settings, NIGHT, source)
        before, snapshot = held(settings), Archive(settings).snapshot_id()
        source.failures = [error]
        with pytest.raises(type(error)):
            ingest_night(settings, NIGHT + timedelta(days=1), source)
        assert Archive(settings).snapshot_id() == snapshot
        xr.testing.assert_identical(held(settings), before)

    def test_what_was_read_before_a_failure_stays(self, settings: Settings) -> None:
        settings = settings.replace(archive=ARCHIVE.model_copy(update={"first_day": date(2021, 1, 1)}))
        back = NIGHT - timedelta(days=801)
        source = source_of(rising(back, NIGHT))
        ingest(settings, back, back, source)
        source.failures = [None, DOWN]
        with pytest.raises(TransientSourceError):
            ingest_night(settings, NIGHT, source)
        assert Archive(settings).usable_days() == consecutive(back, back + timedelta(days=2 - 14 + 365))

    def test_revised_days_of_the_window_replace(self, settings: Settings) -> None:
        days = rising(date(2023, 6, 1), NIGHT)
        ingest_night(settings, NIGHT, source_of(days))
        report = ingest_night(settings, NIGHT, source_of({**days, date(2023, 6, 10): 281.5}))
        assert report.upsert.revised == [date(2023, 6, 10)]


class TestUpgrade:
    """A reprocessed product comes out over near-real-time days that are long outside the window."""

    FIRST, LAST = date(2022, 1, 1), date(2022, 3, 31)

    @pytest.fixture
    def few(self, settings: Settings) -> Settings:
        """Settings of a night that upgrades fewer days than there are."""
        return settings.replace(archive=ARCHIVE.model_copy(update={"upgrade_days": 40}))

    @pytest.fixture
    def near_real_time(self, settings: Settings) -> Record:
        """What the archive was filled with, up to the night before."""
        made = record(rising(self.FIRST, self.LAST) | rising(date(2023, 4, 1), date(2023, 6, 30)))
        ingest(settings, self.FIRST, self.LAST, FakeSource([made]))
        ingest(settings, date(2023, 4, 1), NIGHT - timedelta(days=2), FakeSource([made]))
        return made

    def reprocessed(self, lacking: tuple[date, ...] = (), version: str = "2020", last_day: date = LAST) -> Record:
        days = {day: kelvin + 0.2 for day, kelvin in rising(self.FIRST, last_day).items() if day not in lacking}
        return record(days, "REP", version, (self.FIRST, last_day))

    def nights(self, settings: Settings, source: FakeSource, count: int) -> list[list[tuple[date, date]]]:
        """Run nights one after the other and return the intervals that each read outside its window."""
        asked = []
        for night in (NIGHT + timedelta(days=i) for i in range(count)):
            source.reads.clear()
            ingest_night(settings, night, source)
            asked.append(source.reads[1:])
        return asked

    def test_stale_days_are_upgraded_oldest_first_and_then_left_alone(
        self, few: Settings, near_real_time: Record
    ) -> None:
        asked = self.nights(few, FakeSource([self.reprocessed(), near_real_time]), 5)
        bounds = [self.FIRST + timedelta(days=40 * i) for i in range(3)]
        day = timedelta(days=1)
        assert asked[:3] == [[(bounds[0], bounds[1] - day)], [(bounds[1], bounds[2] - day)], [(bounds[2], self.LAST)]]
        assert asked[3:] == [[], []]
        assert set(origins(few, *consecutive(self.FIRST, self.LAST))) == {"REP 2020"}

    def test_a_day_that_the_better_product_lacks_keeps_what_it_has_and_is_not_asked_again(
        self, settings: Settings, near_real_time: Record
    ) -> None:
        lacking = (self.FIRST, date(2022, 2, 20))
        asked = self.nights(settings, FakeSource([self.reprocessed(lacking), near_real_time]), 2)
        assert asked == [[(self.FIRST, self.LAST)], []]
        assert origins(settings, *lacking) == ["NRT 1 (not in REP 2020)"] * 2
        assert Archive(settings).usable_days()[:90] == consecutive(self.FIRST, self.LAST)

    def test_nor_when_no_product_gives_the_day_any_more(self, settings: Settings, near_real_time: Record) -> None:
        lacking = (self.FIRST, date(2022, 2, 20))
        for day in lacking:
            del near_real_time.days[day]
        asked = self.nights(settings, FakeSource([self.reprocessed(lacking), near_real_time]), 2)
        assert asked == [[(self.FIRST, self.LAST)], []]
        assert kelvin(settings, self.FIRST) == pytest.approx(280, abs=1e-4)

    def test_nor_when_the_better_day_is_not_usable(self, settings: Settings, near_real_time: Record) -> None:
        better = self.reprocessed()
        better.days[self.FIRST] = 999
        asked = self.nights(settings, FakeSource([better, near_real_time]), 2)
        assert asked == [[(self.FIRST, self.LAST)], []]
        assert kelvin(settings, self.FIRST) == pytest.approx(280, abs=1e-4)

    def test_nor_when_a_new_version_lacks_a_day_of_the_old_one(
        self, settings: Settings, near_real_time: Record
    ) -> None:
        ingest(settings, self.FIRST, self.LAST, FakeSource([self.reprocessed(), near_real_time]))
        newer = self.reprocessed((self.FIRST,), version="2021")
        asked = self.nights(settings, FakeSource([newer, near_real_time]), 2)
        assert asked == [[(self.FIRST, self.LAST)], []]
        assert origins(settings, self.FIRST, self.LAST) == ["REP 2020 (not in REP 2021)", "REP 2021"]
        assert kelvin(settings, self.FIRST) == pytest.approx(280.2, abs=1e-4)

    def test_a_gap_that_the_better_product_does_not_fill_is_asked_for_once(
        self, settings: Settings, near_real_time: Record
    ) -> None:
        gap = self.LAST + timedelta(days=1)
        ingest(settings, self.LAST, gap, FakeSource([near_real_time]))
        assert origins(settings, gap) == ["NRT 1"]
        source = FakeSource([self.reprocessed(last_day=gap, lacking=(gap,)), near_real_time])
        ingest(settings, self.FIRST, self.LAST, source)
        assert self.nights(settings, source, 2) == [[(gap, gap)], []]

    def test_days_that_are_announced_and_do_not_come_do_not_keep_others_from_their_turn(
        self, few: Settings, near_real_time: Record
    ) -> None:
        source = FakeSource([self.reprocessed(), near_real_time], failures=[None, LATE])
        ingest_night(few, NIGHT, source)
        later = date(2022, 2, 10)
        assert origins(few, self.FIRST, later) == ["NRT 1", "REP 2020"]

    def test_waiting_for_the_newest_day_does_not_upgrade_more(
        self, few: Settings, near_real_time: Record, clock: "Clock"
    ) -> None:
        near_real_time.days = {day: k for day, k in near_real_time.days.items() if day < date(2023, 6, 14)}
        source = FakeSource([self.reprocessed(), near_real_time])
        report = patient_ingest(few, NIGHT, source)
        assert report.missing == [date(2023, 6, 14)]
        assert len(clock.waits) == 3
        known = Archive(few).provenance()
        upgraded = known.index[known["source_product"] == "REP"].tolist()
        assert upgraded == consecutive(self.FIRST, self.FIRST + timedelta(days=39))


class TestPatience:
    @pytest.fixture
    def source(self) -> FakeSource:
        return source_of(rising(date(2023, 6, 1), date(2023, 6, 14)))

    def test_a_failure_that_passes_is_waited_out(self, settings: Settings, source: FakeSource, clock: "Clock") -> None:
        source.failures = [DOWN, DOWN]
        assert patient_ingest(settings, NIGHT, source).missing == []
        assert len(clock.waits) == 2

    def test_the_newest_day_is_polled_for_and_what_came_in_between_is_reported_as_one_night(
        self, settings: Settings, source: FakeSource, clock: "Clock", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newest = source.records[0].days.pop(date(2023, 6, 14))
        whole = FakeSource.read

        def read(asked: FakeSource, first_day: date, last_day: date) -> xr.Dataset:
            if len(clock.waits) == 2:
                asked.records[0].days[date(2023, 6, 14)] = newest
            return whole(asked, first_day, last_day)

        monkeypatch.setattr(FakeSource, "read", read)
        report = patient_ingest(settings, NIGHT, source)
        assert clock.waits == [POLL_MINUTES * 60] * 2
        assert report.upsert.added == consecutive(date(2023, 6, 1), date(2023, 6, 14))
        assert report.missing == []

    def test_a_newest_day_that_never_comes_is_reported_missing(
        self, settings: Settings, source: FakeSource, clock: "Clock"
    ) -> None:
        del source.records[0].days[date(2023, 6, 14)]
        report = patient_ingest(settings, NIGHT, source)
        assert report.missing == [date(2023, 6, 14)]
        assert len(report.upsert.added) == 13
        assert clock.now().hour == 11

    def test_a_source_that_has_nothing_until_the_deadline_is_not_yet_available(
        self, settings: Settings, clock: "Clock"
    ) -> None:
        with pytest.raises(NotYetAvailableError, match="no whole day"):
            patient_ingest(settings, NIGHT, source_of({JAN_1: 280}))
        assert clock.now().hour == 11

    def test_what_waiting_cannot_mend_fails_at_once(
        self, settings: Settings, source: FakeSource, clock: "Clock"
    ) -> None:
        source.failures = [PermanentSourceError("no such dataset")]
        with pytest.raises(PermanentSourceError):
            patient_ingest(settings, NIGHT, source)
        assert clock.waits == []

    def test_a_past_night_takes_what_is_there_without_waiting(
        self, settings: Settings, source: FakeSource, clock: "Clock"
    ) -> None:
        report = patient_ingest(settings, date(2023, 6, 3), FakeSource([record({date(2023, 6, 1): 280})]))
        assert report.missing[-1] == date(2023, 6, 2)
        assert clock.waits == []


class TestBackfill:
    FIRST, LAST = date(2022, 11, 1), date(2024, 1, 10)
    PIECES = [
        (date(2022, 11, 1), date(2022, 12, 31)),
        (date(2023, 1, 1), date(2023, 12, 31)),
        (date(2024, 1, 1), date(2024, 1, 10)),
    ]
    LOST = date(2023, 6, 1)

    @pytest.fixture
    def source(self) -> FakeSource:
        return source_of(rising(self.FIRST, self.LAST))

    def fill(self, settings: Settings, source: FakeSource, *, again: bool = False) -> list[list[date] | None]:
        """Run a backfill and return the days that each piece added, None for one that was not read."""
        source.reads.clear()
        done = list(backfill(settings, self.FIRST, self.LAST, source, again=again))
        assert [(first, last) for first, last, _ in done] == self.PIECES
        return [report and report.upsert.added for _, _, report in done]

    def test_years_are_pieces(self) -> None:
        assert yearly_pieces(self.FIRST, self.LAST) == self.PIECES
        assert yearly_pieces(JAN_1, JAN_1) == [(JAN_1, JAN_1)]

    def test_a_finished_backfill_reads_nothing_the_second_time_unless_it_is_told_to(
        self, settings: Settings, source: FakeSource
    ) -> None:
        assert [len(added or []) for added in self.fill(settings, source)] == [61, 365, 10]
        assert source.reads == self.PIECES
        snapshot = Archive(settings).snapshot_id()
        assert self.fill(settings, source) == [None] * 3
        assert source.reads == []
        assert self.fill(settings, source, again=True) == [[], [], []]
        assert source.reads == self.PIECES
        assert Archive(settings).snapshot_id() == snapshot

    def test_one_that_stopped_goes_on_with_the_remaining_years(
        self, settings: Settings, source: FakeSource, clock: "Clock"
    ) -> None:
        source.failures = [None, *[DOWN] * 6]
        with pytest.raises(TransientSourceError):
            self.fill(settings, source)
        assert len(clock.waits) == 5
        assert Archive(settings).last_day() == date(2022, 12, 31)
        assert self.fill(settings, source)[0] is None
        assert source.reads == self.PIECES[1:]
        assert Archive(settings).usable_days() == consecutive(self.FIRST, self.LAST)

    def test_a_failure_that_passes_is_waited_out(self, settings: Settings, source: FakeSource, clock: "Clock") -> None:
        source.failures = [None, DOWN]
        self.fill(settings, source)
        assert len(clock.waits) == 1
        assert Archive(settings).usable_days() == consecutive(self.FIRST, self.LAST)

    def test_a_year_with_an_absent_day_is_finished_once_it_was_asked_and_again_asks_it_again(
        self, settings: Settings, source: FakeSource
    ) -> None:
        lost = source.records[0].days.pop(self.LOST)
        self.fill(settings, source)
        source.records[0].days[self.LOST] = lost
        assert self.fill(settings, source) == [None] * 3
        assert self.fill(settings, source, again=True) == [[], [self.LOST], []]

    def test_a_year_of_which_the_source_has_no_day_is_skipped_aloud_and_once(
        self, settings: Settings, source: FakeSource, caplog: pytest.LogCaptureFixture
    ) -> None:
        days = source.records[0].days
        source.records[0].days = {day: kelvin for day, kelvin in days.items() if day.year != 2023}
        assert [added is None for added in self.fill(settings, source)] == [False, True, False]
        assert "NRT have no whole day in 2023-01-01 … 2023-12-31" in caplog.text
        self.fill(settings, source)
        assert source.reads == []

    def test_a_year_that_was_stored_from_a_lesser_product_is_not_finished(
        self, settings: Settings, source: FakeSource
    ) -> None:
        self.fill(settings, source)
        better = record({day: kelvin + 0.2 for day, kelvin in rising(*self.PIECES[0]).items()}, "REP", "2020")
        assert self.fill(settings, FakeSource([better, *source.records])) == [[], None, None]
        assert origins(settings, *self.PIECES[0], JAN_1) == ["REP 2020", "REP 2020", "NRT 1"]

    def test_the_turn_of_a_year_is_checked_like_any_other_night(self, settings: Settings, source: FakeSource) -> None:
        source.records[0].days[JAN_1] = source.records[0].days[JAN_1 - timedelta(days=1)]
        list(backfill(settings, self.FIRST, JAN_3, source))
        assert quality(settings)[0] == DayQuality.REPEATED
