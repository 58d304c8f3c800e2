"""Nights of the tests that publish a forecast alone, without scores and pages."""

from datlstm.ladder import NightlyForecast
from datlstm.products.forecast import Outcome, draft_forecast, forecast_cube, stage_forecast
from datlstm.settings import Settings


def publish_forecast(settings: Settings, made: NightlyForecast) -> Outcome:
    """Put one forecast into the cube."""
    with forecast_cube(settings).writing() as writer:
        outcome, _ = stage_forecast(writer, draft_forecast(settings, made))
        writer.commit()
    return outcome
