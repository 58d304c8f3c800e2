"""A served local store that is named by halves, or is there no longer, is told as what it is."""

from pathlib import Path

import pytest

from datlstm.errors import SettingsError
from datlstm.settings import MarineStoreSource, Settings, SourceSettings
from datlstm.sources import open_source


def served(settings: Settings, **named: object) -> Settings:
    return settings.replace(source=SourceSettings(kind="marine-store", marine_store=MarineStoreSource(**named)))


@pytest.mark.parametrize("half", [{"endpoint": "http://127.0.0.1:9"}, {"certificate": Path("/nowhere/ca.pem")}])
def test_half_of_a_served_store_is_refused(settings: Settings, half: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="needs both endpoint and certificate"):
        open_source(served(settings, **half))


def test_a_store_that_is_served_no_longer_is_named(settings: Settings, tmp_path: Path) -> None:
    gone = served(settings, endpoint="http://127.0.0.1:9", certificate=tmp_path / "ca.pem")
    with pytest.raises(SettingsError, match="at http://127.0.0.1:9 is not served any more.*marine-store serve"):
        open_source(gone)
