"""The versioned SST archive: an Icechunk repository in which one night is one commit and every state has an id."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Any

import icechunk
import numpy as np
import pandas as pd
import xarray as xr
import zarr

from datlstm import daily
from datlstm.clock import now_seconds
from datlstm.daily import DailyAxis
from datlstm.errors import ArchiveError, DatlstmError
from datlstm.formats import check_format
from datlstm.grid import Grid
from datlstm.quality import UNUSABLE, DayQuality
from datlstm.settings import OWN_STORE, Settings
from datlstm.store import Store, explained

PATH = "archive"
BRANCH = "main"
TAG = "kept-"
# It warns at every opening that local commits race; here a lock lets one writer in at a time.
icechunk.set_logs_filter("error")
FORMAT_VERSION = 2
"""Format 1 has no analysis error."""
SEA, LAND = 1, 2
FIELDS = ("sst", "sea_ice_fraction", "analysis_error")
PER_DAY = ("quality", "source_product", "source_version")
Provenance = tuple[str, str]
"""Product and version."""
NO_DAYS: Mapping[date, Provenance] = MappingProxyType({})


@dataclass(frozen=True)
class UpsertReport:
    """What an upsert did, day by day, and the snapshot that now holds the result.

    ``refused`` are days whose unusable new field was not let over a usable stored one; ``absent`` those that a source
    was asked for and did not have, as far as the archive did not know.
    """

    snapshot_id: str
    added: list[date] = field(default_factory=list)
    revised: list[date] = field(default_factory=list)
    unchanged: list[date] = field(default_factory=list)
    refused: list[date] = field(default_factory=list)
    absent: list[date] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Tell whether the archive is another one than before."""
        return bool(self.added or self.revised or self.absent)


@dataclass(frozen=True)
class ExpiryReport:
    """How many states an expiry took away and left, and the ids it was to keep that the archive does not have."""

    expired: int
    left: int
    unknown: list[str] = field(default_factory=list)


