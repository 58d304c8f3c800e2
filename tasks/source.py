"""The source of a region, with its credentials from where the settings say."""

from prefect.blocks.system import Secret
from pydantic import SecretStr

from datlstm.errors import PermanentSourceError
from datlstm.settings import CopernicusCredentials, Settings
from datlstm.sources import Source, open_source


def source_of(settings: Settings) -> Source:
    """Return the settings' source; see `open_source`.

    Raises `PermanentSourceError` when the named Secret block is absent or holds no username and password.
    """
    block = settings.source.copernicus.credentials_block
    return open_source(settings, credentials_in(block) if block else None)


def credentials_in(block: str) -> CopernicusCredentials:
    """Return the credentials of a Prefect Secret block, ``{"username": …, "password": …}``."""
    remedy = f'make a Secret block {block!r} that holds {{"username": …, "password": …}}'
    try:
        loaded = Secret.load(block)
    except ValueError as error:
        raise PermanentSourceError(f"there is no Secret block {block!r}: {remedy}") from error
    secret = loaded.get() if isinstance(loaded, Secret) else None
    if not isinstance(secret, dict) or not {"username", "password"} <= secret.keys():
        raise PermanentSourceError(f"Secret block {block!r} lacks username or password: {remedy}")
    username, password = (SecretStr(str(secret[name])) for name in ("username", "password"))
    return CopernicusCredentials(username=username, password=password)
