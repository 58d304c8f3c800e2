"""The numbers of a region's service as OpenMetrics gauges, each with the region as a label.

https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from datlstm.errors import SettingsError
from datlstm.ladder import ForecastSource
from datlstm.nights import Night, failed_in_a_row
from datlstm.operation import Operation
from datlstm.settings import Settings
from datlstm.status import Status

Samples = Iterable[tuple[dict[str, str], float]]


def openmetrics(status: Status) -> str:
    """Return the gauges of a status as OpenMetrics text."""
    return generate_latest(_registry(status)).decode()


def write_textfile(settings: Settings, status: Status) -> None:
    """Put the gauges where ``metrics.textfile`` says, in one piece; do nothing when it is unset.

    Raises `SettingsError` when the file can't be written.
    """
    if settings.metrics.textfile is None:
        return
    path = settings.metrics.textfile.replace("{region}", settings.region.name)
    try:
        write_to_textfile(path, _registry(status))
    except OSError as error:
        raise SettingsError(
            f"metrics.textfile {path!r} can't be written ({error.strerror}): make its folder, or let this user write it"
        ) from error


class _Gauges(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterable[GaugeMetricFamily]:
        status = self._status
        samples = {**_of_operation(status.operation), **_of_nights(status.nights)}
        samples["needs_person"] = ("things that a person must mend", [({}, len(status.needs))])
        for name, (meaning, values) in samples.items():
            yield _family(status.region, name, meaning, values)


def _registry(status: Status) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Gauges(status))
    return registry


def _family(region: str, name: str, meaning: str, samples: Samples) -> GaugeMetricFamily:
    samples = list(samples)
    labels = ["region", *(samples[0][0] if samples else {})]
    family = GaugeMetricFamily(f"datlstm_{name}", meaning, labels=labels)
    for extra, value in samples:
        family.add_metric([region, *extra.values()], value)
    return family


def _of_operation(operation: Operation) -> dict[str, tuple[str, Samples]]:
    found: dict[str, tuple[str, Samples]] = {}
    if (archive := operation.archive) is not None:
        found["archive_newest_day_age_days"] = ("age of the newest usable day", [({}, archive.age_days)])
        found["archive_missing_days"] = ("days missing of the last 30", [({}, len(archive.missing_days))])
    if (forecast := operation.forecast) is not None:
        found["forecast_age_days"] = ("age of the newest published forecast's init", [({}, forecast.age_days)])
        found["forecast_input_age_days"] = ("age of its input when it was made", [({}, forecast.input_age_days)])
        found["forecast_missing_inputs"] = ("input days it lacked", [({}, forecast.n_missing_inputs)])
        rungs = [rung.name.lower() for rung in ForecastSource]
        own = forecast.source.replace(" ", "_")
        found["forecast_source"] = ("1 for what made it", [({"source": rung}, rung == own) for rung in rungs])
    if operation.skill is not None:
        window = operation.skill.windows[0]
        found["rmse_kelvin"] = (
            f"RMSE by lead over the last {window.days} days with scores",
            [
                ({"forecaster": name, "lead_days": str(lead)}, value)
                for name, scores in window.rmse.items()
                for lead, value in zip(operation.skill.lead_days, scores, strict=True)
                if value is not None
            ],
        )
    return found


def _of_nights(nights: tuple[Night, ...]) -> dict[str, tuple[str, Samples]]:
    found: dict[str, tuple[str, Samples]] = {
        "nights_failed_in_a_row": ("newest nights of which a step failed", [({}, failed_in_a_row(nights))])
    }
    if nights:
        steps = [({"step": name}, step.seconds) for name, step in nights[0].steps.items()]
        found["night_step_seconds"] = ("how long each step of the newest night took", steps)
        found["night_finished_timestamp_seconds"] = (
            "when the newest recorded night ended",
            [({}, nights[0].finished_at.timestamp())],
        )
    if good := [night for night in nights if not night.failed]:
        found["night_success_timestamp_seconds"] = (
            "when the newest night without a failure ended",
            [({}, good[0].finished_at.timestamp())],
        )
    return found
