"""The status is told from the stores alone: facts, trend, what needs a person, and silence."""

import base64
import io
import json
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from typer.testing import CliRunner

from datlstm import skill_trend as trend_module
from datlstm.cli import app
from datlstm.errors import ProductError
from datlstm.ladder import ForecastSource, nightly_forecast
from datlstm.night_report import headline, notice, picture, report
from datlstm.nights import Night, Step, save_night
from datlstm.operation import Operation
from datlstm.registry import CHAMPION, champion_id
from datlstm.settings import Settings, load_settings
from datlstm.skill_trend import SkillTrend, SkillWindow, judged, skill_trend
from datlstm.status import Status, conclude, end_of, examine
from datlstm.store import Store
from tests.night_records import GOOD_STEPS, failed, night_of
from tests.nights import publish_forecast, verify

LAST_DAY = date(2024, 5, 31)
TODAY = LAST_DAY + timedelta(days=1)
BEGAN = datetime(2024, 6, 1, 6, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def operating_store(settings_file: Path, published_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with tonight's forecast, its scores, and the records of two good nights; copy it before writing."""
    folder = copytree(published_store, tmp_path_factory.mktemp("operating") / "store")
    settings = load_settings(str(settings_file)).replace(store=folder.as_uri())
    publish_forecast(settings, nightly_forecast(settings, TODAY))
    verify(settings, TODAY)
    for day in (LAST_DAY, TODAY):
        save_night(Store(settings.store), night_of(day))
    return folder


@pytest.fixture
def operating(settings_file: Path, operating_store: Path, tmp_path: Path) -> Settings:
    """Settings with such a store of the test's own."""
    folder = copytree(operating_store, tmp_path / "operating")
    return load_settings(str(settings_file)).replace(store=folder.as_uri())


def test_a_service_in_operation_tells_its_facts_and_needs_nobody(operating: Settings) -> None:
    status = examine(operating, end_of(TODAY))
    archive, forecast, store = status.operation.archive, status.operation.forecast, Store(operating.store)
    assert archive is not None and forecast is not None
    assert (archive.newest_day, archive.age_days, archive.missing_days) == (LAST_DAY, 1, ())
    assert (forecast.init_time, forecast.age_days, forecast.source) == (LAST_DAY, 1, "model")
    assert status.operation.champion == forecast.model_id == champion_id(store)
    assert [night.night for night in status.nights] == [TODAY, LAST_DAY]
    assert status.needs == ()


def test_an_earlier_day_is_told_as_it_was_then(operating: Settings) -> None:
    status = examine(operating, end_of(date(2024, 5, 26)))
    assert status.operation.archive is not None and status.operation.forecast is not None
    assert status.operation.archive.newest_day == status.operation.forecast.init_time == date(2024, 5, 25)
    assert status.nights == ()


def test_an_empty_store_says_what_to_run(settings: Settings) -> None:
    needs = "\n".join(examine(settings, end_of(TODAY)).needs)
    for command in ("backfill", "retrain", "nightly"):
        assert f"`datlstm {command}`" in needs


def test_silence_needs_a_person_once_the_next_night_is_overdue(operating: Settings) -> None:
    tomorrow = datetime.combine(TODAY + timedelta(days=1), time.min, UTC)
    limit = timedelta(hours=operating.notify.silence_hours)
    assert examine(operating, tomorrow + limit).needs == ()
    (need,) = examine(operating, tomorrow + limit + timedelta(seconds=1)).needs
    assert f"the last that was recorded is that of {TODAY}: run `datlstm nightly`" in need


def test_an_old_archive_and_an_old_forecast_need_a_person_once_no_model_may_forecast(operating: Settings) -> None:
    limit = operating.forecast.maximum_model_age_days
    for age in (limit, limit + 1):
        save_night(Store(operating.store), night_of(LAST_DAY + timedelta(days=age)))
        needs = examine(operating, end_of(LAST_DAY + timedelta(days=age))).needs
        assert [need.split(":")[0] for need in needs] == (["archive", "forecast"] if age > limit else [])


def test_a_forecast_that_the_champion_did_not_make_needs_a_person(published: Settings) -> None:
    made = replace(nightly_forecast(published, TODAY), source=ForecastSource.DAMPED_PERSISTENCE)
    publish_forecast(published, made)
    save_night(Store(published.store), night_of(TODAY))
    (need,) = examine(published, end_of(TODAY)).needs
    assert need.startswith(f"rung: the forecast from {LAST_DAY} is damped persistence's, not that of laizhou-datlstm-")


@pytest.mark.parametrize(
    ("own", "split", "state", "needed"),
    [(0.30, 0, "ok", False), (0.31, 0, "warn", False), (0.33, 0, "fail", True), (0.33, 15, "warn", False)],
)
def test_a_clear_loss_against_damped_persistence_over_a_month_needs_a_person(
    own: float, split: int, state: str, needed: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = scores(30, [own], [0.3], 0).isel(valid_time=slice(split, None))
    monkeypatch.setattr(trend_module, "standing_skill", lambda _: days)
    (check,) = [c for c in examine(settings, end_of(date(2024, 2, 1))).operation.checks if c.name == "skill"]
    assert (check.state, check.needs_person) == (state, needed)


def test_the_newest_nights_failure_needs_a_person_until_a_good_night(operating: Settings) -> None:
    store = Store(operating.store)
    save_night(store, night_of(TODAY, publish=failed("the disk is full: free space", "StoreError")))
    assert examine(operating, end_of(TODAY)).needs == ("publish: the disk is full: free space",)
    save_night(store, night_of(TODAY))
    assert examine(operating, end_of(TODAY)).needs == ()


def test_what_cannot_be_read_needs_a_person_and_hides_nothing_else(operating: Settings) -> None:
    store = Store(operating.store)
    store.write(f"nights/{TODAY}.json", b"{")
    store.write(CHAMPION, b"{")
    status = examine(operating, end_of(TODAY))
    needs = "\n".join(status.needs)
    assert f"nights/{TODAY}.json is damaged" in needs and "names no bundle" in needs
    assert status.operation.forecast is not None


def scores(days: int, forecast: list[float], bar: list[float], split: int) -> xr.Dataset:
    """Standing scores of as many days, the first ``split`` of which are twice as bad."""
    values = np.ones((days, 2, 1, 1, len(forecast))) * np.array([forecast, bar])[None, :, None, None, :]
    values[:split] *= 2
    dims = ("valid_time", "forecaster", "area", "surface", "lead_time")
    return xr.Dataset(
        {"rmse": (dims, values), "n": (dims, np.ones(values.shape, "int32"))},
        {
            "valid_time": np.datetime64("2024-01-01", "ns") + np.arange(days) * np.timedelta64(1, "D"),
            "forecaster": ["forecast", "damped_persistence"],
            "area": ["region"],
            "surface": ["all"],
            "lead_time": np.arange(1, len(forecast) + 1),
        },
    )


def test_the_trend_has_the_last_30_and_90_days_and_as_many_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trend_module, "standing_skill", lambda _: scores(100, [0.2, 0.4], [0.3, 0.5], 70))
    trend = skill_trend(settings, date(2024, 1, 1) + timedelta(days=100))
    assert trend is not None
    short, long = trend.windows
    assert (short.first_day, short.last_day, short.scored_days) == (date(2024, 3, 11), date(2024, 4, 9), 30)
    assert short.rmse == {"forecast": (0.2, 0.4), "damped_persistence": (0.3, 0.5)}
    assert short.before["forecast"] == (0.4, 0.8)
    assert (long.scored_days, long.rmse["forecast"][0]) == (
        90,
        pytest.approx(0.2 * (60 * 4 / 90 + 30 / 90) ** 0.5, abs=1e-4),
    )
    assert judged(trend) == (pytest.approx(0.3), pytest.approx(0.4))
    earlier = skill_trend(settings, date(2024, 3, 11))
    assert earlier is not None and earlier.windows[0].rmse["forecast"] == (0.4, 0.8)
    assert skill_trend(settings, date(2024, 1, 1)) is None


class TestReport:
    """What an operator reads."""

    @pytest.mark.parametrize(
        ("night", "told"),
        [
            (night_of(), "all well"),
            (night_of(ingest=failed()), "the forecast went out, but ingest failed"),
            (night_of(forecast=failed()), "NO FORECAST went out: forecast failed"),
            (night_of(publish=failed()), "NO FORECAST went out: publish failed"),
            (
                night_of(ingest=Step(state="warn", message="late", seconds=1.0), needs=["look"]),
                "the forecast went out, but ingest needs a look, somebody is needed",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_the_headline_says_first_whether_a_forecast_went_out(self, night: Night, told: str) -> None:
        assert headline(night) == told

    def status(self, settings: Settings, *nights: Night, needs: tuple[str, ...] = ()) -> Status:
        window = SkillWindow(
            days=30,
            first_day=date(2024, 5, 1),
            last_day=date(2024, 5, 30),
            scored_days=29,
            rmse={"forecast": (0.2, 0.4), "damped_persistence": (0.3, None)},
            before={"forecast": (0.3, 0.4), "damped_persistence": (0.3, None)},
        )
        trend = SkillTrend(lead_days=(1, 2), windows=(window,))
        facts = Operation(as_of=TODAY, archive=None, champion=None, forecast=None, skill=trend, checks=())
        return Status(region="laizhou", moment=BEGAN, operation=facts, nights=nights, needs=needs)

    def test_the_report_has_needs_what_came_in_and_went_out_skill_and_steps(self, settings: Settings) -> None:
        text = report(settings, self.status(settings, night_of(ingest=failed("a | b")), needs=("do it",)), ["not sent"])
        for part in (
            "# Laizhou Bay (test), night of 2024-06-03: the forecast went out, but ingest failed\n",
            "- do it\n- not sent\n",
            "- Failed: a | b\n- Newest day: 2024-06-02 from NRT 1, 1 day old.\n- Missing of the last 30 days: none.",
            "- Forecast from 2024-06-02, by model: `laizhou-datlstm-1`.\n- Its input was 1 day old and lacked 0 days.",
            "| 30 (29 scored) | forecast | 0.20 | 0.40 | 0.30 | -0.05 |",
            "| 30 (29 scored) | damped persistence | 0.30 | – | – | – |",
            "| ingest | **failed** | 1.0 | a \\| b |",
        ):
            assert part in text

    def test_a_good_night_gives_no_notice_and_another_says_what_since_when_and_what_to_do(
        self, settings: Settings
    ) -> None:
        assert notice(self.status(settings, night_of())) is None
        before = night_of(date(2024, 6, 2), needs=["look"])
        told = notice(self.status(settings, night_of(ingest=failed()), before, needs=("ingest: wait",)))
        assert told == (
            "laizhou, night of 2024-06-03: the forecast went out, but ingest failed",
            "since the night of 2024-06-02\n- ingest: wait",
        )


def test_the_picture_is_made_small_and_held_by_the_report_itself(published: Settings) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1600, 900), "navy").save(buffer, format="png")
    status, store = examine(published, end_of(TODAY)), Store(published.store)
    assert picture(published, status) is None
    store.write("quicklook/2024-05-25.png", buffer.getvalue())
    markdown = picture(published, status) or ""
    shown = Image.open(io.BytesIO(base64.b64decode(markdown.split("base64,")[1].rstrip(")\n"))))
    assert (shown.format, shown.size) == ("PNG", (640, 360))
    store.write("quicklook/2024-05-25.png", b"torn")
    with pytest.raises(ProductError, match="quicklook/2024-05-25.png is no picture: run the night again"):
        picture(published, status)


def test_a_night_is_concluded_with_its_record_first_and_failures_before_it_counted(operating: Settings) -> None:
    hung = failed("the server hung", "TransientSourceError")
    save_night(Store(operating.store), night_of(LAST_DAY, ingest=hung))
    status = conclude(operating, TODAY, {**GOOD_STEPS, "ingest": hung}, BEGAN, BEGAN)
    tonight = status.nights[0]
    assert (tonight.night, tonight.forecast) == (TODAY, status.operation.forecast)
    assert "ingest: the server hung (2 nights failed in a row)" in tonight.needs == status.needs


@pytest.mark.parametrize("form", [[], ["--json"], ["--openmetrics"]], ids=str)
def test_the_command_exits_with_one_when_a_person_is_needed(
    form: list[str], operating: Settings, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", operating.store)
    well = CliRunner().invoke(app, ["status", "--settings", str(settings_file), "--date", str(TODAY), *form])
    assert well.exit_code == 0
    silent = str(TODAY + timedelta(days=2))
    ran = CliRunner().invoke(app, ["status", "--settings", str(settings_file), "--date", silent, *form])
    assert ran.exit_code == 1
    if form == ["--json"]:
        assert any("last that was recorded" in need for need in json.loads(ran.stdout)["needs"])
    elif form:
        assert ran.stdout.endswith("# EOF\n")
    else:
        assert f"night     {TODAY} ok     all well" in ran.stdout
        assert "needs a person: nights: the last that was recorded" in ran.stdout
