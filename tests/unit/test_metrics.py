"""A status as gauges: Prometheus's own parsers read them, from the command and from node_exporter's textfile."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from datlstm.errors import SettingsError
from datlstm.metrics import openmetrics, write_textfile
from datlstm.operation import Operation
from datlstm.settings import MetricsSettings, Settings
from datlstm.skill_trend import SkillTrend, SkillWindow
from datlstm.status import Status
from tests.night_records import NIGHT, failed, night_of

Gauges = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def status() -> Status:
    """After two failed nights and a good one, with a score that is not there."""
    nights = tuple(night_of(NIGHT - timedelta(days=i), **({"ingest": failed()} if i < 2 else {})) for i in range(3))
    scores = {"forecast": (0.25, None), "damped_persistence": (0.5, 0.75)}
    window = SkillWindow(days=30, first_day=NIGHT, last_day=NIGHT, scored_days=1, rmse=scores, before=scores)
    facts = Operation(
        as_of=NIGHT,
        archive=nights[0].archive,
        champion=None,
        forecast=nights[0].forecast,
        skill=SkillTrend(lead_days=(1, 2), windows=(window,)),
        checks=(),
    )
    return Status(region="laizhou", moment=nights[0].finished_at, operation=facts, nights=nights, needs=("a", "b"))


def gauges(families: Iterable[Metric]) -> Gauges:
    """All samples by name and labels, but for the region, which each must have."""
    found = {}
    for family in families:
        assert family.type == "gauge"
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("region") == "laizhou"
            found[sample.name.removeprefix("datlstm_"), tuple(sorted(labels.items()))] = sample.value
    return found


def test_the_command_and_the_file_tell_the_same_numbers(settings: Settings, status: Status, tmp_path: Path) -> None:
    metrics = MetricsSettings(textfile=f"{tmp_path}/datlstm-{{region}}.prom")
    write_textfile(settings.replace(metrics=metrics), status)
    (written,) = tmp_path.glob("*.prom*")
    assert written.name == "datlstm-laizhou.prom"
    told = gauges(openmetrics_families(openmetrics(status)))
    assert told == gauges(text_string_to_metric_families(written.read_text()))
    ended = [night.finished_at.timestamp() for night in status.nights]
    assert told == {
        ("archive_newest_day_age_days", ()): 1,
        ("archive_missing_days", ()): 0,
        ("forecast_age_days", ()): 1,
        ("forecast_input_age_days", ()): 1,
        ("forecast_missing_inputs", ()): 0,
        ("forecast_source", (("source", "none"),)): 0,
        ("forecast_source", (("source", "model"),)): 1,
        ("forecast_source", (("source", "damped_persistence"),)): 0,
        ("rmse_kelvin", (("forecaster", "forecast"), ("lead_days", "1"))): 0.25,
        ("rmse_kelvin", (("forecaster", "damped_persistence"), ("lead_days", "1"))): 0.5,
        ("rmse_kelvin", (("forecaster", "damped_persistence"), ("lead_days", "2"))): 0.75,
        ("nights_failed_in_a_row", ()): 2,
        ("night_step_seconds", (("step", "ingest"),)): 1,
        ("night_step_seconds", (("step", "forecast"),)): 3,
        ("night_step_seconds", (("step", "scores"),)): 1,
        ("night_step_seconds", (("step", "publish"),)): 2,
        ("night_finished_timestamp_seconds", ()): ended[0],
        ("night_success_timestamp_seconds", ()): ended[2],
        ("needs_person", ()): 2,
    }


def test_what_is_not_known_has_no_sample(status: Status) -> None:
    nothing = Operation(as_of=NIGHT, archive=None, champion=None, forecast=None, skill=None, checks=())
    empty = status.model_copy(update={"operation": nothing, "nights": ()})
    assert gauges(openmetrics_families(openmetrics(empty))) == {
        ("nights_failed_in_a_row", ()): 0,
        ("needs_person", ()): 2,
    }


def test_a_file_that_cannot_be_written_is_named_with_the_remedy(
    settings: Settings, status: Status, tmp_path: Path
) -> None:
    metrics = MetricsSettings(textfile=f"{tmp_path}/nowhere/datlstm.prom")
    with pytest.raises(SettingsError, match="nowhere/datlstm.prom' can't be written .*: make its folder"):
        write_textfile(settings.replace(metrics=metrics), status)


def test_without_a_place_nothing_is_written(settings: Settings, status: Status) -> None:
    write_textfile(settings, status)
