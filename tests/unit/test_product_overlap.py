"""The overlap of two products: which days are compared, and that what is measured is their step."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from datlstm.archive import Archive, consecutive
from datlstm.errors import NotEnoughDataError, TransientSourceError
from datlstm.ingest import ingest
from datlstm.product_overlap import OVERLAP_DAYS, common_days, measure_step
from datlstm.settings import ArchiveSettings, Settings
from datlstm.sources import Source
from datlstm.sources.copernicus import CopernicusSource
from datlstm.sources.product import Product
from tests.fake_source import REGION, FakeSource, Record, record, rising

FIRST, LAST = date(2019, 11, 1), date(2020, 12, 31)
NRT_FIRST = date(2019, 12, 1)
STEP_KELVIN = 0.25


class TwoProducts(CopernicusSource):
    """Copernicus Marine's two products without the service: both have all days, near-real-time ones are warmer."""

    def __init__(self, reprocessed: Record, near_real_time: Record) -> None:
        self._both = FakeSource([reprocessed, near_real_time])
        self._second = FakeSource([near_real_time])
        self.reads = self._second.reads

    def products(self) -> list[Product]:
        return self._both.products()

    def read(self, first_day: date, last_day: date) -> xr.Dataset:
        return self._both.read(first_day, last_day)

    def read_near_real_time(self, first_day: date, last_day: date) -> xr.Dataset:
        return self._second.read(first_day, last_day)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.replace(region=REGION, archive=ArchiveSettings(first_day=FIRST, chunk_days=100))


@pytest.fixture
def source() -> TwoProducts:
    """Products of which the second starts a month later and goes on."""
    truth = rising(FIRST, LAST + timedelta(days=30))
    reprocessed = {day: kelvin for day, kelvin in truth.items() if day <= LAST}
    warmer = {day: kelvin + STEP_KELVIN for day, kelvin in truth.items() if day >= NRT_FIRST}
    return TwoProducts(record(reprocessed, "REP", "2020"), record(warmer, "NRT", "1"))


class TestMeasuring:
    def test_the_step_is_near_real_time_minus_reprocessed_at_sea_over_the_days_of_both(
        self, settings: Settings, source: TwoProducts
    ) -> None:
        ingest(settings, FIRST, LAST, source)
        step = measure_step(settings, source)
        ocean = Archive(settings).ocean_mask()
        np.testing.assert_allclose(step.kelvin.where(ocean, drop=True).fillna(STEP_KELVIN), STEP_KELVIN, atol=2e-4)
        np.testing.assert_array_equal(step.kelvin.notnull().all("month"), ocean)
        assert (step.first_day, step.last_day) == (NRT_FIRST, LAST)
        assert int(step.n_days.sum()) == (LAST - NRT_FIRST).days + 1
        assert (step.near_real_time, step.reprocessed) == ("NRT 1", "REP 2020")

    def test_near_real_time_days_are_read_a_year_at_a_time_and_the_archive_stays(
        self, settings: Settings, source: TwoProducts
    ) -> None:
        snapshot = ingest(settings, FIRST, LAST, source).upsert.snapshot_id
        measure_step(settings, source)
        assert source.reads == [(NRT_FIRST, date(2019, 12, 31)), (date(2020, 1, 1), LAST)]
        assert Archive(settings).snapshot_id() == snapshot

    def test_days_that_the_second_product_lacks_after_all_are_left_out(
        self, settings: Settings, source: TwoProducts
    ) -> None:
        ingest(settings, FIRST, LAST, source)
        del source._second.records[0].days[date(2020, 6, 10)]
        step = measure_step(settings, source)
        assert step.n_days.sel(month=6) == 29

    def test_less_than_a_year_is_refused_with_the_remedy(self, settings: Settings, source: TwoProducts) -> None:
        ingest(settings, NRT_FIRST, date(2020, 11, 28), source)
        with pytest.raises(NotEnoughDataError, match="holds 364 days of REP 2020 that NRT 1 has too.*backfill"):
            measure_step(settings, source)
        assert source.reads == []

    @pytest.mark.parametrize(
        "source", [FakeSource([record({FIRST: 280})]), FakeSource([record({FIRST: 280}), record({FIRST: 281})])]
    )
    def test_a_source_of_one_product_has_none(self, settings: Settings, source: Source) -> None:
        with pytest.raises(NotEnoughDataError, match="NRT 1 is the only product"):
            measure_step(settings, source)

    def test_a_failure_of_the_source_is_passed_on(self, settings: Settings, source: TwoProducts) -> None:
        ingest(settings, FIRST, LAST, source)
        source._second.failures = [TransientSourceError("the line is down")]
        with pytest.raises(TransientSourceError, match="line is down"):
            measure_step(settings, source)


class TestCommonDays:
    REP = Product("REP", "2020", date(2000, 1, 1), date(2020, 12, 31))
    NRT = Product("NRT", "1", date(2010, 1, 1), date(2023, 6, 14))

    def common(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, days: list[date], **columns: object
    ) -> list[date]:
        known = pd.DataFrame({"source_product": "REP", "quality": 0, **columns}, index=pd.Index(days, dtype=object))
        monkeypatch.setattr(Archive, "provenance", lambda archive: known)
        return common_days(settings, self.REP, self.NRT)

    def test_only_days_that_the_other_product_announces(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        days = consecutive(date(2009, 12, 1), date(2010, 2, 1))
        assert self.common(settings, monkeypatch, days) == consecutive(date(2010, 1, 1), date(2010, 2, 1))

    def test_only_the_newest_three_years(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.common(settings, monkeypatch, consecutive(date(2014, 1, 1), LAST))
        assert (len(found), found[-1]) == (OVERLAP_DAYS, LAST)

    def test_only_reprocessed_days_without_any_flag(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        days = consecutive(date(2020, 1, 1), date(2020, 1, 4))
        products, flags = ["REP", "NRT", "REP", "REP"], [0, 0, 16, 0]
        found = self.common(settings, monkeypatch, days, source_product=products, quality=flags)
        assert found == [days[0], days[3]]

    def test_none_when_the_products_do_not_meet(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.common(settings, monkeypatch, [date(2005, 1, 1)]) == []
