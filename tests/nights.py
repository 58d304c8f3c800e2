"""Nights of the tests that publish a forecast alone, without scores and pages."""

from datlstm.ladder import NightlyForecast
from datlstm.products.forecast import Outcome, draft_forecast, forecast_cube, stage_forecast
from datlstm.settings import Settings


def publish_forecast(settings: Settings, made: NightlyForecast) -> Outcome:
    """Put one forecast into the cube."""
    cube = forecast_cube(settings)
    with cube.writing() as writer:
        outcome, _ = stage_forecast(cube, writer, draft_forecast(settings, made))
        writer.commit()
    return outcome
