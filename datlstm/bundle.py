"""A model bundle: everything a forecaster is, in a few files that prove they belong together.

``models/<id>/``: ``weights.safetensors`` (none for a statistical forecaster), ``normaliser.nc`` (climatology, scale,
damping), ``calibration.nc`` (where there is one), ``card.json`` (skill on the validation period), and ``bundle.json``,
written last: without it there is no bundle. Nothing here can carry code.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import numpy as np
import safetensors.torch
import torch
import xarray as xr

from datlstm.compute import in_this_process
from datlstm.ensemble import Ensemble, build_members
from datlstm.errors import BundleError, SettingsError, StoreError
from datlstm.formats import check_format
from datlstm.grid import Grid, ocean_mask_hash
from datlstm.lineage import code_version
from datlstm.normalise import Normaliser
from datlstm.settings import BaselineName, Recipe, Settings
from datlstm.store import Store

FORMAT_VERSION = 2
"""Format 1 has one network, which sees what was observed and nothing else, and no calibration."""
FIRST_RECIPE = Recipe(channels=("observed",), regression=False, members=1)
DAMPED_PERSISTENCE: Final = "damped_persistence"
MANIFEST, WEIGHTS, NORMALISER, CARD = "bundle.json", "weights.safetensors", "normaliser.nc", "card.json"
CALIBRATION = "calibration.nc"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A forecaster with all it was fitted on.

    ``forecaster`` is an architecture's name, or a baseline's, which has no network.
    ``damping`` is ``(lead_time, latitude, longitude)``; ``input_days`` is how many days the networks read;
    ``calibration`` is what `datlstm.calibration.fit_calibration` returned.
    """

    region: str
    forecaster: str
    input_days: int
    normaliser: Normaliser
    damping: xr.DataArray
    archive_snapshot: str
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe = FIRST_RECIPE
    calibration: xr.Dataset | None = None

    @property
    def id(self) -> str:
        """A name that follows from the contents: the same training gives the same id."""
        digest = hashlib.sha256(self.normaliser.id.encode())
        digest.update(np.ascontiguousarray(self.damping.values).tobytes())
        digest.update(json.dumps([self.region, self.forecaster, self.input_days, self.config], sort_keys=True).encode())
        if self.recipe != FIRST_RECIPE:
            digest.update(self.recipe.model_dump_json().encode())
        if self.calibration is not None:
            for name in sorted(map(str, self.calibration.variables)):
                digest.update(name.encode() + np.ascontiguousarray(self.calibration[name].values).tobytes())
        for name in sorted(self.weights):
            digest.update(name.encode() + self.weights[name].numpy().tobytes())
        return f"{self.region}-{self.forecaster.replace('_', '-')}-{digest.hexdigest()[:12]}"

    @property
    def lead_days(self) -> int:
        """The longest lead it can forecast, days."""
        return self.damping.sizes["lead_time"]

    def damped(self) -> Self:
        """Return the damped persistence of this bundle's own climatology: the ladder's next rung."""
        return self.baseline(DAMPED_PERSISTENCE)

    def baseline(self, name: BaselineName) -> Self:
        """Return a baseline of this bundle's own climatology and damping."""
        return replace(
            self,
            forecaster=name,
            config={},
            weights={},
            card={},
            recipe=FIRST_RECIPE,
            calibration=None,
        )

    def members(self) -> Ensemble:
        """Return the ensemble with its weights, in evaluation mode. Raises `BundleError` when they don't fit it."""
        try:
            members = build_members(self.forecaster, self.config, self.recipe, self.input_days, self.lead_days)
            members.load_state_dict(_of_members(self.weights), strict=True)
        except (RuntimeError, SettingsError) as error:
            raise BundleError(f"the weights of {self.id} don't fit a {self.forecaster} of its configuration") from error
        members.eval()
        return members

    def check_matches(self, settings: Settings) -> None:
        """Raise `BundleError` unless this bundle forecasts the region of the settings, on its grid, far enough."""
        grid = Grid.from_region(settings.region)
        found = Grid(self.normaliser.scale["latitude"].values, self.normaliser.scale["longitude"].values)
        if self.region != settings.region.name or found != grid:
            raise BundleError(
                f"bundle {self.id} is for region {self.region!r} on grid {found.hash}, not {settings.region.name!r} on "
                f"{grid.hash}: retrain it for this region"
            )
        if self.lead_days < settings.model.lead_days:
            raise BundleError(
                f"bundle {self.id} forecasts {self.lead_days} days, the settings ask for {settings.model.lead_days}"
            )

    def save(self, store: Store) -> str:
        """Write the bundle unless it is there already, and return its id."""
        folder = f"models/{self.id}"
        if store.read(f"{folder}/{MANIFEST}") is None:
            files = self._files()
            for name, content in files.items():
                store.write(f"{folder}/{name}", content)
            store.write_json(f"{folder}/{MANIFEST}", self._manifest(files))
        return self.id

    @classmethod
    def load(cls, store: Store, bundle_id: str) -> Self:
        """Read a bundle and verify every byte of it.

        Raises `BundleError` when it is absent, of a newer format, or any file is not the one it was saved with.
        """
        try:
            manifest = store.read_json(f"models/{bundle_id}/{MANIFEST}")
            if manifest is None:
                raise BundleError(
                    f"no bundle {bundle_id!r} in {store.url_of('models')}: run `datlstm models` to see them"
                )
            check_format(manifest["format_version"], FORMAT_VERSION, f"bundle {bundle_id}", BundleError, older=None)
            files = {name: _verified(store, bundle_id, name, digest) for name, digest in manifest["sha256"].items()}
            bundle = cls._from_files(manifest, files)
            hashes = manifest["hashes"]
        except (StoreError, KeyError, TypeError) as error:
            raise BundleError(
                f"{MANIFEST} of bundle {bundle_id} is damaged ({error}): restore it from a backup, or retrain"
            ) from error
        if bundle.id != bundle_id or bundle._hashes() != hashes:
            raise BundleError(f"bundle {bundle_id} holds the contents of {bundle.id}: it was tampered with; retrain")
        return bundle

    @classmethod
    def _from_files(cls, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Self:
        fitted = _opened(files[NORMALISER])
        return cls(
            manifest["region"],
            manifest["forecaster"],
            manifest["input_days"],
            Normaliser.from_dataset(fitted.drop_vars("damping")),
            fitted["damping"],
            manifest["archive_snapshot"],
            manifest["config"],
            safetensors.torch.load(files[WEIGHTS]) if WEIGHTS in files else {},
            manifest["training"],
            json.loads(files[CARD]),
            Recipe.model_validate(manifest["recipe"]) if "recipe" in manifest else FIRST_RECIPE,
            _opened(files[CALIBRATION]) if CALIBRATION in files else None,
        )

    def _files(self) -> dict[str, bytes]:
        fitted = self.normaliser.to_dataset().assign(damping=self.damping.drop_attrs())
        files = {
            NORMALISER: _netcdf(fitted),
            CARD: json.dumps(self.card, indent=2, sort_keys=True).encode(),
        }
        if self.calibration is not None:
            files[CALIBRATION] = _netcdf(self.calibration)
        if self.weights:
            files[WEIGHTS] = safetensors.torch.save(dict(self.weights))
        return files

    def _manifest(self, files: Mapping[str, bytes]) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "region": self.region,
            "forecaster": self.forecaster,
            "input_days": self.input_days,
            "config": dict(self.config),
            "recipe": self.recipe.model_dump(mode="json"),
            "normaliser_id": self.normaliser.id,
            "hashes": self._hashes(),
            "archive_snapshot": self.archive_snapshot,
            "code_version": code_version(),
            "torch_version": torch.__version__,
            "training": dict(self.training),
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }

    def _hashes(self) -> dict[str, str]:
        scale = self.normaliser.scale
        return {
            "grid": Grid(scale["latitude"].values, scale["longitude"].values).hash,
            "ocean_mask": ocean_mask_hash(self.normaliser.ocean_mask),
        }


def _of_members(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights by their names in an ensemble; format 1 names those of its network alone."""
    own = "0.network."
    is_first = not any(name.startswith(own) for name in weights)
    return {own + name if is_first else name: value for name, value in weights.items()}


def _opened(content: bytes) -> xr.Dataset:
    return xr.load_dataset(io.BytesIO(content), engine="h5netcdf")


def _netcdf(dataset: xr.Dataset) -> bytes:
    with in_this_process():
        return bytes(dataset.to_netcdf(engine="h5netcdf"))


def _verified(store: Store, bundle_id: str, name: str, digest: str) -> bytes:
    content = store.read(f"models/{bundle_id}/{name}")
    if content is None or hashlib.sha256(content).hexdigest() != digest:
        state = "is missing" if content is None else "is not the file it was saved with"
        raise BundleError(f"{name} of bundle {bundle_id} {state}: restore it from a backup, or retrain")
    return content