class Archive:
    """The archive of one region under one store.

    Raises `ArchiveError` when there is none (but for `upsert`, which makes it), or it belongs to another region or is
    of a newer format. One of an earlier format is read, with what it lacks as NaN, and written once it is migrated.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.store)
        self.grid = Grid.from_region(settings.region)

    def exists(self) -> bool:
        """Tell whether anything was ever written."""
        return self._committed() is not None

    def check_owner(self) -> None:
        """Raise `ArchiveError` when this is the archive of another region; say nothing where that can't be read."""
        try:
            repository = self._committed()
            if repository is None:
                return
            state = zarr.open_group(repository.readonly_session(BRANCH).store, mode="r")
        except (DatlstmError, icechunk.IcechunkError, OSError):
            return
        self._check_own(state)

    def snapshot_id(self) -> str:
        """Return the id of the newest state."""
        return self._repository().lookup_branch(BRANCH)

    def last_day(self) -> date:
        """Return the newest usable day. Raises `ArchiveError` when there is none."""
        days = self.usable_days()
        if not days:
            raise ArchiveError(f"{self._store.url_of(PATH)} holds no usable day: run a backfill, or look at its flags")
        return days[-1]

    def usable_days(self, snapshot_id: str | None = None) -> list[date]:
        """Return all usable days, ascending."""
        quality = self._open(snapshot_id)["quality"]
        usable = quality["time"].values[(quality.values & UNUSABLE) == 0]
        return list(usable.astype("datetime64[D]").astype(object))

    def open(self, snapshot_id: str | None = None) -> xr.Dataset:
        """Return a whole state, lazily, exactly as stored: flagged days included.

        ``sst(time, latitude, longitude)`` kelvin, ``sea_ice_fraction``, ``analysis_error`` kelvin,
        ``mask(latitude, longitude)`` (1 sea, 2 land) and per day ``quality``, ``source_product``, ``source_version``,
        ``ingested_at``. A missing day that has a product was asked of it, and not there.
        """
        return self._open(snapshot_id)

    def provenance(self, snapshot_id: str | None = None) -> pd.DataFrame:
        """Return of each day since the archive's first, by calendar day: `PER_DAY`, and ``ingested_at`` (UTC)."""
        with explained(self._store.url_of(PATH)):
            stored = self._open(snapshot_id)[[*PER_DAY, "ingested_at"]].load()
        columns = {name: stored[name].values.astype(object) for name in PER_DAY}
        columns["ingested_at"] = stored["ingested_at"].values.astype("datetime64[s]")
        return pd.DataFrame(columns, index=stored["time"].values.astype("datetime64[D]").astype(object))

    def read(self, first_day: date, last_day: date, snapshot_id: str | None = None) -> xr.Dataset:
        """Return a closed interval of days, lazily, unusable and absent days as NaN.

        Days outside the archive's axis are added as absent, so the result always has every asked day.
        """
        days = np.arange(np.datetime64(first_day, "ns"), np.datetime64(last_day, "ns") + 1, np.timedelta64(1, "D"))
        stored = self._open(snapshot_id).sel(time=slice(days[0], days[-1]))
        fields = stored[list(FIELDS)].where((stored["quality"] & int(UNUSABLE)) == 0)
        return fields.reindex(time=days).assign(mask=stored["mask"])

    def attribution(self) -> str:
        """Return the credit line of the source that was written last."""
        return str(self._open(None).attrs["attribution"])

    def ocean_mask(self) -> xr.DataArray:
        """Return the boolean ``(latitude, longitude)`` mask the archive was made with."""
        mask = self._open(None)["mask"]
        return (mask.load() & SEA).astype(bool).rename("ocean_mask").drop_attrs()

    def upsert(
        self,
        days: xr.Dataset,
        ocean_mask: xr.DataArray,
        *,
        attribution: str,
        absent: Mapping[date, Provenance] = NO_DAYS,
    ) -> UpsertReport:
        """Add new days, replace changed ones, leave equal ones alone, in one commit.

        ``days`` holds `FIELDS` ``(time, latitude, longitude)`` on the archive's grid and `PER_DAY` ``(time)``, days in
        any order. A flagged day is stored flagged, but an unusable one never replaces a usable one. ``absent`` names
        days that were asked for and are not there, with what to note as their product and version; what the archive
        holds of them stays.
        """
        if _grid_of(days) != self.grid:
            raise ArchiveError(
                f"days on grid {_grid_of(days).hash} are not on the archive's {self.grid.hash}: regrid them"
            )
        days = days.sortby("time").load()
        asked = [*_calendar_days(days), *absent]
        if not asked or bool(days.indexes["time"].has_duplicates):
            raise ArchiveError(f"upsert of {days['time'].size} days: none, or one of them twice; merge them first")
        with self._store.writer(PATH), explained(self._store.url_of(PATH)):
            repository = icechunk.Repository.open_or_create(self._store.icechunk(PATH))
            session = repository.writable_session(BRANCH)
            axis = self._axis(session, ocean_mask)
            first, last = min(asked), max(asked)
            self._check_first(axis, first)
            block = self._stored_block(session, first, last)
            report = _merge(block, days, absent, first)
            if not report.changed:
                return replace(report, snapshot_id=repository.lookup_branch(BRANCH))
            axis.extend(last)
            axis.write(first, block)
            noted = {"attribution": attribution, "region": self._settings.region.name}
            zarr.open_group(session.store, mode="r+").attrs.update(noted)
            message = f"{first} … {last}: {len(report.added)} days added, {len(report.revised)} revised"
            return replace(report, snapshot_id=self._commit(session, message))

    def expire(self, committed_before: datetime, keep: Iterable[str]) -> ExpiryReport:
        """Take away the states committed before an instant, with every object that only they needed.

        The newest state always stays, and so does, for ever, each state whose id is in ``keep`` here or was in an
        earlier call: it gets a tag. Killed at any moment, the next call completes it.
        """
        with self._store.writer(PATH) as confirm, explained(self._store.url_of(PATH)):
            self._open(None)
            repository = self._repository()
            unknown = _tag(repository, keep)
            confirm()
            expired = repository.expire_snapshots(committed_before)
            confirm()
            # What an expired state wrote is older than its commit, hence than this instant. What a commit under way
            # has written is younger, so even one that took this writer's lease over would lose nothing.
            repository.garbage_collect(committed_before)
            left = {state.id for refs in _references(repository) for state in repository.ancestry(**refs)}
        # The empty state that every repository begins with is none of a night's.
        return ExpiryReport(len(expired - left), len(left) - 1, unknown)

    def _check_first(self, axis: DailyAxis, first: date) -> None:
        if axis.index(first) < 0:
            raise ArchiveError(
                f"{first} lies before the archive's first day {axis.first_day}, which is fixed when it is made: set "
                "archive.first_day for a new store"
            )

    def _stored_block(self, session: icechunk.Session, first: date, last: date) -> dict[str, np.ndarray]:
        wanted = np.arange(np.datetime64(first, "ns"), np.datetime64(last, "ns") + 1, np.timedelta64(1, "D"))
        shape = (wanted.size, *self.grid.shape)
        block = {
            **{name: np.full(shape, np.nan, "float32") for name in FIELDS},
            "quality": np.full(wanted.size, DayQuality.MISSING, "uint8"),
            "source_product": np.full(wanted.size, "", np.dtypes.StringDType()),
            "source_version": np.full(wanted.size, "", np.dtypes.StringDType()),
            "ingested_at": np.zeros(wanted.size, "int64"),
        }
        group = zarr.open_group(session.store, mode="r")
        axis = DailyAxis(group, "time")
        start, stop = axis.index(first), min(axis.index(last) + 1, axis.size)
        for name, values in block.items():
            if stop > start:
                values[: stop - start] = np.asarray(group[name][start:stop])  # type: ignore[index]
        return block

    def _axis(self, session: icechunk.Session, ocean_mask: xr.DataArray) -> DailyAxis:
        try:
            group = zarr.open_group(session.store, mode="r+")
        except FileNotFoundError:
            _template(self.grid, ocean_mask, self._settings).to_zarr(
                session.store,
                consolidated=False,
                zarr_format=3,
                encoding=_encoding(self.grid, self._settings),
                mode="w-",
            )
            group = zarr.open_group(session.store, mode="r+")
            group["time"].attrs["first_day"] = self._settings.archive.first_day.isoformat()
        check_format(group.attrs.get("format_version"), FORMAT_VERSION, self._store.url_of(PATH), ArchiveError)
        self._check_own(group)
        stored = np.asarray(group["mask"][:])  # type: ignore[index]
        differing, sea = int(((stored == SEA) != ocean_mask.values).sum()), int((stored == SEA).sum())
        # Providers move a few cells of the coast now and then; the archive's own mask goes on deciding.
        if differing > (1 - self._settings.quality.minimum_coverage) * sea:
            raise ArchiveError(
                f"the source's ocean mask differs from the archive's in {differing} of {sea} cells: "
                f"{self._store.url_of(PATH)} keeps the mask it was made with; use a new store for another mask"
            )
        return DailyAxis(group, "time")

    def _commit(self, session: icechunk.Session, message: str) -> str:
        try:
            return session.commit(message)
        except icechunk.ConflictError as error:
            raise ArchiveError(
                f"another process wrote {self._store.url_of(PATH)} at the same time and was first: run this again"
            ) from error

    def _committed(self) -> icechunk.Repository | None:
        """Return the repository, or None where there is none or its first writer never came to commit."""
        storage = self._store.icechunk(PATH)
        with explained(self._store.url_of(PATH)):
            if not icechunk.Repository.exists(storage):
                return None
            repository = icechunk.Repository.open(storage)
        newest = next(iter(repository.ancestry(branch=BRANCH)))
        return None if newest.parent_id is None else repository

    def _repository(self) -> icechunk.Repository:
        repository = self._committed()
        if repository is None:
            raise ArchiveError(f"no archive at {self._store.url_of(PATH)}: run `datlstm backfill` first")
        return repository

    def _open(self, snapshot_id: str | None) -> xr.Dataset:
        repository = self._repository()
        try:
            session = repository.readonly_session(snapshot_id=snapshot_id or repository.lookup_branch(BRANCH))
            stored = xr.open_zarr(session.store, consolidated=False, chunks={})
        except (icechunk.IcechunkError, FileNotFoundError) as error:
            cause = str(error).strip().split("\n", 1)[0]
            raise ArchiveError(
                f"{self._store.url_of(PATH)} can't be read at {snapshot_id or BRANCH}: {cause}. Ask for a snapshot "
                "that it has, or restore it from a backup"
            ) from error
        check_format(
            stored.attrs.get("format_version"), FORMAT_VERSION, self._store.url_of(PATH), ArchiveError, older=None
        )
        self._check_own(stored)
        if "analysis_error" not in stored:
            unknown = xr.full_like(stored["sst"], np.nan).drop_attrs(deep=False)
            stored = stored.assign(analysis_error=unknown.assign_attrs(ANALYSIS_ERROR_ATTRIBUTES))
        return stored

    def _check_own(self, state: xr.Dataset | zarr.Group) -> None:
        """Refuse the archive of another region. Before their names were kept, the grid alone tells."""
        region, found = self._settings.region.name, _grid_of(state)
        owner = state.attrs.get("region", region)
        if owner != region or found != self.grid:
            raise ArchiveError(
                f"{self._store.url_of(PATH)} is of region {owner!r} on {found.shape} cells (grid {found.hash}), not of "
                f"{region!r} on {self.grid.shape} (grid {self.grid.hash}): {OWN_STORE}"
            )


