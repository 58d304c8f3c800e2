"""What opening a published cube asks of object storage, with xarray and s3fs alone: little, and always the same."""

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest

from datlstm.products.forecast import forecast_cube
from datlstm.settings import Settings
from datlstm.store_server import StoreServer

FIRST = 15_000
INITS = (1, 200)


ANALYST = """
import json, os, sys
import s3fs, xarray as xr

call, requests = s3fs.S3FileSystem._call_s3, []

async def recorded(self, method, *arguments, **options):
    requests[-1].append((method, options.get("Key", "").split("forecast.zarr/")[-1]))
    return await call(self, method, *arguments, **options)

s3fs.S3FileSystem._call_s3 = recorded
for url in sys.argv[1:]:
    requests.append([])
    options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    cube = xr.open_zarr(url, storage_options=options, decode_timedelta=False)
    assert float(cube["sst"].isel(init_time=-1).max()) == 1
print(json.dumps(requests))
"""


@pytest.fixture
def cubes(settings: Settings, s3_store_url: str) -> dict[int, str]:
    """The URLs of cubes of so many inits."""
    urls = {}
    for inits in INITS:
        cube = forecast_cube(settings.replace(store=f"{s3_store_url}/{inits}"))
        leads, shape = settings.model.lead_days, (16, 16)
        text = np.full(inits, "text", np.dtypes.StringDType())
        days = np.arange(FIRST, FIRST + inits, dtype="int32")
        fields = cube.structure()["consolidated_metadata"]["metadata"]
        rows: dict[str, Any] = {
            name: text if field["data_type"] == "string" else np.zeros(inits, field["data_type"])
            for name, field in fields.items()
        }
        rows |= {"init_time": days, "valid_time": days[:, None] + np.arange(1, leads + 1, dtype="int32")}
        # Of the fields the newest alone.
        for name, field in fields.items():
            if "latitude" in field["dimension_names"] and len(field["shape"]) > 1:
                leading = (1, leads) if "lead_time" in field["dimension_names"] else (1,)
                rows[name] = np.full((*leading, *shape), 1, field["data_type"])
        with cube.writing() as writer:
            writer.stage(rows)
            writer.commit()
        urls[inits] = cube.url
    return urls


def asked(urls: list[str], server: StoreServer) -> list[list[tuple[str, str]]]:
    """Open cubes as an analyst does; return the requests, method and key below the cube, of each."""
    environment = {**os.environ, **server.environment}
    run = subprocess.run([sys.executable, "-c", ANALYST, *urls], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_opening_reads_one_metadata_document_and_asks_the_same_however_many_inits(
    cubes: dict[int, str], s3_server: StoreServer
) -> None:
    requests = asked(list(cubes.values()), s3_server)
    for made in requests:
        read = [key for method, key in made if method == "get_object"]
        assert [key for key in read if key.split("/")[-1].startswith(("zarr.json", ".z"))] == ["zarr.json"]
        assert len(set(read)) <= 7
    few, many = (Counter(method for method, _ in made) for made in requests)
    assert few == many
