"""The archive: what an upsert does to each day, what a reader gets, and what is refused."""

from collections.abc import Callable, Mapping
from datetime import date

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

from datlstm import archive as archive_module
from datlstm.archive import FORMAT_VERSION, NO_DAYS, Archive, Provenance, UpsertReport, consecutive
from datlstm.errors import ArchiveError
from datlstm.grid import Grid
from datlstm.quality import DayQuality
from datlstm.settings import Settings
from datlstm.store import Store

Put = Callable[..., UpsertReport]
JAN_1, JAN_2, JAN_3, JAN_4, JAN_5 = (date(2024, 1, day) for day in range(1, 6))


@pytest.fixture
def settings(settings: Settings, store_url: str) -> Settings:
    archive = settings.archive.model_copy(update={"first_day": JAN_1, "chunk_days": 2})
    return settings.replace(store=store_url, archive=archive)


def mask_of(settings: Settings) -> xr.DataArray:
    """Return a mask with land in its first row."""
    grid = Grid.from_region(settings.region)
    cells = np.ones(grid.shape, bool)
    cells[0] = False
    return xr.DataArray(cells, dims=("latitude", "longitude"), coords=grid.coords())


def days_of(
    settings: Settings,
    days: dict[date, float],
    quality: DayQuality = DayQuality.GOOD,
    product: str = "P",
    version: str = "1",
) -> xr.Dataset:
    """Return one flat field per day."""
    ocean = mask_of(settings)
    time = np.array(list(days), "datetime64[ns]")
    kelvin = xr.DataArray(np.array(list(days.values()), "float32"), dims="time", coords={"time": time})
    sst = kelvin.where(ocean).transpose("time", ...)
    return xr.Dataset(
        {
            "sst": sst,
            "sea_ice_fraction": xr.zeros_like(sst).where(ocean),
            "analysis_error": xr.full_like(sst, 0.25).where(ocean),
            "quality": ("time", np.full(time.size, int(quality), "uint8")),
            "source_product": ("time", np.full(time.size, product, dtype=object)),
            "source_version": ("time", np.full(time.size, version, dtype=object)),
        }
    )


@pytest.fixture
def put(settings: Settings) -> Put:
    """Upsert flat fields, given by day."""

    def upsert(
        days: dict[date, float],
        quality: DayQuality = DayQuality.GOOD,
        *,
        version: str = "1",
        product: str = "P",
        absent: Mapping[date, Provenance] = NO_DAYS,
    ) -> UpsertReport:
        given = days_of(settings, days, quality, product, version)
        return Archive(settings).upsert(given, mask_of(settings), attribution="A", absent=absent)

    return upsert


def kelvin(settings: Settings, first: date, last: date, snapshot_id: str | None = None) -> list[float]:
    """Return the area mean of each day read, NaN where absent."""
    return Archive(settings).read(first, last, snapshot_id)["sst"].mean(("latitude", "longitude")).values.tolist()


