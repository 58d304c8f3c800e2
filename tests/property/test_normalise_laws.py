"""Laws of the anomaly space and of the damping, over drawn fields, gaps and chunkings."""

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from datlstm.baselines import damped_persistence, fit_damping
from datlstm.normalise import Normaliser
from datlstm.settings import NormaliserSettings

DIMS = ("time", "latitude", "longitude")
PLAIN = NormaliserSettings(harmonics=2)
TRENDED = NormaliserSettings(harmonics=2, minimum_trend_years=1.0)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def on_grid(values: np.ndarray | da.Array, first_day: str = "1999-03-05") -> xr.DataArray:
    days, rows, columns = values.shape
    time = pd.date_range(first_day, periods=days)
    coords = {"time": time, "latitude": 37 + 0.25 * np.arange(rows), "longitude": 119 + 0.25 * np.arange(columns)}
    return xr.DataArray(values, dims=DIMS, coords=coords, name="sst")


def red_noise(seed: int, days: int, memory: float = 0.9, missing: float = 0.0) -> xr.DataArray:
    """AR(1) anomalies of 0.8 K about 285 K on 2 x 3 cells, a fraction of values missing."""
    generator = np.random.default_rng(seed)
    shocks = generator.normal(0, 0.8 * np.sqrt(1 - memory**2), (days, 2, 3))
    field = lfilter([1], [1, -memory], shocks, axis=0)
    field[generator.random(field.shape) < missing] = np.nan
    return on_grid((285 + field).astype(np.float32))


@few
@given(seed=seeds, missing=st.floats(0, 0.4), chunk=st.none() | st.integers(50, 800))
def test_normalising_round_trips(seed: int, missing: float, chunk: int | None) -> None:
    sst = red_noise(seed, 800, missing=missing)
    sst = sst if chunk is None else sst.chunk(time=chunk)
    normaliser = Normaliser.fit(sst, settings=TRENDED)
    back = normaliser.to_kelvin(normaliser.to_anomaly(sst))
    np.testing.assert_allclose(back, sst, rtol=0, atol=1e-4)


@few
@given(seed=seeds, missing=st.floats(0, 0.5))
def test_harmonics_and_trend_are_recovered_exactly_and_hold_for_the_future(seed: int, missing: float) -> None:
    generator = np.random.default_rng(seed)
    days = np.arange(6000)[:, None, None]
    signal = 285 + generator.uniform(-5, 5, (2, 3)) + generator.uniform(-1, 1, (2, 3)) * days / 3652.425
    for harmonic in (1, 2):
        phase = 2 * np.pi * harmonic * days / 365.2425
        signal = signal + generator.uniform(-6, 6, (2, 3)) * np.cos(phase + generator.uniform(0, 6, (2, 3)))
    truth = on_grid(signal)
    gappy = truth[:4500].where(xr.DataArray(generator.random((4500, 2, 3)) >= missing, dims=DIMS))
    normaliser = Normaliser.fit(gappy, settings=NormaliserSettings(harmonics=2))
    assert normaliser.has_trend
    assert abs(normaliser.kelvin_anomaly(truth)).max() < 1e-8
    assert (normaliser.scale == PLAIN.minimum_scale_kelvin).all()


@few
@given(seed=seeds, row=st.integers(0, 1), column=st.integers(0, 2), missing=st.floats(0, 1))
def test_missing_days_of_a_cell_leave_the_other_cells_alone(seed: int, row: int, column: int, missing: float) -> None:
    sst = red_noise(seed, 800)
    gappy = sst.copy(deep=True)
    gappy[np.random.default_rng(seed).random(800) < missing, row, column] = np.nan
    others = np.ones((2, 3), bool)
    others[row, column] = False
    whole, holed = (Normaliser.fit(field, settings=PLAIN) for field in (sst, gappy))
    np.testing.assert_array_equal(whole.coefficients.values[:, others], holed.coefficients.values[:, others])
    np.testing.assert_array_equal(whole.scale.values[others], holed.scale.values[others])
    dampings = [fit_damping(sst, whole, 3).values, fit_damping(gappy, holed, 3).values]
    np.testing.assert_array_equal(dampings[0][:, others], dampings[1][:, others])


