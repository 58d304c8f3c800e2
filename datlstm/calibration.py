"""From an ensemble's raw estimates to a calibrated forecast: how much to believe it, and how wrong it will be.

By season of the init and lead, fitted on the validation period: the forecast anomaly is a weighted mean of that of the
ensemble, of damped persistence and of the climatology, which is 0; its error variance a weighted sum of each cell's
mean square error and of the members' variance (nonhomogeneous regression: Gneiting et al. 2005,
doi:10.1175/MWR2904.1).
"""

import numpy as np
import scipy.optimize
import xarray as xr

SEASONS = ("DJF", "MAM", "JJA", "SON")
MINIMUM_INITS = 15
"""Inits of a season with fewer keep its raw forecast."""

RIDGE = 1e-3
"""How strongly, as a share of the anomaly's power, weights are held to those of the raw ensemble."""

CELLS = ("latitude", "longitude")


def season_of(init_time: xr.DataArray) -> xr.DataArray:
    """Return the season of each init, an index of `SEASONS`."""
    return init_time.dt.month % 12 // 3


def calibrated(
    calibration: xr.Dataset | None, mean: xr.DataArray, variance: xr.DataArray, damped: xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the forecast anomaly and its standard error, normalised as what is given.

    ``mean`` and ``variance`` of the members and ``damped`` persistence are ``(init_time, lead_time, latitude,
    longitude)``. Without a calibration the forecast is the mean, and its error unknown: NaN.
    """
    if calibration is None:
        return mean, xr.full_like(mean, np.nan)
    own = calibration.isel(season=season_of(mean["init_time"])).drop_vars("season")
    anomaly = own["model_weight"] * mean + own["damped_weight"] * damped
    expected = own["error_factor"] * calibration["mean_square_error"] + own["variance_factor"] * variance
    return anomaly.astype("float32").transpose(*mean.dims), (expected**0.5).astype("float32").transpose(*mean.dims)


def fit_calibration(
    mean: xr.DataArray,
    variance: xr.DataArray,
    damped: xr.DataArray,
    truth: xr.DataArray,
    weights: xr.DataArray,
    evidence: float = 1.0,
) -> xr.Dataset:
    """Fit what `calibrated` applies, all fields as there; ``truth`` is NaN where it is missing.

    ``weights`` ``(latitude, longitude)`` are the cells' parts in the mean square error. ``evidence``, 0 … 1, is how far
    the blend goes from the raw mean to what fits these days best.
    """
    season = season_of(mean["init_time"]).values
    counted = truth.notnull() * weights
    blend = np.tile([1.0, 0.0], (len(SEASONS), mean.sizes["lead_time"], 1))
    enough = [index for index in range(len(SEASONS)) if (season == index).sum() >= MINIMUM_INITS]
    for index in enough:
        chosen = np.flatnonzero(season == index)
        fields = [field.isel(init_time=chosen) for field in (mean, damped, truth.fillna(0.0), counted)]
        blend[index] += evidence * (_blend(*fields) - blend[index])
    leads, axes = mean["lead_time"], ("season", "lead_time")
    fitted = xr.Dataset(
        {"model_weight": (axes, blend[..., 0]), "damped_weight": (axes, blend[..., 1])},
        {"season": list(SEASONS), "lead_time": leads},
    )
    own = fitted.isel(season=xr.DataArray(season, dims="init_time"))
    square = (own["model_weight"] * mean + own["damped_weight"] * damped - truth) ** 2
    cell_error = square.mean("init_time").fillna(0.0).transpose("lead_time", *CELLS)
    factors = np.tile([1.0, 0.0], (len(SEASONS), len(leads), 1))
    for index in enough:
        chosen = np.flatnonzero(season == index)
        fields = [field.isel(init_time=chosen) for field in (variance, square.fillna(0.0), counted)]
        factors[index] = _error_factors(cell_error, *fields)
    return fitted.assign(
        error_factor=(axes, factors[..., 0]), variance_factor=(axes, factors[..., 1]), mean_square_error=cell_error
    )


def _blend(mean: xr.DataArray, damped: xr.DataArray, truth: xr.DataArray, weights: xr.DataArray) -> np.ndarray:
    """Return the weights ``(lead_time, 2)`` of mean and damped persistence: none negative, together 1 at most."""
    names = {"m": mean, "d": damped, "y": truth}
    power = {
        a + b: (weights * names[a] * names[b]).sum(("init_time", *CELLS)).values
        for a, b in ("mm", "md", "dd", "my", "dy")
    }
    return np.stack(
        [
            _bounded(np.array([[mm, md], [md, dd]]), np.array([my, dy]))
            for mm, md, dd, my, dy in zip(*power.values(), strict=True)
        ]
    )


def _bounded(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the w that makes w' M w / 2 - r' w least within the bounds, held to the raw ensemble's (1, 0)."""
    held = RIDGE * matrix[0, 0] * np.eye(2)
    matrix, right = matrix + held, right + held @ [1.0, 0.0]
    if matrix[0, 0] <= 0:
        return np.array([1.0, 0.0])
    unit = matrix[0, 0]
    found = scipy.optimize.minimize(
        lambda w: (w @ matrix @ w / 2 - right @ w) / unit,
        [0.9, 0.05],
        jac=lambda w: (matrix @ w - right) / unit,
        bounds=[(0, 1), (0, 1)],
        constraints={"type": "ineq", "fun": lambda w: 1 - w.sum(), "jac": lambda w: -np.ones(2)},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    return np.asarray(found.x).clip(0, 1)


def _error_factors(
    cell_error: xr.DataArray, variance: xr.DataArray, square: xr.DataArray, weights: xr.DataArray
) -> np.ndarray:
    """Return the factors ``(lead_time, 2)``, none negative, of the cells' mean square error and of the variance."""
    factors = []
    for lead in range(cell_error.sizes["lead_time"]):
        one = {"lead_time": lead}
        root = np.sqrt(weights.isel(one).values)
        columns = [np.broadcast_to(field.isel(one).values, root.shape) for field in (cell_error, variance)]
        design = np.stack([(root * column).ravel() for column in columns], axis=1)
        right = design.T @ (root * square.isel(one).values).ravel()
        gram = design.T @ design
        scale = np.sqrt(np.diag(gram))
        scale[scale == 0] = 1.0
        # The same least squares on two rows instead of on every cell of every day.
        triangle = np.linalg.cholesky(gram / np.outer(scale, scale) + 1e-9 * np.eye(2))
        found, _ = scipy.optimize.nnls(triangle.T, np.linalg.solve(triangle, right / scale))
        factors.append(found / scale)
    return np.asarray(factors)
