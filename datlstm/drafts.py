"""What a step leaves in the store for the next one of the same night: a dataset nobody reads before it is published."""

import io

import xarray as xr

from datlstm.compute import in_this_process
from datlstm.errors import ProductError
from datlstm.formats import check_format
from datlstm.store import Store

FOLDER = "drafts"
FORMAT_VERSION = 1


def save_draft(store: Store, name: str, dataset: xr.Dataset) -> str:
    """Write a dataset as one object, over an earlier draft of that name, and return its path."""
    path = f"{FOLDER}/{name}.nc"
    numbered = dataset.drop_encoding().assign_attrs(dataset.attrs, format_version=FORMAT_VERSION)
    with in_this_process():
        store.write(path, bytes(numbered.to_netcdf(engine="h5netcdf")))
    return path


def load_draft(store: Store, path: str) -> xr.Dataset:
    """Return a draft, loaded.

    Raises `ProductError` when it is gone, for its night was published or never got so far, and when another release
    left it.
    """
    content = store.read(path)
    if content is None:
        raise ProductError(f"{store.url_of(path)} is gone, another run published or replaced it: run the night again")
    draft = xr.load_dataset(io.BytesIO(content), engine="h5netcdf", decode_timedelta=False)
    found = draft.attrs.pop("format_version", 1)
    check_format(found, FORMAT_VERSION, store.url_of(path), ProductError, older="run the night again")
    return draft
