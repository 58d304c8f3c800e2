"""Scores by area and surface are those of each sample by itself; stability is worked out by hand in numpy."""

import numpy as np
import pandas as pd
import xarray as xr

from datlstm.day_scores import DIMS, score_days
from datlstm.verification import METRICS, score

FIELD = ("valid_time", "lead_time", "latitude", "longitude")
COORDS = {
    "valid_time": pd.date_range("2024-01-01", periods=2),
    "lead_time": [1, 2, 3, 4],
    "latitude": [10.0, 40.0, 70.0],
    "longitude": [119.0, 149.0],
}
WEIGHTS = np.cos(np.deg2rad([10.0, 40.0, 70.0]))[:, None] * np.ones(2)


def field(seed: int, mean: float = 290.0) -> xr.DataArray:
    values = mean + np.random.default_rng(seed).normal(0, 1, (2, 4, 3, 2))
    return xr.DataArray(values, dims=FIELD, coords=COORDS)


def truth() -> xr.DataArray:
    return field(1).isel(lead_time=0, drop=True)


def samples() -> xr.DataArray:
    """The region, its two columns and one cell; the surface ice_free lacks the last row on the second day."""
    areas = np.ones((4, 3, 2), bool)
    areas[1, :, 1] = areas[2, :, 0] = areas[3] = False
    areas[3, 2, 1] = True
    surfaces = np.ones((2, 2, 3, 2), bool)
    surfaces[1, 1, 2] = False
    coords = {name: COORDS[name] for name in ("latitude", "longitude")}
    names = {"area": ["region", "west", "east", "cell"]}
    of_area = xr.DataArray(areas, dims=("area", *FIELD[2:]), coords={**coords, **names})
    of_surface = xr.DataArray(
        surfaces,
        dims=("valid_time", "surface", *FIELD[2:]),
        coords={**coords, "valid_time": COORDS["valid_time"], "surface": ["all", "ice_free"]},
    )
    return of_area & of_surface


def scored_alone(forecasts: dict[str, xr.DataArray], observed: xr.DataArray, area: str, surface: str) -> xr.Dataset:
    own = samples().sel(area=area, surface=surface, drop=True)
    by_lead = observed.where(own).expand_dims(lead_time=COORDS["lead_time"]).transpose(*FIELD)
    renamed = {name: made.rename(valid_time="init_time") for name, made in forecasts.items()}
    scored = score(renamed, by_lead.rename(valid_time="init_time"), renamed["climatology"])
    return scored.rename(init_time="valid_time").transpose("valid_time", "forecaster", "lead_time")


def test_every_area_and_surface_has_the_scores_of_its_own_cells() -> None:
    forecasts, observed = {"a": field(2, 290.3), "b": field(3), "climatology": field(4)}, truth()
    observed[0, 1, 1] = np.nan
    forecasts["a"][1, 2, 0, 0] = np.nan
    forecasts["b"][1, 3] = np.nan
    scored = score_days(forecasts, observed, forecasts["climatology"], samples())
    for area in ("region", "west", "east", "cell"):
        for surface in ("all", "ice_free"):
            own, alone = scored.sel(area=area, surface=surface), scored_alone(forecasts, observed, area, surface)
            for name in METRICS:
                np.testing.assert_allclose(own[name], alone[name], rtol=1e-5, atol=1e-6, err_msg=f"{name} of {area}")
            np.testing.assert_array_equal(own["n"], alone["n"])
    assert (scored["n"].sel(area="cell", surface="ice_free").isel(valid_time=1) == 0).all()
    assert scored["rmse"].sel(area="cell", surface="ice_free").isel(valid_time=1).isnull().all()


