"""Parts of a night by themselves: the forecast cube alone, the skill cube alone, and all that is made of them."""

from dataclasses import dataclass, field
from datetime import date

from datlstm.ladder import NightlyForecast
from datlstm.lineage import record_settings
from datlstm.products.forecast import Outcome, draft_forecast, forecast_cube, stage_forecast
from datlstm.products.publication import publish
from datlstm.products.scoring import score
from datlstm.products.skill import skill_cube, skill_log, stage
from datlstm.settings import Settings


def publish_forecast(settings: Settings, made: NightlyForecast) -> Outcome:
    """Put one forecast into the cube."""
    cube = forecast_cube(settings)
    with cube.writing() as writer:
        outcome, _ = stage_forecast(cube, writer, draft_forecast(settings, made))
        record_settings(settings)
        writer.commit()
    return outcome


def publish_pages(settings: Settings) -> str:
    """Publish what is made of the cubes, and return the page's URL."""
    return publish(settings, None, None).page


@dataclass(frozen=True)
class VerificationReport:
    """The valid days whose scores were written, and the number of those whose scores stand as they were."""

    scored: list[date] = field(default_factory=list)
    unchanged: int = 0


def verify(settings: Settings, forecast_date: date) -> VerificationReport:
    """Put new scores into the cube."""
    news = score(settings, forecast_date)
    written: list[date] = []
    if news is not None:
        with skill_cube(settings).writing() as writer:
            written = stage(writer, news)["valid_time"].values.astype("datetime64[D]").tolist()
            writer.commit()
    rows = skill_log(settings)
    stood = [] if rows is None else rows["valid_time"].values.astype("datetime64[D]").tolist()
    stands = {day for day in stood if day < forecast_date}
    return VerificationReport(written, len(stands.difference(written)))
