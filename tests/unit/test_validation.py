"""What validation finds in the stores, what it records, and that nothing it meets stops it."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from datlstm.archive import LAND, Archive
from datlstm.cli import app
from datlstm.errors import StoreError
from datlstm.quality import DayQuality
from datlstm.registry import CHAMPION
from datlstm.settings import Settings
from datlstm.store import Store
from datlstm.validation import checks
from datlstm.validation.archive_checks import archive_freshness, gaps, mask, missing_cells, ranges
from datlstm.validation.checks import lines_for_a_person, validate
from datlstm.validation.forecast_checks import forecast_freshness, forecast_values
from datlstm.validation.record import Finding, Record, newest_records, read_record, record_path
from datlstm.validation.report import report
from tests.conftest import LAST_DAY

TODAY = LAST_DAY + timedelta(days=1)


def changed(settings: Settings, day: str, name: str, value: Any, days: int = 1) -> None:
    """Write other values straight into an array of the archive, past all that guards it; of a field, into one cell."""
    archive = Archive(settings)
    session = archive._repository().writable_session("main")
    array = zarr.open_group(session.store, mode="r+")[name]
    first = int(np.flatnonzero(archive.open()["time"].values == np.datetime64(day))[0])
    row, column = np.argwhere(archive.ocean_mask().values)[0]
    array[(slice(first, first + days), row, column)[: array.ndim]] = value
    session.commit("changed by a test")


def test_a_healthy_store_has_nothing_for_a_person(published: Settings) -> None:
    record = validate(published, date(2024, 5, 27))
    assert lines_for_a_person(record) == []
    assert not record.breach


def test_validating_twice_writes_the_same_bytes_and_later_days_change_nothing(published: Settings) -> None:
    store = Store(published.store)
    validate(published, date(2024, 5, 20))
    before = store.read(record_path(date(2024, 5, 20)))
    changed(published, "2024-05-20", "sst", 400.0, 12)
    validate(published, date(2024, 5, 20))
    assert store.read(record_path(date(2024, 5, 20))) == before


@pytest.mark.parametrize(("age", "state"), [(1, "ok"), (2, "ok"), (3, "warn"), (5, "warn"), (6, "breach")])
def test_old_days_and_forecasts_warn_and_then_breach(published: Settings, age: int, state: str) -> None:
    assert forecast_freshness(published, date(2024, 5, 25) + timedelta(days=age)).state == state
    found = archive_freshness(published, LAST_DAY + timedelta(days=age))
    assert (found.state, found.number) == (state, age)
    assert str(LAST_DAY) in found.message and ("datlstm nightly" in found.message) == (state != "ok")


def test_gaps_anywhere_in_the_window_are_named_with_the_remedy(trained: Settings) -> None:
    changed(trained, "2024-04-10", "quality", int(DayQuality.REPEATED))
    changed(trained, "2024-04-15", "quality", int(DayQuality.MISSING))
    changed(trained, "2024-04-20", "quality", int(DayQuality.PARTIAL), 2)
    found = gaps(trained, TODAY)
    assert (found.state, found.number) == ("warn", 2)
    assert "2024-04-15 absent; 2024-04-10 unusable; 2024-04-20, 2024-04-21 partial" in found.message
    assert "datlstm backfill --again --from 2024-04-10 --to 2024-04-15" in found.message
    assert gaps(trained, date(2024, 6, 21)).state == "ok", "they are out of the window by then"


def test_an_archive_that_began_within_the_window_has_no_gap_before_it(trained: Settings) -> None:
    assert gaps(trained, date(2023, 1, 20)).state == "ok"


def test_gaps_that_a_forecast_s_input_can_t_do_without_breach(trained: Settings) -> None:
    strict = trained.replace(forecast=trained.forecast.model_copy(update={"maximum_missing_inputs": 1}))
    changed(trained, "2024-05-29", "quality", int(DayQuality.EMPTY), 2)
    assert gaps(trained, TODAY).state == "warn"
    assert gaps(strict, TODAY).state == "breach"


def test_cells_that_go_missing_for_good_are_a_trend_and_a_drift_of_the_mask(trained: Settings) -> None:
    cells = int(Archive(trained).ocean_mask().sum())
    changed(trained, "2024-04-15", "sst", np.nan, 47)
    found = missing_cells(trained, TODAY)
    assert found.state == "warn"
    assert found.number == pytest.approx(47 / 60 / cells, abs=1e-6)
    drifted = mask(trained, TODAY)
    assert drifted.state == "warn" and "1 sea cells have had no value for 14 days" in drifted.message
    assert mask(trained, date(2024, 4, 20)).state == "ok"


def test_cells_that_were_missing_all_along_are_neither(trained: Settings) -> None:
    changed(trained, "2023-01-01", "sst", np.nan, 517)
    assert missing_cells(trained, TODAY).state == "ok"
    assert mask(trained, TODAY).state == "ok"


def test_another_mask_than_the_champion_s_breaches_and_land_with_values_is_told(trained: Settings) -> None:
    archive = Archive(trained)
    session = archive._repository().writable_session("main")
    row, column = np.argwhere(archive.ocean_mask().values)[0]
    zarr.open_group(session.store, mode="r+")["mask"][row, column] = LAND
    session.commit("a cell of the coast is land")
    found = mask(trained, TODAY)
    assert found.state == "breach"
    assert "1 land cells have values; 1 cells are sea for the champion or for the archive alone" in found.message


@pytest.mark.parametrize(
    ("field", "value"), [("sst", 320.0), ("sea_ice_fraction", 1.5), ("analysis_error", -1.0)], ids=str
)
def test_a_usable_day_out_of_range_breaches(trained: Settings, field: str, value: float) -> None:
    changed(trained, "2024-05-11", field, value)
    found = ranges(trained, TODAY)
    assert found.state == "breach" and field in found.message and "2024-05-11" in found.message


def test_a_flagged_jump_is_named(trained: Settings) -> None:
    changed(trained, "2024-05-11", "quality", int(DayQuality.JUMP))
    found = ranges(trained, TODAY)
    assert found.state == "warn" and "2024-05-11 flagged as a jump" in found.message


@pytest.mark.parametrize(
    ("offset", "state", "text"),
    [
        (np.nan, "breach", "not finite"),
        (90.0, "breach", "outside"),
        (5.0, "breach", "above 2 K"),
        (1.5, "warn", "of late"),
    ],
)
def test_values_of_the_newest_forecast_that_the_sea_does_not_take_are_told(
    published: Settings, offset: float, state: str, text: str
) -> None:
    array = zarr.open_array(Store(published.store).zarr("forecast.zarr"), path="sst", mode="r+")
    array[-1, 2] = np.asarray(array[-1, 2]) + offset
    found = forecast_values(published, date(2024, 5, 27))
    assert found.state == state and text in found.message and "datlstm explain 2024-05-25" in found.message


def test_a_check_that_crashes_is_a_finding_and_the_others_still_run(
    published: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(settings: Settings, as_of: date) -> Finding:
        raise ZeroDivisionError("by accident")

    monkeypatch.setitem(checks.CHECKS, "gaps", crash)
    record = validate(published, date(2024, 5, 27))
    assert len(record.findings) == len(checks.CHECKS) + 1
    (line,) = lines_for_a_person(record)
    assert line.startswith("failed: gaps: ZeroDivisionError: by accident")


def test_an_empty_store_fails_checks_but_not_the_validation(settings: Settings) -> None:
    record = validate(settings, TODAY)
    assert {finding.state for finding in record.findings} <= {"failed", "warn", "ok"}
    assert any("datlstm backfill" in line for line in lines_for_a_person(record))


def test_a_damaged_pointer_is_told_and_recorded(trained: Settings) -> None:
    Store(trained.store).write(CHAMPION, b"{}")
    record = validate(trained, TODAY)
    assert record.bundle_id is None
    assert "champion.json" in next(f.message for f in record.findings if f.name == "skill")


@pytest.mark.parametrize("content", [b"not json", b"{}", b'{"format_version": 2}', b"[]"])
def test_a_damaged_record_is_named_with_the_remedy(settings: Settings, content: bytes) -> None:
    store = Store(settings.store)
    store.write(record_path(TODAY), content)
    with pytest.raises(StoreError, match=rf"{TODAY}.json is not a record.*datlstm validate --date {TODAY}"):
        read_record(store, TODAY)


def test_the_newest_records_are_those_of_a_week_newest_first(settings: Settings) -> None:
    store = Store(settings.store)
    for back in (0, 3, 6, 7, 8):
        validate(settings, TODAY - timedelta(days=back))
    days = [record.as_of for record in newest_records(store, TODAY, 5)]
    assert days == [TODAY, TODAY - timedelta(days=3), TODAY - timedelta(days=6)]
    assert [record.as_of for record in newest_records(store, TODAY, 1)] == [TODAY]


def test_a_record_reads_back_as_it_was_and_its_report_names_every_check(published: Settings) -> None:
    record = validate(published, date(2024, 5, 27))
    assert read_record(Store(published.store), date(2024, 5, 27)) == record
    assert isinstance(record, Record)
    text = report(record)
    assert all(f"| {finding.name} |" in text for finding in record.findings)


def test_the_command_prints_every_finding_and_exits_with_one_on_a_breach(
    published: Settings, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", published.store)
    arguments = ["validate", "--settings", str(settings_file), "--date"]
    good = CliRunner().invoke(app, [*arguments, "2024-05-27"])
    assert good.exit_code == 0, good.output
    assert all(name in good.output for name in checks.CHECKS)
    bad = CliRunner().invoke(app, [*arguments, "2024-06-20"])
    assert bad.exit_code == 1 and "breach" in bad.output
    assert json.loads(Store(published.store).read(record_path(date(2024, 6, 20))) or b"")["as_of"] == "2024-06-20"