class TestUpsert:
    def test_new_days_are_added_and_read_back(self, settings: Settings, put: Put) -> None:
        report = put({JAN_1: 280, JAN_2: 281})
        assert report.changed
        assert (report.added, report.revised, report.unchanged, report.refused) == ([JAN_1, JAN_2], [], [], [])
        assert report.snapshot_id == Archive(settings).snapshot_id()
        assert kelvin(settings, JAN_1, JAN_2) == [280, 281]

    def test_the_same_again_is_unchanged_and_makes_no_snapshot(self, put: Put) -> None:
        first = put({JAN_1: 280, JAN_2: 281})
        again = put({JAN_1: 280, JAN_2: 281})
        assert again.unchanged == [JAN_1, JAN_2]
        assert not again.changed
        assert again.snapshot_id == first.snapshot_id

    def test_only_what_differs_is_revised(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 280, JAN_2: 281})
        report = put({JAN_1: 280, JAN_2: 285, JAN_3: 282})
        assert (report.unchanged, report.revised, report.added) == ([JAN_1], [JAN_2], [JAN_3])
        assert kelvin(settings, JAN_1, JAN_3) == [280, 285, 282]

    def test_days_may_come_in_any_order_and_leave_gaps(self, settings: Settings, put: Put) -> None:
        assert put({JAN_5: 284, JAN_1: 280}).added == [JAN_1, JAN_5]
        assert put({JAN_3: 282}).added == [JAN_3]
        assert Archive(settings).usable_days() == [JAN_1, JAN_3, JAN_5]
        np.testing.assert_equal(kelvin(settings, JAN_1, JAN_5), [280, np.nan, 282, np.nan, 284])

    def test_an_unusable_day_never_replaces_a_usable_one(self, settings: Settings, put: Put) -> None:
        first = put({JAN_1: 280})
        report = put({JAN_1: 320}, DayQuality.OUT_OF_RANGE)
        assert report.refused == [JAN_1]
        assert not report.changed
        assert report.snapshot_id == first.snapshot_id
        assert kelvin(settings, JAN_1, JAN_1) == [280]

    def test_a_refused_day_does_not_hold_up_its_neighbours(self, settings: Settings, put: Put) -> None:
        put({JAN_2: 281})
        flagged = days_of(settings, {JAN_1: 280, JAN_2: 999, JAN_3: 282})
        flagged["quality"][1] = DayQuality.OUT_OF_RANGE
        report = Archive(settings).upsert(flagged, mask_of(settings), attribution="A")
        assert (report.added, report.refused) == ([JAN_1, JAN_3], [JAN_2])
        assert kelvin(settings, JAN_1, JAN_3) == [280, 281, 282]

    def test_a_usable_day_replaces_an_unusable_one(self, settings: Settings, put: Put) -> None:
        assert put({JAN_1: 320}, DayQuality.OUT_OF_RANGE).added == [JAN_1]
        assert put({JAN_1: 280}).revised == [JAN_1]
        assert Archive(settings).usable_days() == [JAN_1]

    def test_a_warning_is_no_reason_to_refuse(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 280})
        assert put({JAN_1: 290}, DayQuality.JUMP | DayQuality.PARTIAL).revised == [JAN_1]
        assert kelvin(settings, JAN_1, JAN_1) == [290]

    def test_each_day_keeps_where_it_came_from(
        self, settings: Settings, put: Put, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(archive_module, "now_seconds", lambda: 1_700_000_000)
        put({JAN_1: 280, JAN_2: 281, JAN_4: 283}, version="nrt", product="NRT")
        monkeypatch.setattr(archive_module, "now_seconds", lambda: 1_800_000_000)
        assert put({JAN_2: 281}, version="rep", product="REP").revised == [JAN_2]
        stored = Archive(settings).open().load()
        assert stored["source_product"].values.tolist() == ["NRT", "REP", "", "NRT"]
        assert stored["source_version"].values.tolist() == ["nrt", "rep", "", "nrt"]
        seconds = stored["ingested_at"].values.astype("datetime64[s]").astype(int).tolist()
        assert seconds == [1_700_000_000, 1_800_000_000, 0, 1_700_000_000]
        assert stored["quality"].values.tolist() == [0, 0, DayQuality.MISSING, 0]
        assert Archive(settings).attribution() == "A"

    def test_double_precision_of_the_same_field_is_no_revision(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 280.1})
        doubled = days_of(settings, {JAN_1: 280.1})
        doubled["sst"] = doubled["sst"].astype("float64") + 1e-9
        report = Archive(settings).upsert(doubled, mask_of(settings), attribution="A")
        assert report.unchanged == [JAN_1]

    def test_a_new_provenance_or_error_of_the_same_sea_is_a_revision(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 280})
        assert put({JAN_1: 280}, version="2").revised == [JAN_1]
        doubted = days_of(settings, {JAN_1: 280}, version="2")
        doubted["analysis_error"] = doubted["analysis_error"] * 2
        assert Archive(settings).upsert(doubted, mask_of(settings), attribution="A").revised == [JAN_1]
        assert Archive(settings).read(JAN_1, JAN_1)["analysis_error"].max() == 0.5

    def test_none_or_one_day_twice_is_refused(self, settings: Settings, put: Put) -> None:
        one = days_of(settings, {JAN_1: 280})
        for days in (one.isel(time=[]), xr.concat([one, one], "time")):
            with pytest.raises(ArchiveError, match="none, or one of them twice"):
                Archive(settings).upsert(days, mask_of(settings), attribution="A")
        assert not Archive(settings).exists()


