"""One cold read by an analyst's process, which has xarray and s3fs and nothing of this project: a script, not a module.

``python -I benchmarks/cold_reader.py URL QUESTION`` reads what `QUESTIONS` says and prints as JSON how long importing,
opening and reading took, and which requests s3fs made of the server. Keys and endpoint come from the environment.
"""

import json
import os
import sys
import time
from collections import Counter
from typing import Any

START = time.perf_counter()

import dask.array  # noqa: E402, F401
import numpy as np  # noqa: E402
import s3fs  # type: ignore[import-untyped]  # noqa: E402
import xarray as xr  # noqa: E402
import zarr  # noqa: E402, F401

IMPORTED = time.perf_counter()
SCORED_DAYS = 30
VERBS = {"get_object": "GET", "head_object": "HEAD"}


def newest(cube: xr.Dataset) -> None:
    """Read the temperature of the newest init."""
    cube["sst"].isel(init_time=-1).load()


def recent_scores(log: xr.Dataset) -> None:
    """Read the errors that stand of the last 30 scored days."""
    standing = log.swap_dims(scoring="valid_time").drop_duplicates("valid_time", keep="last").sortby("valid_time")
    last = standing["valid_time"].values[-1]
    standing["rmse"].sel(valid_time=slice(last - np.timedelta64(SCORED_DAYS - 1, "D"), None)).load()


def point(cube: xr.Dataset) -> None:
    """Read all leads of the first 365 inits at one cell."""
    cell = {name: cube.sizes[name] // 2 for name in ("latitude", "longitude")}
    cube["sst"].isel({"init_time": slice(365), **cell}).load()


QUESTIONS = {"newest": newest, "recent_scores": recent_scores, "point": point}


def main() -> None:
    """Answer one question, and tell what it took."""
    url, question = sys.argv[1:]
    calls: list[tuple[str, str, int | None]] = []
    call_s3 = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *given: Any, **named: Any) -> Any:
        key = str(named.get("Key", ""))
        try:
            answer = await call_s3(self, method, *given, **named)
        except Exception:
            calls.append((method, key, None))
            raise
        calls.append((method, key, int(answer.get("ContentLength", 0)) if method == "get_object" else 0))
        return answer

    s3fs.S3FileSystem._call_s3 = counted
    options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    begun, processor = time.perf_counter(), time.process_time()
    opened = xr.open_zarr(url, storage_options=options)
    open_seconds, at_opening = time.perf_counter() - begun, len(calls)
    QUESTIONS[question](opened)
    total_seconds, processor_seconds = time.perf_counter() - begun, time.process_time() - processor
    assert not any(name.split(".")[0] in ("datlstm", "obstore") for name in sys.modules)
    documents = [key for method, key, size in calls if method == "get_object" and size and key.endswith("zarr.json")]
    answer = {
        "import_seconds": IMPORTED - START,
        "open_seconds": open_seconds,
        "read_seconds": total_seconds - open_seconds,
        "processor_seconds": processor_seconds,
        "requests": Counter(VERBS.get(method, "LIST") for method, _, _ in calls),
        "at_opening": at_opening,
        "documents": len(documents),
        "absent": sum(size is None for _, _, size in calls),
        "bytes": sum(size or 0 for _, _, size in calls),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
