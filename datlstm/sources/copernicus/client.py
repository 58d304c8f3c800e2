"""The official client in a process of its own, which is made to be killed: nothing else bounds the client's reads.

``python -m datlstm.sources.copernicus.client`` takes a request from standard input and reports in JSON lines on
standard output; see `datlstm.sources.copernicus.protocol`.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import Any, TextIO

from datlstm.sources.copernicus.inspection import COINCIDENCE
from datlstm.sources.copernicus.protocol import (
    VARIABLES,
    AskedDataset,
    Axis,
    Delivered,
    Described,
    Failed,
    Finished,
    Message,
    Progress,
    Request,
)

PROGRESS_SECONDS = 2.0
PARENT_LOOK_SECONDS = 1.0

Report = Callable[[Message], None]


def main() -> None:
    """Answer one request and end."""
    # What the client prints must not reach the messages.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    request = Request.model_validate_json(sys.stdin.buffer.read())
    # A prompt of the client finds the end of its input at once instead of waiting for ever.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _end_with_parent(os.getppid())
    if request.loopback_only:
        from datlstm.synthetic.fence import fence_to_loopback

        fence_to_loopback()
    answer(request, lambda message: _write(messages, message))


def answer(request: Request, report: Report) -> None:
    """Describe the datasets of a request, and read each day from the first dataset that has it."""
    first, last = request.first_day, request.last_day
    for rank, asked in enumerate(request.datasets):
        is_last_choice = rank == len(request.datasets) - 1
        doing = "the catalogue's description"
        try:
            described = describe(asked)
            report(described)
            if first is None or last is None:
                continue
            # What the catalogue announces is not always what is there; the last choice is asked for all that is left.
            until = last if is_last_choice else min(last, described.last_day)
            if first > until or (until < described.first_day):
                continue
            doing = f"{first} … {until}"
            days = read(request, described, first, until, report)
        except Exception as error:
            report(_failure(asked, doing, error))
            return
        absent = [day for day in _calendar(first, last) if day not in days]
        if not absent:
            break
        first = absent[0]
    report(Finished())


def describe(asked: AskedDataset) -> Described:
    """Ask the catalogue for a dataset, whose own errors the client's reading calls would hide."""
    import copernicusmarine

    catalogue = copernicusmarine.describe(
        dataset_id=asked.dataset_id, show_all_versions=True, disable_progress_bar=True, raise_on_error=True
    )
    datasets = {dataset.dataset_id: dataset for product in catalogue.products for dataset in product.datasets}
    if asked.dataset_id not in datasets:
        raise copernicusmarine.DatasetNotFound(asked.dataset_id)
    version = datasets[asked.dataset_id].get_version(asked.version)
    part = version.get_part(None)
    axes = {name: coordinate for name, (coordinate, _, _) in part.get_coordinates().items()}
    first, last = _ends(axes["time"])
    return Described(
        dataset_id=asked.dataset_id,
        version=version.label,
        first_day=_announced_day(first),
        last_day=_announced_day(last),
        latitude=_axis(axes["latitude"]),
        longitude=_axis(axes["longitude"]),
        retired_on=part.retired_date,
    )


def read(request: Request, described: Described, first_day: date, last_day: date, report: Report) -> set[date]:
    """Read days of one dataset into a file of the request's folder, and return those that were asked and came."""
    import copernicusmarine
    from dask.callbacks import Callback

    # A little more than a cell, or rounding loses a centre on the very edge.
    latitude_margin, longitude_margin = (
        _step(axis) * (1 + COINCIDENCE) for axis in (described.latitude, described.longitude)
    )
    dataset = copernicusmarine.open_dataset(
        dataset_id=described.dataset_id,
        dataset_version=described.version,
        username=request.username,
        password=request.password,
        variables=VARIABLES,
        minimum_longitude=max(-180.0, request.west - longitude_margin),
        maximum_longitude=min(180.0, request.east + longitude_margin),
        minimum_latitude=max(-90.0, request.south - latitude_margin),
        maximum_latitude=min(90.0, request.north + latitude_margin),
        # Naive datetimes would be local time.
        start_datetime=datetime.combine(first_day, time_of_day.min, UTC),
        end_datetime=datetime.combine(last_day, time_of_day.max, UTC),
        coordinates_selection_method="inside",
        raise_if_updating=True,
    )
    if dataset is None:
        raise ValueError("the client gave up and says no more")
    # The client answers for a missing day with its neighbour: keep what was asked.
    dataset = dataset.sel(time=slice(str(first_day), str(last_day)))
    if not dataset.sizes["time"]:
        return set()
    counter = _Counter(described.dataset_id, report)
    with Callback(start=counter.start, posttask=counter.count):
        dataset = dataset.load()
    for variable in dataset.variables.values():
        variable.encoding = {}
    path = os.path.join(request.folder, f"{described.dataset_id}.nc")
    dataset.to_netcdf(path, engine="h5netcdf")
    report(Delivered(dataset_id=described.dataset_id, path=path))
    return set(dataset["time"].values.astype("datetime64[D]").astype(object))


class _Counter:
    """Counts finished tasks of Dask: a chunk takes one to fetch and one to cut."""

    def __init__(self, dataset_id: str, report: Report) -> None:
        self._dataset_id, self._report = dataset_id, report
        self._total = self._done = 0
        self._told = time.monotonic()

    def start(self, graph: Any) -> None:
        self._total += len(graph)

    def count(self, *_: Any) -> None:
        self._done += 1
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._told = time.monotonic()
            self._report(Progress(dataset_id=self._dataset_id, done=self._done, total=self._total))


def _write(messages: TextIO, message: Message) -> None:
    messages.write(json.dumps(message.model_dump(mode="json")) + "\n")
    messages.flush()


def _failure(asked: AskedDataset, doing: str, error: Exception) -> Failed:
    classes = [klass.__name__ for klass in type(error).__mro__]
    return Failed(dataset_id=asked.dataset_id, asked=doing, classes=classes, words=str(error))


def _calendar(first_day: date, last_day: date) -> list[date]:
    return [first_day + timedelta(days=i) for i in range((last_day - first_day).days + 1)]


def _ends(axis: Any) -> tuple[float | str, float | str]:
    if axis.minimum_value is None or axis.maximum_value is None:
        return min(axis.values), max(axis.values)
    return axis.minimum_value, axis.maximum_value


def _axis(axis: Any) -> Axis:
    minimum, maximum = _ends(axis)
    return Axis(minimum=float(minimum), maximum=float(maximum), step=axis.step, values=axis.values)


def _step(axis: Axis) -> float:
    if axis.step is not None:
        return abs(axis.step)
    if not axis.values or len(axis.values) < 2:
        raise ValueError("the catalogue announces neither the step nor the values of an axis")
    return (axis.maximum - axis.minimum) / (len(axis.values) - 1)


def _announced_day(moment: float | str) -> date:
    """Return the day of a catalogue's time: milliseconds since 1970, or ISO 8601."""
    if isinstance(moment, str):
        return datetime.fromisoformat(moment).date()
    return datetime.fromtimestamp(moment / 1000, UTC).date()


def _end_with_parent(parent: int) -> None:
    """End this process soon after its parent, which may be killed before it can end this one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
