"""What a night leaves for its operator: record, artifacts, notification, heartbeat, numbers, and no secret in any."""

import json
import logging
import shutil
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import Artifact
from prometheus_client.parser import text_string_to_metric_families

from datlstm.errors import PermanentSourceError
from datlstm.nights import Night, read_night
from datlstm.registry import CHAMPION
from datlstm.store import Store
from flows.backfill import backfill
from flows.nightly import nightly
from tasks import notify
from tests.conftest import FIRST_DAY, LAST_DAY
from tests.listener import Listener

pytestmark = pytest.mark.usefixtures("prefect_server")

NIGHT = LAST_DAY + timedelta(days=3)
SECRET = "s3cret-1766"


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener(SECRET)
    yield listener
    listener.close()


@pytest.fixture
def block(listener: Listener) -> str:
    """The slug of a webhook whose address holds a secret."""
    name = f"operator-{uuid4().hex[:8]}"
    webhook = CustomWebhookNotificationBlock(
        name=name,
        url=f"{listener.url}/{{{{token}}}}",
        json_data={"title": "{{subject}}", "text": "{{body}}"},
        secrets={"token": "hook"},
    )
    webhook.save(name)
    return f"custom-webhook/{name}"


@pytest.fixture
def store(
    service_store: Path,
    settings_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listener: Listener,
    block: str,
) -> Store:
    """A copy of the store in operation, in a service that tells of its nights."""
    folder = Path(shutil.copytree(service_store, tmp_path / "store"))
    for name, value in {
        "DATLSTM_STORE": folder.as_uri(),
        "DATLSTM_SETTINGS": str(settings_file),
        "DATLSTM_NOTIFY__BLOCK": block,
        "DATLSTM_NOTIFY__HEARTBEAT_URL": f"{listener.url}/beat",
        "DATLSTM_METRICS__TEXTFILE": str(tmp_path / "{region}.prom"),
    }.items():
        monkeypatch.setenv(name, value)
    return Store(folder.as_uri())


def artifacts(key: str) -> list[Artifact]:
    """What was left under a key, oldest first."""
    with get_client(sync_client=True) as client:
        found = [artifact for artifact in client.read_artifacts() if artifact.key == key]
    return sorted(found, key=lambda artifact: artifact.created or datetime.min)


def newest(key: str) -> str:
    return str(artifacts(key)[-1].data)


def require_no_secret(store: Store, *texts: str) -> None:
    """Look for the secret in all that was told and kept."""
    with get_client(sync_client=True) as client:
        kept = [client.read_logs(LogFilter()), client.read_artifacts(), client.read_flow_runs()]
    assert SECRET not in "".join([str(kept), *texts])
    for path in store.list(""):
        assert SECRET.encode() not in (store.read(path) or b""), path


def record(store: Store) -> Night:
    night = read_night(store, NIGHT)
    assert night is not None
    return night


def break_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATLSTM_SOURCE__KIND", "files")
    monkeypatch.setenv("DATLSTM_SOURCE__FILES__PATH", "/nowhere/*.nc")


