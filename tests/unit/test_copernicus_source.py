"""The Copernicus source takes each day from the best dataset that has it, and reports what it could not take.

The client's process is replaced by one that writes files as it does; what the client itself does is tested elsewhere.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from pydantic import SecretStr

from datlstm.errors import NotYetAvailableError, PermanentSourceError, TransientSourceError
from datlstm.settings import (
    CopernicusCredentials,
    NearRealTimeDataset,
    QualitySettings,
    Region,
    ReprocessedDataset,
    Settings,
    SourceSettings,
)
from datlstm.settings import CopernicusSource as Options
from datlstm.sources import Source, copernicus, open_source
from datlstm.sources.copernicus import CopernicusSource
from datlstm.sources.copernicus.protocol import (
    AskedDataset,
    Axis,
    Delivered,
    Described,
    Event,
    Failed,
    Finished,
    Request,
)

REGION = Region(name="bay", title="Bay", south=37, north=37.5, west=118, east=118.5, resolution=0.05)
CREDENTIALS = CopernicusCredentials(username=SecretStr("jeanne.baret"), password=SecretStr("étoile"))
REP, NRT = "METOFFICE-GLO-SST-L4-REP-OBS-SST", "METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2"
REP_PRODUCT, NRT_PRODUCT = "SST_GLO_SST_L4_REP_OBSERVATIONS_010_011", "SST_GLO_SST_L4_NRT_OBSERVATIONS_010_001"
DEFAULT_VERSION = {REP: "202412", NRT: "202311"}
LAST_REP_DAY, LAST_NRT_DAY = date(2026, 3, 5), date(2026, 3, 10)
FIRST, LAST = date(2026, 3, 1), date(2026, 3, 10)
N_CELLS = 12


def ostia(first_day: date, last_day: date, kelvin: float) -> xr.Dataset:
    """What the client gives for the region: its ten cells and one more around, two rows of them land."""
    time = pd.date_range(first_day, last_day).to_numpy()
    dims, shape = ("time", "latitude", "longitude"), (time.size, N_CELLS, N_CELLS)
    fields = {"analysed_sst": kelvin, "analysis_error": 0.3, "sea_ice_fraction": 0.1, "mask": 1.0}
    units = {"analysed_sst": "kelvin", "analysis_error": "kelvin", "sea_ice_fraction": "1"}
    cells = {name: np.full(shape, float(value)) for name, value in fields.items()}
    for name, values in cells.items():
        values[:, 4:6] = 2 if name == "mask" else np.nan
    steps = 0.05 * np.arange(N_CELLS)
    return xr.Dataset(
        {name: (dims, values, {"units": units[name]} if name in units else {}) for name, values in cells.items()},
        {"time": time, "latitude": 36.975 + steps, "longitude": 117.975 + steps},
    )


class FakeClient:
    """Tells and gives what its datasets hold of the asked days, and fails where a failure is due."""

    def __init__(self) -> None:
        self.held = {
            REP: ostia(date(2026, 1, 1), LAST_REP_DAY, 280),
            NRT: ostia(date(2026, 1, 1), LAST_NRT_DAY, 285),
        }
        self.failures: dict[str, tuple[str, str]] = {}
        self.retired_on: dict[str, str] = {}
        self.asked: list[Request] = []
        self.limits: list[float] = []
        self.environments: list[dict[str, str]] = []

    def run(self, request: Request, limit_seconds: float, environment: Mapping[str, str]) -> list[Event]:
        self.asked.append(request)
        self.limits.append(limit_seconds)
        self.environments.append(dict(environment))
        events: list[Event] = []
        for asked in request.datasets:
            events.append(self._describe(asked))
            if request.first_day is None:
                continue
            if asked.dataset_id in self.failures:
                named, words = self.failures[asked.dataset_id]
                classes = [named, "Exception", "BaseException", "object"]
                return [*events, Failed(dataset_id=asked.dataset_id, asked="days", classes=classes, words=words)]
            days = self.held[asked.dataset_id].sel(time=slice(str(request.first_day), str(request.last_day)))
            if days.sizes["time"]:
                path = Path(request.folder) / f"{asked.dataset_id}.nc"
                days.to_netcdf(path, engine="h5netcdf")
                events.append(Delivered(dataset_id=asked.dataset_id, path=str(path)))
        return [*events, Finished()]

    def _describe(self, asked: AskedDataset) -> Described:
        return Described(
            dataset_id=asked.dataset_id,
            version=asked.version or DEFAULT_VERSION[asked.dataset_id],
            first_day=date(2007, 1, 1),
            last_day=LAST_REP_DAY if asked.dataset_id == REP else LAST_NRT_DAY,
            latitude=Axis(minimum=-89.975, maximum=89.975, step=0.05, values=None),
            longitude=Axis(minimum=-179.975, maximum=179.975, step=0.05, values=None),
            retired_on=self.retired_on.get(asked.dataset_id),
        )


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(copernicus, "run_client", fake.run)
    return fake


@pytest.fixture
def source(client: FakeClient) -> CopernicusSource:
    return source_of(Options())


def source_of(options: Options, *, synthetic: bool = False) -> CopernicusSource:
    environment = {"HTTPS_PROXY": "http://127.0.0.1:1"} if synthetic else None
    return CopernicusSource(
        REGION, options, CREDENTIALS, QualitySettings(), environment=environment, synthetic=synthetic
    )


def days_by_product(days: xr.Dataset) -> dict[str, list[int]]:
    products = days["source_product"].to_numpy().tolist()
    numbers = days["time"].dt.day.to_numpy().tolist()
    return {product: [d for d, p in zip(numbers, products, strict=True) if p == product] for product in set(products)}


def without_days(dataset: xr.Dataset, *days: date) -> xr.Dataset:
    return dataset.drop_sel(time=[np.datetime64(day, "ns") for day in days])


def lose(client: FakeClient, dataset_id: str, *days: date, columns: int = 3) -> None:
    """Let a dataset lack chunks of its temperature."""
    sst = client.held[dataset_id]["analysed_sst"]
    for day in days:
        sst.loc[{"time": np.datetime64(day, "ns")}][:, :columns] = np.nan


class TestForm:
    def test_days_come_in_the_form_of_the_protocol(self, source: CopernicusSource) -> None:
        days = source.read(FIRST, LAST)
        assert isinstance(source, Source)
        assert days["sst"].dims == ("time", "latitude", "longitude")
        assert {days[name].dtype for name in ("sst", "sea_ice_fraction", "analysis_error")} == {np.dtype(np.float32)}
        assert days["mask"].dtype == np.int8
        assert days["mask"].dims == ("latitude", "longitude")
        np.testing.assert_array_equal(days["time"], np.arange("2026-03-01", "2026-03-11", dtype="datetime64[D]"))
        np.testing.assert_allclose(days["latitude"], 36.975 + 0.05 * np.arange(N_CELLS), atol=1e-9)
        assert all(variable.chunks is None for variable in days.variables.values())
        assert days.attrs["problems"] == []

    def test_land_is_land_and_sea_has_values(self, source: CopernicusSource) -> None:
        days = source.read(FIRST, LAST)
        assert (days["mask"][4:6] == 2).all()
        assert int((days["mask"] == 1).sum()) == 10 * N_CELLS
        assert days["sst"].where(days["mask"] == 2).isnull().all()
        assert int(days["sst"].notnull().sum()) == 10 * 10 * N_CELLS

    def test_noon_stamps_become_calendar_days(self, client: FakeClient, source: CopernicusSource) -> None:
        noon = client.held[NRT]["time"] + np.timedelta64(12, "h")
        client.held[NRT] = client.held[NRT].assign_coords(time=noon)
        days = source.read(FIRST, LAST)
        np.testing.assert_array_equal(days["time"], np.arange("2026-03-01", "2026-03-11", dtype="datetime64[D]"))
        assert days_by_product(days)[REP_PRODUCT] == [1, 2, 3, 4, 5]


class TestBestFirst:
    def test_each_day_comes_from_the_best_dataset_that_has_it(self, source: CopernicusSource) -> None:
        days = source.read(FIRST, LAST)
        assert days_by_product(days) == {REP_PRODUCT: [1, 2, 3, 4, 5], NRT_PRODUCT: [6, 7, 8, 9, 10]}
        assert days["sst"][:, 0, 0].to_numpy().tolist() == [280] * 5 + [285] * 5
        assert days["source_version"].to_numpy().tolist() == ["202003"] * 5 + ["202311"] * 5

    def test_second_fills_what_the_best_lacks_and_the_days_stay_in_order(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        client.held[REP] = without_days(client.held[REP], date(2026, 3, 2))
        lose(client, REP, date(2026, 3, 4))
        days = source.read(FIRST, LAST)
        assert days_by_product(days) == {REP_PRODUCT: [1, 3, 5], NRT_PRODUCT: [2, 4, 6, 7, 8, 9, 10]}
        assert days["time"].to_index().is_monotonic_increasing
        (problem,) = days.attrs["problems"]
        assert REP in problem
        assert "2026-03-04" in problem

    def test_cell_is_water_if_any_dataset_says_so(self, client: FakeClient, source: CopernicusSource) -> None:
        for variable, value in (("mask", 1), ("analysed_sst", 285.0), ("analysis_error", 0.3)):
            client.held[NRT][variable][:, 4] = value
        days = source.read(FIRST, LAST)
        assert (days["mask"][4] == 1).all()
        assert (days["mask"][5] == 2).all()

    def test_near_real_time_alone_comes_when_it_is_asked(self, client: FakeClient, source: CopernicusSource) -> None:
        days = source.read_near_real_time(FIRST, LAST)
        assert days_by_product(days) == {NRT_PRODUCT: list(range(1, 11))}
        assert [asked.dataset_id for asked in client.asked[0].datasets] == [NRT]

    def test_lone_dataset_is_enough(self, client: FakeClient) -> None:
        source = source_of(Options(reprocessed=None))
        assert days_by_product(source.read(FIRST, LAST)) == {NRT_PRODUCT: list(range(1, 11))}
        assert [product.name for product in source.products()] == [NRT_PRODUCT]

    def test_day_that_nobody_has_is_absent(self, client: FakeClient, source: CopernicusSource) -> None:
        for dataset_id in (REP, NRT):
            client.held[dataset_id] = without_days(client.held[dataset_id], date(2026, 3, 3))
        assert source.read(FIRST, LAST)["time"].dt.day.to_numpy().tolist() == [1, 2, 4, 5, 6, 7, 8, 9, 10]

    def test_no_day_at_all_is_not_yet(self, source: CopernicusSource) -> None:
        with pytest.raises(NotYetAvailableError, match=f"{REP} and {NRT} have no .*2026-04-01 … 2026-04-02"):
            source.read(date(2026, 4, 1), date(2026, 4, 2))

    def test_days_that_are_all_incomplete_leave_no_day_and_say_why(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        lose(client, NRT, LAST)
        days = source.read(LAST, LAST)
        assert days.sizes["time"] == 0
        assert "2026-03-10" in days.attrs["problems"][0]


class TestFailures:
    def test_best_datasets_days_stand_although_the_second_has_nothing_yet(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        client.failures[NRT] = ("CoordinatesOutOfDatasetBounds", "for the time dimension exceed")
        assert days_by_product(source.read(FIRST, LAST)) == {REP_PRODUCT: [1, 2, 3, 4, 5]}

    @pytest.mark.parametrize(
        ("named", "kind"), [("ReadTimeout", TransientSourceError), ("InvalidUsernameOrPassword", PermanentSourceError)]
    )
    def test_any_other_failure_of_the_second_takes_nothing(
        self, client: FakeClient, source: CopernicusSource, named: str, kind: type[Exception]
    ) -> None:
        client.failures[NRT] = (named, "jeanne.baret was refused with étoile")
        with pytest.raises(kind) as told:
            source.read(FIRST, LAST)
        assert type(told.value) is kind
        assert NRT in str(told.value)
        assert "jeanne" not in str(told.value)
        assert "étoile" not in str(told.value)

    def test_nothing_yet_of_the_only_dataset_asked_is_told(self, client: FakeClient, source: CopernicusSource) -> None:
        client.failures[NRT] = ("DatasetUpdating", "is being updated")
        with pytest.raises(NotYetAvailableError, match="being updated"):
            source.read_near_real_time(FIRST, LAST)

    @pytest.mark.parametrize("variable", ["analysed_sst", "analysis_error", "sea_ice_fraction"])
    def test_variable_in_units_nobody_knows_is_refused(
        self, client: FakeClient, source: CopernicusSource, variable: str
    ) -> None:
        client.held[NRT][variable].attrs["units"] = "furlong"
        with pytest.raises(PermanentSourceError, match=variable):
            source.read(FIRST, LAST)

    def test_delivery_that_is_not_what_was_asked_is_refused(self, client: FakeClient, source: CopernicusSource) -> None:
        client.held[NRT] = client.held[NRT].isel(latitude=slice(1, None))
        with pytest.raises(PermanentSourceError, match=f"{NRT}: latitude has 11 cells"):
            source.read(FIRST, LAST)

    def test_values_without_their_scale_are_refused(self, client: FakeClient, source: CopernicusSource) -> None:
        client.held[NRT]["analysed_sst"] -= 273.15
        with pytest.raises(PermanentSourceError, match="analysed_sst is between"):
            source.read(FIRST, LAST)


class TestRequest:
    def test_region_days_and_datasets_are_asked_best_first_in_one_run(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        source.read(FIRST, LAST)
        (request,) = client.asked
        assert (request.first_day, request.last_day) == (FIRST, LAST)
        assert (request.south, request.north, request.west, request.east) == (37, 37.5, 118, 118.5)
        assert [(asked.dataset_id, asked.version) for asked in request.datasets] == [(REP, "202003"), (NRT, None)]
        assert (request.username, request.password) == ("jeanne.baret", "étoile")
        assert request.loopback_only is False
        assert client.limits == [600.0]
        assert client.environments == [{}]

    def test_version_is_the_pinned_one_or_the_catalogues_default(self, client: FakeClient) -> None:
        pinned = NearRealTimeDataset(product=NRT_PRODUCT, dataset_id=NRT, dataset_version="202105")
        source = source_of(Options(near_real_time=pinned, reprocessed=None))
        assert set(source.read(FIRST, LAST)["source_version"].to_numpy()) == {"202105"}
        open_version = ReprocessedDataset(product=REP_PRODUCT, dataset_id=REP, dataset_version=None)
        source = source_of(Options(reprocessed=open_version))
        assert [product.version for product in source.products()] == ["202412", "202311"]

    def test_limit_of_the_settings_bounds_the_run(self, client: FakeClient) -> None:
        source_of(Options(limit_seconds=7)).read(FIRST, LAST)
        assert client.limits == [7]

    def test_folder_is_gone_afterwards(self, client: FakeClient, source: CopernicusSource) -> None:
        source.read(FIRST, LAST)
        client.failures[NRT] = ("ReadTimeout", "")
        with pytest.raises(TransientSourceError):
            source.read(FIRST, LAST)
        assert len({request.folder for request in client.asked}) == 2
        assert not any(Path(request.folder).exists() for request in client.asked)


class TestProducts:
    def test_products_are_told_best_first_with_what_the_catalogue_announces(self, source: CopernicusSource) -> None:
        best, second = source.products()
        assert (best.name, best.version, best.last_day) == (REP_PRODUCT, "202003", LAST_REP_DAY)
        assert (second.name, second.version, second.last_day) == (NRT_PRODUCT, "202311", LAST_NRT_DAY)
        assert best.first_day == date(2007, 1, 1)

    def test_products_ask_for_no_day(self, client: FakeClient, source: CopernicusSource) -> None:
        source.products()
        (request,) = client.asked
        assert (request.first_day, request.last_day) == (None, None)

    def test_reading_has_told_the_products_already(self, client: FakeClient, source: CopernicusSource) -> None:
        source.read(FIRST, LAST)
        source.products()
        assert len(client.asked) == 1

    def test_products_are_told_after_only_one_dataset_was_read(self, source: CopernicusSource) -> None:
        source.read_near_real_time(FIRST, LAST)
        assert [product.name for product in source.products()] == [REP_PRODUCT, NRT_PRODUCT]

    def test_announced_retirement_is_a_problem(self, client: FakeClient, source: CopernicusSource) -> None:
        client.retired_on[REP] = "2026-06-01"
        (problem,) = source.read(FIRST, LAST).attrs["problems"]
        assert f"{REP} 202003" in problem
        assert "2026-06-01" in problem


class TestCredit:
    def test_every_delivery_credits_all_products_by_identifier(self, source: CopernicusSource) -> None:
        credit = "Generated using E.U. Copernicus Marine Service Information; "
        rep, nrt = "https://doi.org/10.48670/moi-00168", "https://doi.org/10.48670/moi-00165"
        for first, last in ((FIRST, LAST_REP_DAY), (LAST, LAST), (FIRST, LAST)):
            assert source.read(first, last).attrs["attribution"] == f"{credit}{rep}; {nrt}"

    def test_product_of_unknown_identifier_is_credited_by_name(self, client: FakeClient) -> None:
        other = NearRealTimeDataset(product="SST_OTHER", dataset_id=NRT)
        days = source_of(Options(reprocessed=None, near_real_time=other)).read(FIRST, LAST)
        assert days.attrs["attribution"].endswith("; SST_OTHER")


class TestNature:
    def test_synthetic_days_are_refused_where_observed_ones_are_expected(
        self, client: FakeClient, source: CopernicusSource
    ) -> None:
        client.held[NRT].attrs["synthetic_seed"] = 7
        with pytest.raises(PermanentSourceError, match=f"{NRT} came with synthetic days where observed ones"):
            source.read(FIRST, LAST)

    def test_observed_days_are_refused_where_synthetic_ones_are_expected(self, client: FakeClient) -> None:
        with pytest.raises(PermanentSourceError, match=f"{REP} came with observed days where synthetic ones"):
            source_of(Options(), synthetic=True).read(FIRST, LAST)

    def test_synthetic_days_say_so_and_their_client_is_fenced(self, client: FakeClient) -> None:
        for held in client.held.values():
            held.attrs["synthetic_seed"] = 7
        source = source_of(Options(), synthetic=True)
        days = source.read(FIRST, LAST)
        assert all(name.startswith("SYNTHETIC-") for name in days_by_product(days))
        assert all(product.name.startswith("SYNTHETIC-") for product in source.products())
        assert "not an observation" in days.attrs["attribution"]
        assert client.asked[0].loopback_only is True
        assert client.environments[0] == {"HTTPS_PROXY": "http://127.0.0.1:1"}


class TestCredentials:
    @pytest.mark.parametrize("username", [None, SecretStr(""), SecretStr("jeanne.baret")])
    @pytest.mark.parametrize("password", [None, SecretStr("")])
    def test_missing_credentials_are_refused_before_anything_runs(
        self, client: FakeClient, username: SecretStr | None, password: SecretStr | None
    ) -> None:
        credentials = CopernicusCredentials(username=username, password=password)
        expected = "COPERNICUSMARINE_SERVICE_USERNAME and COPERNICUSMARINE_SERVICE_PASSWORD"
        with pytest.raises(PermanentSourceError, match=expected):
            CopernicusSource(REGION, Options(), credentials, QualitySettings())
        assert client.asked == []

    def test_opened_source_takes_them_from_the_clients_own_variables(
        self, client: FakeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = Settings(region=REGION, source=SourceSettings(kind="copernicus"))
        with pytest.raises(PermanentSourceError, match="needs credentials"):
            open_source(settings)
        monkeypatch.setenv("COPERNICUSMARINE_SERVICE_USERNAME", "jeanne.baret")
        monkeypatch.setenv("COPERNICUSMARINE_SERVICE_PASSWORD", "étoile")
        open_source(settings).read(FIRST, FIRST + timedelta(days=1))
        assert (client.asked[0].username, client.asked[0].password) == ("jeanne.baret", "étoile")