def test_scores_have_the_declared_dimensions_and_types() -> None:
    made = {"a": field(2), "b": field(3)}
    scored = score_days(made, truth(), field(4), samples())
    assert {name: scored[name].dims for name in scored} == {
        **dict.fromkeys((*METRICS, "n"), DIMS),
        "flip_flop": DIMS[:-1],
    }
    assert {str(scored[name].dtype) for name in (*METRICS, "flip_flop")} == {"float32"}
    assert scored["n"].dtype == "int32"
    assert scored["forecaster"].values.tolist() == ["a", "b"]
    assert scored["lead_time"].values.tolist() == [1, 2, 3, 4]


def test_the_order_of_dimensions_does_not_matter() -> None:
    made = {"a": field(2), "b": field(3)}
    turned = {name: values.transpose(*reversed(FIELD)) for name, values in made.items()}
    scored = score_days(made, truth(), field(4), samples())
    xr.testing.assert_equal(
        score_days(turned, truth().transpose("longitude", ...), field(4), samples().transpose("surface", ...)), scored
    )


def flip_flop(by_lead: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Return the mean index of ``(lead, latitude, longitude)`` over a sample of cells, by its formula."""
    path = abs(np.diff(by_lead, axis=0)).sum(axis=0)
    index = (path - (by_lead.max(axis=0) - by_lead.min(axis=0))) / (len(by_lead) - 2)
    return np.asarray((index * WEIGHTS)[sample].sum() / WEIGHTS[sample].sum())


def test_the_flip_flop_index_is_the_mean_over_the_cells_of_a_sample() -> None:
    made = {"a": field(2), "b": field(3)}
    scored = score_days(made, truth(), field(4), samples())["flip_flop"]
    for name, values in made.items():
        for area in ("region", "east"):
            for day, surface in ((0, "all"), (1, "ice_free")):
                sample = samples().isel(valid_time=day).sel(area=area, surface=surface).values
                np.testing.assert_allclose(
                    scored.isel(valid_time=day).sel(forecaster=name, area=area, surface=surface),
                    flip_flop(values[day].values, sample),
                    rtol=1e-5,
                )


def test_forecasts_that_approach_from_one_side_do_not_flip_flop_and_those_that_swing_do() -> None:
    steady = xr.ones_like(field(2)) * xr.DataArray([290.0, 291.0, 293.0, 296.0], dims="lead_time")
    swinging = xr.ones_like(field(2)) * xr.DataArray([290.0, 291.0, 290.0, 291.0], dims="lead_time")
    index = score_days({"a": steady, "b": swinging}, truth(), field(4), samples())["flip_flop"]
    np.testing.assert_allclose(index.sel(forecaster="a", area="region", surface="all"), 0.0, atol=1e-6)
    np.testing.assert_allclose(index.sel(forecaster="b", area="region", surface="all"), 1.0, rtol=1e-6)


def test_a_lead_without_a_forecast_is_passed_over_and_two_forecasts_are_too_few() -> None:
    made = field(2)
    made[0, 1] = np.nan
    made[1, 1:3] = np.nan
    index = score_days({"a": made}, truth(), field(4), samples())["flip_flop"].sel(area="region", surface="all")
    expected = flip_flop(made[0].values[[0, 2, 3]], np.ones((3, 2), bool))
    np.testing.assert_allclose(index.isel(valid_time=0), expected, rtol=1e-5)
    assert index.isel(valid_time=1).isnull().all()


def test_the_flip_flop_index_counts_the_cells_that_all_forecasters_have_at_every_lead() -> None:
    whole, gappy = field(2), field(3)
    whole[0, 0, 2, 1] = 999.0
    gappy[0, 3, 2, 1] = np.nan
    index = score_days({"whole": whole, "gappy": gappy}, truth(), field(4), samples())["flip_flop"]
    sample = np.ones((3, 2), bool)
    sample[2, 1] = False
    np.testing.assert_allclose(
        index.isel(valid_time=0).sel(forecaster="whole", area="region", surface="all"),
        flip_flop(whole[0].values, sample),
        rtol=1e-5,
    )
    assert index.isel(valid_time=0).sel(area="cell").isnull().all()