def test_a_failed_night_is_told_to_all_and_the_same_night_made_good_replaces_its_record(
    store: Store, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as broken:
        break_source(broken)
        with pytest.raises(PermanentSourceError):
            nightly(NIGHT)
    failed = record(store)
    assert (failed.state, failed.went_out, list(failed.failed)) == ("failed", True, ["ingest"])
    assert failed.forecast is not None and failed.forecast.init_time == LAST_DAY
    (hook, body), (beat, _) = listener.asked
    assert (hook, beat) == (f"/{SECRET}/hook", f"/{SECRET}/beat/fail")
    told = json.loads(body)
    assert told["title"] == f"laizhou, night of {NIGHT}: the forecast went out, but ingest failed, somebody is needed"
    assert told["text"].startswith(f"since the night of {NIGHT}\n- ingest: no file matches /nowhere/*.nc: correct")
    report = newest("night-laizhou")
    assert "but ingest failed" in report.splitlines()[0] and "- ingest: no file matches" in report

    nightly(NIGHT)
    good = record(store)
    assert (good.state, good.attempts, good.needs) == ("ok", 2, ())
    assert [path for path, _ in listener.asked[2:]] == [f"/{SECRET}/beat"]
    assert "night of 2024-06-03: all well" in newest("night-laizhou").splitlines()[0]
    assert [row["step"] for row in json.loads(newest("night-laizhou-steps"))] == list(good.steps)
    assert [row["RMSE °C"] for row in json.loads(newest("night-laizhou-skill"))][:2] == [
        "forecast",
        "damped persistence",
    ]
    assert newest("night-laizhou-picture").startswith(
        f"![forecast from {NIGHT - timedelta(days=1)}](data:image/png;base64"
    )
    families = text_string_to_metric_families((tmp_path / "laizhou.prom").read_text())
    numbers = {family.name: family.samples[0].value for family in families}
    assert (numbers["datlstm_forecast_age_days"], numbers["datlstm_nights_failed_in_a_row"]) == (1, 0)
    require_no_secret(store, caplog.text)


def test_what_cannot_be_told_is_said_in_log_and_report_and_fails_no_night(
    store: Store, listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "LIMIT_SECONDS", 1.0)
    monkeypatch.setenv("DATLSTM_METRICS__TEXTFILE", "/nowhere/datlstm.prom")
    store.delete(CHAMPION)
    listener.status = 0
    nightly(NIGHT)
    report = newest("night-laizhou")
    for line in (
        "not sent within 1 s (notification through block",
        "not sent within 1 s (heartbeat:",
        "/nowhere/datlstm",
    ):
        assert line in report and line in caplog.text
    assert any("none: damped persistence forecasts until" in need for need in record(store).needs)
    require_no_secret(store, caplog.text)


@pytest.mark.parametrize("kind", ["refusing", "absent", "no notification block"])
def test_a_block_that_does_not_deliver_is_named_and_its_address_is_not(
    kind: str, listener: Listener, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.status = 404
    if kind == "absent":
        block = "slack-webhook/nobody"
    elif kind != "refusing":
        Secret(value=SECRET).save(block.split("/")[1])
        block = block.replace("custom-webhook", "secret")
    (problem,) = notify._within_limit(f"notification through {block}", lambda: notify._notify(block, "a", "b"))
    reason = {"refusing": "HTTPStatusError 404", "absent": "ValueError"}.get(kind, "TypeError")
    assert problem == f"not sent, {reason} (notification through {block})"


def test_a_record_that_cannot_be_written_is_told_and_hides_no_other_error(
    store: Store, listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.write("nights", b"in the place of a folder")
    break_source(monkeypatch)
    with pytest.raises(PermanentSourceError):
        nightly(NIGHT)
    assert f"nights/{NIGHT}.json" in newest("night-laizhou")
    assert listener.asked[-1][0].endswith("/beat/fail")


def test_a_backfill_tells_how_far_it_is_and_what_it_brought(
    settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", (tmp_path / "store").as_uri())
    told = backfill(date(FIRST_DAY.year + 1, 1, 2), date(FIRST_DAY.year, 12, 30), str(settings_file))
    assert told in newest("backfill-laizhou")
    assert [row["year"] for row in json.loads(newest("backfill-laizhou-years"))] == ["2023", "2024"]
    progress = artifacts("backfill-laizhou-progress")[-1]
    assert progress.data == 100.0
    assert str(progress.description).endswith("2024 done, 2 of 2")


def test_a_backfill_that_fails_says_what_it_brought_before(
    settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATLSTM_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("DATLSTM_ARCHIVE__FIRST_DAY", "2024-01-01")
    with pytest.raises(Exception, match="before the archive's first day"):
        backfill(date(2024, 1, 2), date(2023, 12, 30), str(settings_file))
    assert "**failed**" in newest("backfill-laizhou")