@few
@given(
    seed=seeds,
    time=st.integers(1, 900),
    latitude=st.integers(1, 2),
    longitude=st.integers(1, 3),
    lead=st.integers(1, 9),
)
def test_chunking_changes_not_a_bit(seed: int, time: int, latitude: int, longitude: int, lead: int) -> None:
    sst = red_noise(seed, 725, missing=0.1)
    chunked = sst.chunk(time=max(time, 20), latitude=latitude, longitude=longitude)
    whole, pieces = (Normaliser.fit(field, settings=TRENDED) for field in (sst, chunked))
    assert whole.id == pieces.id
    xr.testing.assert_identical(fit_damping(sst, whole, lead), fit_damping(chunked, pieces, lead))


def test_no_day_after_training_is_ever_read() -> None:
    def unreadable(block_id: tuple[int, ...]) -> np.ndarray:
        raise AssertionError(f"block {block_id} of the test period was read")

    sst = red_noise(3, 800)
    later = da.map_blocks(unreadable, chunks=((100,) * 4, (2,), (3,)), dtype=np.float32, meta=np.empty((0, 0, 0), "f4"))
    record = on_grid(da.concatenate([da.from_array(sst.values, chunks=100), later]))
    normaliser = Normaliser.fit(record[:800], settings=PLAIN)
    assert normaliser.id == Normaliser.fit(sst, settings=PLAIN).id
    xr.testing.assert_identical(fit_damping(record, normaliser, 5), fit_damping(sst, normaliser, 5))


@few
@given(data=st.data())
def test_id_changes_with_any_coefficient_by_one_bit(data: st.DataObject) -> None:
    normaliser = Normaliser.fit(red_noise(4, 400), settings=TRENDED)
    dataset = normaliser.to_dataset().copy(deep=True)
    name = data.draw(st.sampled_from(["intercept", "trend", "cosine", "sine", "scale"]))
    values = dataset[name].values
    place = tuple(data.draw(st.integers(0, size - 1)) for size in values.shape)
    values[place] = np.nextafter(values[place], np.inf)
    assert Normaliser.from_dataset(dataset).id != normaliser.id
    assert Normaliser.from_dataset(normaliser.to_dataset()).id == normaliser.id


@pytest.mark.parametrize(("attribute", "value"), [("first_day", "1999-03-06"), ("last_day", "2001-01-01")])
def test_id_changes_with_the_training_period(attribute: str, value: str) -> None:
    normaliser = Normaliser.fit(red_noise(4, 400), settings=TRENDED)
    other = Normaliser.from_dataset(normaliser.to_dataset().assign_attrs({attribute: value}))
    assert other.id != normaliser.id


def test_id_changes_with_the_grid() -> None:
    sst = red_noise(4, 400)
    moved = sst.assign_coords(longitude=sst["longitude"] + 0.25)
    assert Normaliser.fit(sst, settings=PLAIN).id != Normaliser.fit(moved, settings=PLAIN).id


@few
@given(seed=seeds, memory=st.floats(0.3, 0.95))
def test_damping_of_an_autoregressive_sea_is_a_power_of_its_memory(seed: int, memory: float) -> None:
    sst = red_noise(seed, 8000, memory=memory)
    damping = fit_damping(sst, Normaliser.fit(sst, settings=PLAIN), 5).mean(("latitude", "longitude"))
    np.testing.assert_allclose(damping, memory ** damping["lead_time"], atol=0.06)


@few
@given(seed=seeds, memory=st.floats(-0.9, 0.99), missing=st.floats(0, 0.3))
def test_damped_persistence_is_never_worse_than_climatology_in_training(
    seed: int, memory: float, missing: float
) -> None:
    sst = red_noise(seed, 500, memory=memory, missing=missing)
    normaliser = Normaliser.fit(sst, settings=PLAIN)
    initial = sst.rename(time="init_time")
    forecast = damped_persistence(initial, normaliser, fit_damping(sst, normaliser, 4), 4)
    valid_time = forecast["valid_time"]
    observed = sst.astype(np.float64).reindex(time=np.unique(valid_time)).sel(time=valid_time)
    paired = initial.notnull() & observed.notnull()
    damped, plain = (
        ((field - observed) ** 2).where(paired).mean("init_time").compute()
        for field in (forecast, normaliser.climatology(valid_time))
    )
    assert (damped <= plain * (1 + 1e-5)).all()