def _tag(repository: icechunk.Repository, snapshot_ids: Iterable[str]) -> list[str]:
    """Tag states so that they outlive their expiry, and return the ids that there are no states of."""
    known, unknown = repository.list_tags(), []
    for snapshot_id in sorted({*snapshot_ids} - {name.removeprefix(TAG) for name in known}):
        try:
            repository.lookup_snapshot(snapshot_id)
        except icechunk.IcechunkError as error:
            if "not found" not in str(error):
                raise
            unknown.append(snapshot_id)
        else:
            repository.create_tag(TAG + snapshot_id, snapshot_id)
    return unknown


def _references(repository: icechunk.Repository) -> list[dict[str, str]]:
    return [{"branch": BRANCH}, *({"tag": name} for name in sorted(repository.list_tags()))]


def _grid_of(holder: xr.Dataset | zarr.Group) -> Grid:
    return Grid(*(np.asarray(holder[name][:]) for name in ("latitude", "longitude")))  # type: ignore[index]


def _calendar_days(days: xr.Dataset) -> list[date]:
    return list(days["time"].values.astype("datetime64[D]").astype(object))


def _merge(
    block: dict[str, np.ndarray], days: xr.Dataset, absent: Mapping[date, Provenance], first: date
) -> UpsertReport:
    """Put what is new into the block of stored days that starts on ``first``, and tell what was."""
    names = (*FIELDS, *PER_DAY)
    given = {name: days[name].values.astype(block[name].dtype, copy=False) for name in names}
    report = UpsertReport("")
    now = np.asarray(now_seconds())
    for i, day in enumerate(_calendar_days(days)):
        place = (day - first).days
        new = {name: np.asarray(values[i]) for name, values in given.items()}
        verdict = _compare({name: block[name][place] for name in new}, new)
        getattr(report, verdict).append(day)
        if verdict in ("added", "revised"):
            for name, value in {**new, "ingested_at": now}.items():
                block[name][place] = value
    for day, (product, version) in absent.items():
        place = (day - first).days
        known = (str(block["source_product"][place]), str(block["source_version"][place]))
        if known != (product, version):
            report.absent.append(day)
            block["source_product"][place], block["source_version"][place] = product, version
            block["ingested_at"][place] = now
    return report