class TestAbsentDays:
    def test_what_was_asked_for_in_vain_is_noted_beside_what_came(self, settings: Settings, put: Put) -> None:
        report = put({JAN_2: 281}, absent={JAN_1: ("P", "1"), JAN_4: ("Q", "7")})
        assert (report.added, report.absent) == ([JAN_2], [JAN_1, JAN_4])
        known = Archive(settings).provenance()
        assert known.index.tolist() == [JAN_1, JAN_2, JAN_3, JAN_4]
        assert known["source_product"].tolist() == ["P", "P", "", "Q"]
        assert known["source_version"].tolist() == ["1", "1", "", "7"]
        assert known["quality"].tolist() == [DayQuality.MISSING, 0, DayQuality.MISSING, DayQuality.MISSING]
        assert Archive(settings).usable_days() == [JAN_2]

    def test_the_same_note_again_makes_no_snapshot(self, put: Put) -> None:
        first = put({JAN_2: 281}, absent={JAN_1: ("P", "1")})
        again = put({JAN_2: 281}, absent={JAN_1: ("P", "1")})
        assert not again.changed
        assert again.snapshot_id == first.snapshot_id

    def test_a_note_alone_can_be_written_and_leaves_what_is_held(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 280})
        assert put({}, absent={JAN_1: ("P", "1 (looked at)"), JAN_3: ("P", "1")}).absent == [JAN_1, JAN_3]
        assert kelvin(settings, JAN_1, JAN_1) == [280]
        assert Archive(settings).provenance()["source_version"].tolist() == ["1 (looked at)", "", "1"]

    def test_a_day_that_comes_after_all_is_added(self, settings: Settings, put: Put) -> None:
        put({JAN_2: 281}, absent={JAN_1: ("P", "1")})
        assert put({JAN_1: 280}).added == [JAN_1]
        assert Archive(settings).provenance()["quality"].tolist() == [0, 0]

    def test_when_a_day_was_written_last_is_told_of_any_state(
        self, settings: Settings, put: Put, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for seconds, kelvin_of_day in ((1_000, 280), (2_000, 281)):
            monkeypatch.setattr("datlstm.archive.now_seconds", lambda now=seconds: now)
            put({JAN_1: kelvin_of_day})
            if seconds == 1_000:
                before = Archive(settings).snapshot_id()
        put({JAN_2: 280})
        archive = Archive(settings)
        assert archive.provenance()["ingested_at"].astype("int64").tolist() == [2_000, 2_000]
        assert archive.provenance(before)["ingested_at"].astype("int64").tolist() == [1_000]

    def test_before_the_first_day_is_refused_like_a_field(self, put: Put) -> None:
        with pytest.raises(ArchiveError, match="2023-12-31 lies before"):
            put({JAN_1: 280}, absent={date(2023, 12, 31): ("P", "1")})


class TestReading:
    def test_days_outside_the_axis_are_absent_not_an_error(self, settings: Settings, put: Put) -> None:
        put({JAN_2: 281})
        found = Archive(settings).read(date(2023, 12, 31), JAN_4)
        assert found["time"].values.astype("datetime64[D]").astype(object).tolist() == consecutive(
            date(2023, 12, 31), JAN_4
        )
        np.testing.assert_equal(kelvin(settings, date(2023, 12, 31), JAN_4), [np.nan, np.nan, 281, np.nan, np.nan])
        assert found["mask"].dims == ("latitude", "longitude")
        assert np.isnan(kelvin(settings, date(2030, 1, 1), date(2030, 1, 2))).all()

    def test_an_unusable_day_is_absent_to_read_but_kept_as_it_came(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 280, JAN_2: 281})
        put({JAN_3: 320}, DayQuality.OUT_OF_RANGE)
        assert np.isnan(kelvin(settings, JAN_3, JAN_3)).all()
        assert Archive(settings).open()["sst"][2].max() == 320
        assert Archive(settings).last_day() == JAN_2

    def test_an_old_snapshot_reads_old_values(self, settings: Settings, put: Put) -> None:
        old = put({JAN_1: 280}).snapshot_id
        new = put({JAN_1: 285, JAN_2: 286}).snapshot_id
        assert old != new
        np.testing.assert_equal(kelvin(settings, JAN_1, JAN_2, old), [280, np.nan])
        assert kelvin(settings, JAN_1, JAN_2, new) == [285, 286]
        assert Archive(settings).usable_days(old) == [JAN_1]

    def test_land_is_nan_and_the_mask_is_the_one_it_was_made_with(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 280})
        ocean = Archive(settings).ocean_mask()
        assert ocean.dtype == bool
        np.testing.assert_array_equal(ocean, mask_of(settings))
        np.testing.assert_array_equal(Archive(settings).read(JAN_1, JAN_1)["sst"][0].notnull(), ocean)

    def test_a_snapshot_that_never_was_is_named(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 280})
        with pytest.raises(ArchiveError, match="can't be read at NEVERWAS: .*Ask for a snapshot that it has"):
            Archive(settings).open("NEVERWAS")

    def test_without_an_archive_the_remedy_is_a_backfill(self, settings: Settings) -> None:
        archive = Archive(settings)
        assert not archive.exists()
        for question in (archive.open, archive.snapshot_id, archive.last_day, archive.usable_days, archive.ocean_mask):
            with pytest.raises(ArchiveError, match="no archive at .*: run `datlstm backfill` first"):
                question()

    def test_without_a_usable_day_there_is_no_last_one(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 320}, DayQuality.OUT_OF_RANGE)
        with pytest.raises(ArchiveError, match="no usable day"):
            Archive(settings).last_day()


