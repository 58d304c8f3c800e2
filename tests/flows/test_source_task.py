"""The credentials of the source come from the Secret block that the settings name, or the night is told to make one."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from datlstm.errors import PermanentSourceError
from datlstm.settings import Settings
from datlstm.sources.copernicus import CopernicusSource
from datlstm.synthetic.source import SyntheticSource
from tasks import source as module
from tasks.source import credentials_in, source_of

pytestmark = pytest.mark.usefixtures("prefect_server")


def with_block(settings: Settings, block: str | None) -> Settings:
    copernicus = settings.source.copernicus.model_copy(update={"credentials_block": block})
    source = settings.source.model_copy(update={"kind": "copernicus", "copernicus": copernicus})
    return settings.replace(source=source)


def stored(content: Mapping[str, Any] | str) -> str:
    """Store a Secret block and return its name."""
    name = f"marine-{uuid4().hex}"
    Secret(value=content).save(name)
    return name


def test_a_block_s_username_and_password_are_given_to_the_source(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = stored({"username": "jdoe", "password": "hunter2"})
    given: list[Any] = []
    monkeypatch.setattr(module, "open_source", lambda *arguments: given.append(arguments))
    source_of(with_block(settings, block))
    credentials = given[0][1]
    assert (credentials.username, credentials.password) == (SecretStr("jdoe"), SecretStr("hunter2"))
    assert "hunter2" not in repr(credentials)


def test_a_source_with_a_block_needs_no_variables(settings: Settings) -> None:
    block = stored({"username": "jdoe", "password": "hunter2"})
    assert isinstance(source_of(with_block(settings, block)), CopernicusSource)


def test_without_a_block_the_environment_is_asked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermanentSourceError, match="COPERNICUSMARINE_SERVICE_USERNAME"):
        source_of(with_block(settings, None))
    monkeypatch.setenv("COPERNICUSMARINE_SERVICE_USERNAME", "jdoe")
    monkeypatch.setenv("COPERNICUSMARINE_SERVICE_PASSWORD", "hunter2")
    assert isinstance(source_of(with_block(settings, None)), CopernicusSource)


def test_a_source_that_needs_no_credentials_is_opened_without(settings: Settings) -> None:
    assert isinstance(source_of(settings), SyntheticSource)


def test_an_absent_block_is_named_with_what_to_put_into_it() -> None:
    with pytest.raises(PermanentSourceError, match="no Secret block 'nowhere': make a Secret block 'nowhere' that"):
        credentials_in("nowhere")


@pytest.mark.parametrize("content", [{"username": "jdoe"}, {"user": "jdoe", "password": "hunter2"}, "hunter2"], ids=str)
def test_a_block_without_both_is_named_and_its_content_is_not_told(content: dict[str, str] | str) -> None:
    block = stored(content)
    with pytest.raises(PermanentSourceError, match=f"'{block}' lacks username or password") as refused:
        credentials_in(block)
    assert "hunter2" not in str(refused.value)
