"""Checkpoints of a training, in the store: the machine that trains may lose its disk with everything else.

``training/checkpoints/<run id>/``: the newest state of the training loop, the best weights (safetensors), and
``manifest.json``, which names both with their hashes and is replaced last, by compare-and-set: readers see whole
checkpoints, and of two trainings that write the same ones the second to come ends the first. Nothing here can carry
code: states hold tensors and plain types, and are loaded as such.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import safetensors.torch
from torch import Tensor

from datlstm.bundle import DAMPED_PERSISTENCE, Bundle
from datlstm.clock import now_seconds
from datlstm.errors import CheckpointError, ConflictError
from datlstm.lineage import code_version, record_settings
from datlstm.settings import FinetuningSettings, Frozen, ModelSettings, Region, Settings, TrainingSettings
from datlstm.store import Store, as_json
from datlstm.windows import open_training_cube

FOLDER = "training/checkpoints"
MANIFEST = "manifest.json"
STATE_FILE = "state.ckpt"
FORMAT_VERSION = 1
HASH_LENGTH = 12
# Settings that change nothing of what is trained.
NOT_IN_ID = {"grace_seconds"}
Weights = dict[str, Tensor]

log = logging.getLogger(__name__)


class StoredFile(Frozen):
    """A file of a checkpoint: its name in the folder, which its contents give, its size in bytes and its hash."""

    name: str
    size: int
    sha256: str


class Manifest(Frozen):
    """What a training is of, and how far it has come; see `Progress`. Losses that are not finite are None."""

    format_version: Literal[1] = 1
    region: Region
    model: ModelSettings
    training: TrainingSettings
    finetuning: FinetuningSettings | None = None
    settings_hash: str
    cube_path: str
    baseline_id: str
    archive_snapshot: str
    code_version: str
    started_at: int
    updated_at: int = 0
    epochs: int = 0
    batches: int = 0
    steps: int = 0
    is_trained: bool = False
    untrained_loss: float | None = None
    validation_losses: tuple[float | None, ...] = ()
    state: StoredFile | None = None
    best: StoredFile | None = None

    @property
    def run_id(self) -> str:
        """A name that follows from what the training depends on: the same training finds its own checkpoints."""
        parts = [
            self.region.model_dump(mode="json"),
            self.model.model_dump(mode="json"),
            self.training.model_dump(mode="json", exclude=NOT_IN_ID),
            self.cube_path,
            self.baseline_id,
            *([self.finetuning.model_dump(mode="json")] if self.finetuning else []),
        ]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:HASH_LENGTH]
        return f"{self.region.name}-{self.model.name}-{digest}"


@dataclass
class Progress:
    """How far a training has come: whole epochs, and batches of the one after them; ``steps`` count all batches.

    ``best_weights`` are the network's of the best epoch, whose loss is the least of ``validation_losses``.
    ``is_trained`` tells that no epoch is to follow.
    """

    epochs: int = 0
    batches: int = 0
    steps: int = 0
    is_trained: bool = False
    untrained_loss: float = math.nan
    validation_losses: list[float] = field(default_factory=list)
    best_weights: Weights | None = None

    @property
    def best_loss(self) -> float:
        """The least finite validation loss so far, infinite before there is one."""
        return min((loss for loss in self.validation_losses if math.isfinite(loss)), default=math.inf)


@dataclass
class Checkpoints:
    """The checkpoints of one training. Made by `of`, or by `newest`."""

    store: Store
    manifest: Manifest
    version: str | None = None

    @classmethod
    def of(cls, settings: Settings, cube_path: str, baseline_id: str) -> Self:
        """Return the checkpoints of a training by what it is of; those of an interrupted one are found again.

        Checkpoints that can't be used are told of, and the training starts again over them. Raises `BundleError` when
        there is no such baseline.
        """
        store = Store(settings.store)
        start = Bundle.load(store, baseline_id)
        is_training = start.forecaster == DAMPED_PERSISTENCE
        cube = None if is_training else open_training_cube(settings, cube_path)
        fresh = Manifest(
            region=settings.region,
            model=settings.model,
            training=settings.training,
            finetuning=None if is_training else settings.finetuning,
            settings_hash=record_settings(settings),
            cube_path=cube_path,
            baseline_id=baseline_id,
            archive_snapshot=start.archive_snapshot if cube is None else str(cube.attrs["archive_snapshot"]),
            code_version=code_version(),
            started_at=now_seconds(),
        )
        content, version = store.read_versioned(_manifest_path(fresh.run_id))
        try:
            found = cls(store, fresh if content is None else _parsed(store, fresh.run_id, content), version)
            found._verify()
        except CheckpointError as error:
            log.warning("training starts again from its beginning: %s", error)
            return cls(store, fresh, version)
        return found

    @classmethod
    def newest(cls, settings: Settings, architecture: str | None = None) -> Self:
        """Return the checkpoints that were written last for the region of the settings, maybe of one architecture.

        Raises `CheckpointError` when there are none, or when they can't be used.
        """
        store = Store(settings.store)
        found = [
            manifest
            for manifest in manifests(store)
            if manifest.region == settings.region and architecture in (None, manifest.model.name)
        ]
        if not found:
            what = f"{architecture} " if architecture else ""
            raise CheckpointError(
                f"no interrupted {what}training of region {settings.region.name!r} in {store.url_of(FOLDER)}: "
                "run `datlstm retrain`"
            )
        run_id = max(found, key=lambda manifest: (manifest.updated_at, manifest.run_id)).run_id
        content, version = store.read_versioned(_manifest_path(run_id))
        newest = cls(store, _parsed(store, run_id, content or b""), version)
        newest._verify()
        return newest

    @property
    def run_id(self) -> str:
        """The training's id."""
        return self.manifest.run_id

    def settings(self, settings: Settings) -> Settings:
        """Return settings with the sections that this training was set up with."""
        told = self.manifest
        return settings.replace(
            model=told.model, training=told.training, finetuning=told.finetuning or settings.finetuning
        )

    def progress(self) -> Progress:
        """Return how far the training has come. Raises `CheckpointError`."""
        told = self.manifest
        if told.code_version != code_version():
            log.warning(
                "the checkpoint of %s was written by %s, this is %s", self.run_id, told.code_version, code_version()
            )
        return Progress(
            told.epochs,
            told.batches,
            told.steps,
            told.is_trained,
            _number(told.untrained_loss),
            [_number(loss) for loss in told.validation_losses],
            safetensors.torch.load(self._read(told.best)) if told.best else None,
        )

    def state_file(self, folder: Path) -> Path | None:
        """Copy the training loop's newest state to a folder; None before there is one. Raises `CheckpointError`."""
        if self.manifest.state is None:
            return None
        path = folder / STATE_FILE
        path.write_bytes(self._read(self.manifest.state))
        return path

    def save(self, progress: Progress, state: Path | None) -> None:
        """Write a checkpoint, visible in one step, and delete what it replaces; ``state`` is the training loop's file.

        Raises `CheckpointError` when another training of the same has written meanwhile.
        """
        before = self.manifest
        best = safetensors.torch.save(progress.best_weights) if progress.best_weights else None
        self.manifest = before.model_copy(
            update={
                "updated_at": now_seconds(),
                "code_version": code_version(),
                "epochs": progress.epochs,
                "batches": progress.batches,
                "steps": progress.steps,
                "is_trained": progress.is_trained,
                "untrained_loss": _finite(progress.untrained_loss),
                "validation_losses": tuple(_finite(loss) for loss in progress.validation_losses),
                "state": None if state is None else self._write(f"{progress.steps:08}", ".ckpt", state.read_bytes()),
                "best": None if best is None else self._write("best", ".safetensors", best),
            }
        )
        document = as_json(self.manifest.model_dump(mode="json"))
        try:
            self.version = self.store.write_if(_manifest_path(self.run_id), document, self.version)
        except ConflictError as error:
            raise CheckpointError(
                f"another training has written {self.store.url_of(self._path(MANIFEST))} meanwhile: this one ends, the "
                "other goes on"
            ) from error
        kept = {file.name for file in (self.manifest.state, self.manifest.best) if file}
        for file in (before.state, before.best):
            if file and file.name not in kept:
                self.store.delete(self._path(file.name))

    def clear(self) -> None:
        """Delete them all, the manifest first: there is a bundle now."""
        paths = self.store.list(f"{FOLDER}/{self.run_id}")
        for path in sorted(paths, key=lambda path: not path.endswith(MANIFEST)):
            self.store.delete(path)

    def _path(self, name: str) -> str:
        return f"{FOLDER}/{self.run_id}/{name}"

    def _write(self, name: str, ending: str, content: bytes) -> StoredFile:
        digest = hashlib.sha256(content).hexdigest()
        file = StoredFile(name=f"{name}-{digest[:HASH_LENGTH]}{ending}", size=len(content), sha256=digest)
        if file not in (self.manifest.state, self.manifest.best):
            self.store.write(self._path(file.name), content)
        return file

    def _read(self, file: StoredFile) -> bytes:
        content = self.store.read(self._path(file.name))
        if content is None or hashlib.sha256(content).hexdigest() != file.sha256:
            state = "is missing" if content is None else "is not what was written"
            raise CheckpointError(f"{self.store.url_of(self._path(file.name))} {state}: run `datlstm retrain`")
        return content

    def _verify(self) -> None:
        for file in (self.manifest.state, self.manifest.best):
            if file:
                self._read(file)


def manifests(store: Store) -> Iterator[Manifest]:
    """Yield what all trainings with checkpoints are of; one that can't be read is told of and passed over."""
    for path in store.list(FOLDER):
        if path.endswith(f"/{MANIFEST}"):
            try:
                yield _parsed(store, path.split("/")[-2], store.read(path) or b"")
            except CheckpointError as error:
                log.warning("%s", error)


def _parsed(store: Store, run_id: str, content: bytes) -> Manifest:
    place = store.url_of(_manifest_path(run_id))
    try:
        document = json.loads(content)
        if document["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{place} has format {document['format_version']}, this code reads {FORMAT_VERSION}: go on with the "
                "release that wrote it, or run `datlstm retrain`"
            )
        manifest = Manifest.model_validate(document)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place} is damaged ({error!r}): run `datlstm retrain`") from error
    if manifest.run_id != run_id:
        raise CheckpointError(f"{place} is of training {manifest.run_id}: run `datlstm retrain`")
    return manifest


def _manifest_path(run_id: str) -> str:
    return f"{FOLDER}/{run_id}/{MANIFEST}"


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _number(loss: float | None) -> float:
    return math.nan if loss is None else loss