def _compare(stored: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> str:
    stored_quality, quality = int(stored["quality"]), int(new["quality"])
    if stored_quality & DayQuality.MISSING:
        return "added"
    if all(_equal(stored[name], value) for name, value in new.items()):
        return "unchanged"
    return "refused" if quality & UNUSABLE and not stored_quality & UNUSABLE else "revised"


def _equal(stored: np.ndarray, new: np.ndarray) -> bool:
    is_field = np.ndim(new) > 0
    return bool(np.array_equal(stored, new, equal_nan=True) if is_field else stored == new)


def _template(grid: Grid, ocean_mask: xr.DataArray, settings: Settings) -> xr.Dataset:
    fields = ("time", "latitude", "longitude")
    none = np.zeros((0, *grid.shape), "float32")
    text = np.array([], np.dtypes.StringDType())
    return xr.Dataset(
        {
            "sst": (fields, none, {"standard_name": "sea_surface_foundation_temperature", "units": "kelvin"}),
            "sea_ice_fraction": (fields, none, {"standard_name": "sea_ice_area_fraction", "units": "1"}),
            "analysis_error": (fields, none, ANALYSIS_ERROR_ATTRIBUTES),
            "mask": (fields[1:], np.where(ocean_mask.values, SEA, LAND).astype("int8"), _MASK_ATTRIBUTES),
            "quality": ("time", np.zeros(0, "uint8"), _QUALITY_ATTRIBUTES),
            "source_product": ("time", text, {"long_name": "product the day came from"}),
            "source_version": ("time", text, {"long_name": "version of that product"}),
            "ingested_at": ("time", np.zeros(0, "datetime64[s]"), {"long_name": "when the day was written last"}),
        },
        {"time": np.zeros(0, "datetime64[ns]"), **grid.coords()},
        {
            "title": f"SST archive of {settings.region.title}",
            "region": settings.region.name,
            "format_version": FORMAT_VERSION,
            "grid_hash": grid.hash,
        },
    )


ANALYSIS_ERROR_ATTRIBUTES = {"long_name": "estimated error standard deviation of sst", "units": "kelvin"}
_MASK_ATTRIBUTES = {"flag_values": np.array([SEA, LAND], "int8").tolist(), "flag_meanings": "sea land"}
_QUALITY_ATTRIBUTES = {
    "flag_masks": [int(flag) for flag in DayQuality if flag],
    "flag_meanings": " ".join(str(flag.name).lower() for flag in DayQuality if flag),
}


def _encoding(grid: Grid, settings: Settings) -> dict[str, dict[str, Any]]:
    chunks = (settings.archive.chunk_days, *grid.shape)
    nan = np.float32(np.nan)
    cube = {"chunks": chunks, "_FillValue": nan, "fill_value": nan}
    per_day: dict[str, Any] = {"chunks": (daily.LARGE_CHUNK,)}
    return {
        **dict.fromkeys(FIELDS, cube),
        "quality": {**per_day, "fill_value": int(DayQuality.MISSING)},
        "source_product": per_day,
        "source_version": per_day,
        "ingested_at": {**per_day, "units": daily.SECOND_UNITS, "dtype": "int64", "fill_value": 0},
        "time": {**per_day, "units": daily.DAY_UNITS, "dtype": "int32", "calendar": "standard"},
    }


def consecutive(first_day: date, last_day: date) -> list[date]:
    """Return every day of a closed interval."""
    return [first_day + timedelta(days=i) for i in range((last_day - first_day).days + 1)]
