"""A published forecast is explained and made again: identical, or what differs and what is missing."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from datlstm import explanation
from datlstm.archive import Archive
from datlstm.bundle import Bundle
from datlstm.cli import app
from datlstm.errors import ProductError
from datlstm.explanation import Explanation, explain
from datlstm.ingest import ingest
from datlstm.ladder import ForecastSource, nightly_forecast
from datlstm.leftovers import midnight
from datlstm.registry import champion_id
from datlstm.settings import Settings
from datlstm.sources import open_source
from datlstm.store import Store
from tests.conftest import LAST_DAY
from tests.nights import publish_forecast
from tests.unit.conftest import FIRST_INIT

DAY, PLACE = FIRST_INIT + timedelta(days=2), 2


def text_of(found: Explanation) -> str:
    return "\n".join(f"{name} {text}" for name, text in found.lines())


def overwrite(settings: Settings, variable: str, place: tuple[Any, ...], value: Any) -> None:
    """Write another value into a published chunk."""
    array = zarr.open_array(Store(settings.store).zarr("forecast.zarr"), path=variable, mode="r+")
    array[place] = value


def delete(settings: Settings, prefix: str) -> None:
    store = Store(settings.store)
    for path in store.list(prefix):
        store.delete(path)


def test_a_forecast_is_made_again_bit_for_bit_and_shown_with_its_lineage(published: Settings) -> None:
    found = explain(published, DAY)
    assert found.is_identical and found.verdict == "identical, bit for bit"
    assert (found.missing, found.changed_settings) == ((), {})
    assert found.model_id == champion_id(Store(published.store)) and found.is_champion
    assert found.archive_snapshot == Archive(published).snapshot_id()
    assert [given.day for given in found.inputs] == [DAY - timedelta(days=back) for back in (2, 1, 0)]
    assert all(given.is_usable and given.product for given in found.inputs)
    text = text_of(found)
    assert all(part in text for part in (found.settings_hash, found.code_version, found.model_id, str(DAY)))


def test_explaining_writes_nothing(published: Settings) -> None:
    store = Store(published.store)
    before = {entry.path: entry.modified_at for entry in store.entries("")}
    explain(published, DAY)
    assert {entry.path: entry.modified_at for entry in store.entries("")} == before


def test_damped_persistence_is_made_again_from_either_half_of_a_model(published: Settings) -> None:
    publish_forecast(published, nightly_forecast(published, LAST_DAY + timedelta(days=9)))
    found = explain(published, LAST_DAY)
    assert found.source is ForecastSource.DAMPED_PERSISTENCE
    assert found.is_identical and "damped persistence" in text_of(found)
    delete(published, f"models/{found.model_id}")
    assert explain(published, LAST_DAY).is_identical
    delete(published, f"models/{champion_id(Store(published.store))}")
    assert not explain(published, LAST_DAY).is_identical


@pytest.mark.parametrize("variable", ["sst", "sst_anomaly"])
def test_a_value_that_was_tampered_with_differs(published: Settings, variable: str) -> None:
    sea = np.argwhere(Archive(published).ocean_mask().values)[0]
    overwrite(published, variable, (PLACE, 1, *sea), 280.5)
    found = explain(published, DAY)
    assert found.differences is not None
    assert [(d.variable, d.cells) for d in found.differences] == [(variable, 1)]
    assert "the published values were changed, or libraries or processor differ" in found.verdict
    assert explain(published, DAY + timedelta(days=1)).is_identical


def test_a_value_on_land_or_another_surface_differs_too(published: Settings) -> None:
    land = np.argwhere(~Archive(published).ocean_mask().values)[0]
    overwrite(published, "sst", (PLACE, 0, *land), 280.0)
    overwrite(published, "mask", (PLACE, *land), 1)
    found = explain(published, DAY)
    assert found.differences is not None
    assert {(d.variable, d.cells, d.largest) for d in found.differences} == {("sst", 1, np.inf), ("mask", 1, 1.0)}


def test_a_chunk_that_can_t_be_decoded_is_named(published: Settings) -> None:
    Store(published.store).write(f"forecast.zarr/sst/c/{PLACE}/0/0/0", b"no chunk")
    with pytest.raises(ProductError, match=f"the forecast from {DAY} can't be decoded"):
        explain(published, DAY)


def test_an_init_that_was_never_published_is_refused(published: Settings) -> None:
    with pytest.raises(ProductError, match="no forecast was published from 2020-01-01"):
        explain(published, date(2020, 1, 1))


def test_an_absent_or_corrupted_bundle_is_named(published: Settings) -> None:
    bundle_id = champion_id(Store(published.store))
    Store(published.store).write(f"models/{bundle_id}/card.json", b"{}")
    corrupted = explain(published, DAY)
    assert corrupted.verdict == "can't be made again"
    assert len(corrupted.missing) == 1 and "card.json" in corrupted.missing[0]
    delete(published, f"models/{bundle_id}")
    (gone,) = explain(published, DAY).missing
    assert gone.startswith("bundle: no bundle")


def test_an_expired_archive_state_is_named(published: Settings) -> None:
    state = Archive(published).snapshot_id()
    tomorrow = LAST_DAY + timedelta(days=1)
    ingest(published, tomorrow, tomorrow, open_source(published))
    assert explain(published, DAY).is_identical
    Archive(published).expire(midnight(date(2100, 1, 1), 0), ())
    found = explain(published, DAY)
    assert not found.is_identical and found.inputs == ()
    assert len(found.missing) == 1 and state in found.missing[0] and "expired" in found.missing[0]


def test_changed_settings_and_code_are_named_as_reasons(published: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    forecast = published.forecast.model_copy(update={"maximum_missing_inputs": 0})
    later = published.replace(forecast=forecast)
    monkeypatch.setattr(explanation, "code_version", lambda: "9.9.9")
    found = explain(later, DAY)
    assert found.is_identical and found.changed_settings == {"forecast.maximum_missing_inputs": (3, 0)}
    assert "forecast.maximum_missing_inputs was 3, is 0" in text_of(found)
    overwrite(published, "sst", (PLACE, 0, 0, 0), 280.0)
    verdict = explain(later, DAY).verdict
    assert "and is 9.9.9" in verdict and "the settings differ in forecast.maximum_missing_inputs" in verdict


def test_a_lost_settings_record_is_named_and_the_forecast_is_made_again_all_the_same(published: Settings) -> None:
    delete(published, "lineage")
    found = explain(published, DAY)
    assert found.is_identical and found.changed_settings is None
    assert len(found.missing) == 1 and found.missing[0].startswith("settings record: ")


def test_fewer_leads_are_asked_for_today_than_were_published(published: Settings) -> None:
    fewer = published.replace(model=published.model.model_copy(update={"lead_days": 2}))
    found = explain(fewer, DAY)
    assert found.is_identical and found.changed_settings == {"model.lead_days": (4, 2)}


def test_the_command_succeeds_for_an_identical_forecast_alone(
    published: Settings, settings_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", published.store)
    command = ["explain", str(DAY), "--settings", str(settings_file)]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0 and "identical, bit for bit" in told.output
    assert Bundle.load(Store(published.store), str(champion_id(Store(published.store)))).id in told.output
    overwrite(published, "sst", (PLACE, 0, 0, 0), 280.0)
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 1 and "differs in 1 cells" in told.output