class TestRefusals:
    @pytest.fixture
    def elsewhere(self, settings: Settings) -> Settings:
        """Settings of as many cells, half a degree farther north, on the same store."""
        region = settings.region
        return settings.replace(
            region=region.model_copy(update={"south": region.south + 0.5, "north": region.north + 0.5})
        )

    def test_days_on_another_grid(self, settings: Settings, elsewhere: Settings) -> None:
        with pytest.raises(ArchiveError, match="days on grid .* are not on the archive's"):
            Archive(settings).upsert(days_of(elsewhere, {JAN_1: 280}), mask_of(settings), attribution="A")

    def test_the_settings_of_another_grid_can_neither_read_nor_write(self, elsewhere: Settings, put: Put) -> None:
        snapshot = put({JAN_1: 280}).snapshot_id
        with pytest.raises(ArchiveError, match="use the settings and the store that belong together"):
            Archive(elsewhere).open()
        with pytest.raises(ArchiveError, match="use the settings and the store that belong together"):
            Archive(elsewhere).upsert(days_of(elsewhere, {JAN_2: 280}), mask_of(elsewhere), attribution="A")
        assert Archive(elsewhere).snapshot_id() == snapshot

    @pytest.mark.parametrize("moved", [(np.s_[2, :6], False), (np.s_[0, :6], True)], ids=["land", "sea"])
    def test_another_mask(self, settings: Settings, put: Put, moved: tuple[tuple[object, ...], bool]) -> None:
        put({JAN_1: 280})
        other, (cells, is_sea) = mask_of(settings), moved
        other.values[cells] = is_sea
        with pytest.raises(ArchiveError, match="differs from the archive's in 6 of 240 cells"):
            Archive(settings).upsert(days_of(settings, {JAN_2: 281}), other, attribution="A")
        assert Archive(settings).usable_days() == [JAN_1]

    def test_a_coast_that_moved_a_little_is_let_in_and_the_archive_keeps_its_own_mask(
        self, settings: Settings, put: Put
    ) -> None:
        put({JAN_1: 280})
        other = mask_of(settings)
        other[2, :4] = False
        days = days_of(settings, {JAN_2: 281})
        assert Archive(settings).upsert(days, other, attribution="A").added == [JAN_2]
        np.testing.assert_array_equal(Archive(settings).ocean_mask(), mask_of(settings))

    def test_a_day_before_the_first_even_as_the_very_first_write(self, settings: Settings, put: Put) -> None:
        for _ in range(2):
            with pytest.raises(ArchiveError, match="2023-12-31 lies before the archive's first day 2024-01-01"):
                put({date(2023, 12, 31): 280, JAN_1: 281})
        assert not Archive(settings).exists()
        put({JAN_1: 281})
        with pytest.raises(ArchiveError, match="2023-12-31 lies before"):
            put({date(2023, 12, 31): 280})
        assert Archive(settings).usable_days() == [JAN_1]

    def test_another_format_can_neither_be_read_nor_written(self, settings: Settings, put: Put) -> None:
        put({JAN_1: 280})
        session = icechunk.Repository.open(Store(settings.store).icechunk("archive")).writable_session("main")
        zarr.open_group(session.store, mode="r+").attrs["format_version"] = FORMAT_VERSION + 1
        session.commit("written by a newer release")
        for attempt in (Archive(settings).open, lambda: put({JAN_2: 281})):
            with pytest.raises(
                ArchiveError, match="has format 3, and datlstm .* knows none above 2: a newer release wrote it"
            ):
                attempt()

    def test_the_second_of_two_writers_at_the_same_time(
        self, settings: Settings, put: Put, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put({JAN_1: 280})

        def commit_meanwhile() -> int:
            session = icechunk.Repository.open(Store(settings.store).icechunk("archive")).writable_session("main")
            zarr.open_group(session.store, mode="r+").attrs["attribution"] = "the first"
            session.commit("the first")
            return 0

        monkeypatch.setattr(archive_module, "now_seconds", commit_meanwhile)
        with pytest.raises(ArchiveError, match="at the same time and was first: run this again"):
            put({JAN_2: 281})
        assert Archive(settings).usable_days() == [JAN_1]
        assert Archive(settings).attribution() == "the first"
