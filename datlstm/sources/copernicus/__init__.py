"""Copernicus Marine as a source: its official client, run in a child process and compared with what was asked."""

from collections.abc import Mapping
from datetime import date
from tempfile import TemporaryDirectory

import xarray as xr

from datlstm.errors import NotYetAvailableError, PermanentSourceError
from datlstm.settings import CopernicusCredentials, CopernicusDataset, QualitySettings, Region
from datlstm.settings import CopernicusSource as Options
from datlstm.sources.copernicus import inspection
from datlstm.sources.copernicus.process import run_client
from datlstm.sources.copernicus.protocol import (
    ICE,
    MASK,
    SST,
    AskedDataset,
    Delivered,
    Described,
    Event,
    Failed,
    Request,
)
from datlstm.sources.copernicus.translation import CREDENTIAL_VARIABLES, explain
from datlstm.sources.form import Provenance, VariableNames, deliver, in_kelvin, locate
from datlstm.sources.product import Product

NAMES = VariableNames(sst=SST, ice=ICE, mask=MASK)
DOI_BY_PRODUCT = {
    "SST_GLO_SST_L4_NRT_OBSERVATIONS_010_001": "https://doi.org/10.48670/moi-00165",
    "SST_GLO_SST_L4_REP_OBSERVATIONS_010_011": "https://doi.org/10.48670/moi-00168",
}
CREDIT = "Generated using E.U. Copernicus Marine Service Information; "
SYNTHETIC = "SYNTHETIC-"
"""What a product's name begins with when its data say that they were invented."""


