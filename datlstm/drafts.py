"""What a step leaves in the store for the next one of the same night: a dataset nobody reads before it is published."""

import io

import xarray as xr

from datlstm.errors import ProductError
from datlstm.store import Store

FOLDER = "drafts"


def save_draft(store: Store, name: str, dataset: xr.Dataset) -> str:
    """Write a dataset as one object, over an earlier draft of that name, and return its path."""
    path = f"{FOLDER}/{name}.nc"
    store.write(path, bytes(dataset.drop_encoding().to_netcdf(engine="h5netcdf")))
    return path


def load_draft(store: Store, path: str) -> xr.Dataset:
    """Return a draft, loaded. Raises `ProductError` when it is gone: its night was published, or never got so far."""
    content = store.read(path)
    if content is None:
        raise ProductError(f"{store.url_of(path)} is gone, another run published or replaced it: run the night again")
    return xr.load_dataset(io.BytesIO(content), engine="h5netcdf", decode_timedelta=False)