class CopernicusSource:
    """Days of SST of Copernicus Marine, each from the best dataset that has it; see `datlstm.sources.Source`.

    ``environment`` is added to the client's own, to lead it to another Marine Data Store; ``synthetic`` says whether
    that store's data are invented, which must be true of what comes. Without a version in the settings, the catalogue's
    default is taken. Raises `PermanentSourceError` when credentials are missing, before the client is touched.
    """

    def __init__(
        self,
        region: Region,
        options: Options,
        credentials: CopernicusCredentials,
        quality: QualitySettings,
        *,
        environment: Mapping[str, str] | None = None,
        synthetic: bool = False,
    ) -> None:
        self._region = region
        self._options = options
        self._quality = quality
        self._environment = environment or {}
        self._synthetic = synthetic
        self._secrets = _required(credentials)
        self._datasets = {d.dataset_id: d for d in (options.reprocessed, options.near_real_time) if d is not None}
        self._described: dict[str, Described] = {}

    def products(self) -> list[Product]:
        """Return what the catalogue announces of each product now, best first. Raises `SourceError`."""
        if self._datasets.keys() - self._described.keys():
            self._ask(self._datasets, None, None)
        return [self._product(self._described[dataset_id]) for dataset_id in self._datasets]

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return the days of a closed interval that exist, in the form of `Source.read`, already loaded.

        A lazy chunk would fail later, untyped, or be silently missing. So ask for as many days as fit in memory. A day
        that is not whole is left out, like one that the service lacks, and named in ``problems``; when none is whole
        there are problems and no day. Raises `NotYetAvailableError` when no asked day is there, and as the client fails
        `PermanentSourceError` or `TransientSourceError`.
        """
        return self._read(self._datasets, first_day, last_day)

    def read_near_real_time(self, first_day: date, last_day: date) -> xr.Dataset:
        """Return days of the near-real-time dataset alone, also where a better one has them; else as `read`."""
        chosen = self._options.near_real_time.dataset_id
        return self._read({chosen: self._datasets[chosen]}, first_day, last_day)

    def _read(self, datasets: Mapping[str, CopernicusDataset], first_day: date, last_day: date) -> xr.Dataset:
        pieces: list[xr.Dataset] = []
        with TemporaryDirectory(prefix="datlstm-") as folder:
            for event in self._ask(datasets, first_day, last_day, folder):
                if isinstance(event, Delivered):
                    pieces.append(self._inspected(event))
        pieces = _best_first(pieces)
        if not pieces:
            raise NotYetAvailableError(
                f"{' and '.join(datasets)} have no day in {first_day} … {last_day} yet: come back later"
            )
        return _joined(pieces)

    def _ask(
        self, datasets: Mapping[str, CopernicusDataset], first_day: date | None, last_day: date | None, folder: str = ""
    ) -> list[Event]:
        username, password = self._secrets
        request = Request(
            username=username,
            password=password,
            datasets=[AskedDataset(dataset_id=d.dataset_id, version=d.dataset_version) for d in datasets.values()],
            first_day=first_day,
            last_day=last_day,
            south=self._region.south,
            north=self._region.north,
            west=self._region.west,
            east=self._region.east,
            folder=folder,
            loopback_only=self._synthetic,
        )
        events = run_client(request, self._options.limit_seconds, self._environment)
        self._described |= {event.dataset_id: event for event in events if isinstance(event, Described)}
        failed = [event for event in events if isinstance(event, Failed)]
        if failed:
            error = explain(failed[0], self._secrets)
            # What a better dataset gave stands although the other has nothing yet.
            if not (isinstance(error, NotYetAvailableError) and any(isinstance(e, Delivered) for e in events)):
                raise error
        return events

    def _inspected(self, delivered: Delivered) -> xr.Dataset:
        """Return what is right of a delivery, in the form of `Source.read`."""
        name = delivered.dataset_id
        described = self._described[name]
        with xr.open_dataset(delivered.path, engine="h5netcdf", decode_timedelta=False) as opened:
            raw = opened.load()
        self._require_nature(raw, name)
        inspection.require_asked_form(raw, described, self._region)
        inspection.require_credible_packing(raw, self._quality, name)
        located = in_kelvin(locate(raw, self._region, NAMES, name))
        inspection.require_known_error(located, name)
        water, problems = inspection.water_by_mask(located, name)
        whole, lacking = inspection.without_incomplete_days(located, water, self._quality.minimum_coverage, name)
        if described.retired_on:
            problems.append(f"{name} {described.version} will be retired on {described.retired_on}: choose another")
        product = self._product(described)
        provenance = Provenance(product.name, product.version, self._attribution())
        days = deliver(whole, water, provenance, [*problems, *lacking])
        return days.assign_attrs(gaps_are_certain=not lacking)

    def _require_nature(self, days: xr.Dataset, name: str) -> None:
        is_synthetic = "synthetic_seed" in days.attrs
        if is_synthetic != self._synthetic:
            found, expected = ("synthetic", "observed") if is_synthetic else ("observed", "synthetic")
            raise PermanentSourceError(
                f"{name} came with {found} days where {expected} ones were expected: look at source.kind and at the "
                "proxy variables; nothing was taken"
            )

    def _product(self, described: Described) -> Product:
        name = self._datasets[described.dataset_id].product
        return Product(
            name=SYNTHETIC + name if self._synthetic else name,
            version=described.version,
            first_day=described.first_day,
            last_day=described.last_day,
        )

    def _attribution(self) -> str:
        """Return the credit for all products of the source: an archive holds days of each."""
        if self._synthetic:
            from datlstm.synthetic.labels import ATTRIBUTION

            return ATTRIBUTION
        return CREDIT + "; ".join(DOI_BY_PRODUCT.get(d.product, d.product) for d in self._datasets.values())


def _required(credentials: CopernicusCredentials) -> tuple[str, str]:
    username, password = (
        secret.get_secret_value() if secret else "" for secret in (credentials.username, credentials.password)
    )
    if not (username and password):
        raise PermanentSourceError(
            f"Copernicus Marine needs credentials: set {CREDENTIAL_VARIABLES}, or source.copernicus.credentials_block"
        )
    return username, password


def _best_first(pieces: list[xr.Dataset]) -> list[xr.Dataset]:
    """Return deliveries, best first, without the days that a better one has."""
    kept: list[xr.Dataset] = []
    for piece in pieces:
        taken = [piece["time"].isin(better["time"]) for better in kept]
        fresh = ~sum(taken, start=xr.zeros_like(piece["time"], dtype=bool))
        kept.append(piece.isel(time=fresh.to_numpy()))
    return [piece for piece in kept if piece.sizes["time"] or piece.attrs["problems"]]


def _joined(pieces: list[xr.Dataset]) -> xr.Dataset:
    if len(pieces) == 1:
        return pieces[0]
    if len({(piece.sizes["latitude"], piece.sizes["longitude"]) for piece in pieces}) > 1:
        raise PermanentSourceError("the two datasets of source.copernicus are on other grids: choose two of one grid")
    days = xr.concat(
        [piece.drop_vars(MASK) for piece in pieces], "time", join="override", combine_attrs="override"
    ).sortby("time")
    water = xr.concat([piece[MASK] for piece in pieces], "piece", join="override").min("piece", keep_attrs=True)
    problems = [problem for piece in pieces for problem in piece.attrs["problems"]]
    certain = all(piece.attrs["gaps_are_certain"] for piece in pieces)
    return days.assign({MASK: water}).assign_attrs(problems=problems, gaps_are_certain=certain)
