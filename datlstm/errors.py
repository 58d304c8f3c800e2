"""The errors of this project: few, typed, each message saying what happened, to which object, and what to do."""


class DatlstmError(Exception):
    """Root of every error this project raises on purpose."""


class SettingsError(DatlstmError):
    """A setting is unknown, malformed or contradicts another."""


class SourceError(DatlstmError):
    """The source of sea surface temperature could not give what was asked."""


class PermanentSourceError(SourceError):
    """Trying again cannot help: credentials, dataset, variable or layout are wrong. An operator must act."""


class NotYetAvailableError(SourceError):
    """The asked days are not there yet. Come back later."""


class TransientSourceError(SourceError):
    """The source failed in a way that a later attempt may not."""


class GridError(DatlstmError):
    """A field is not on the grid it should be on, or does not cover it."""


class ArchiveError(DatlstmError):
    """The archive is absent, belongs to another grid, or refuses a write."""


class NotEnoughDataError(DatlstmError):
    """Too few usable days to fit, train, forecast or score."""


class TrainingError(DatlstmError):
    """A training ended without a model."""


class TrainingInterruptedError(TrainingError):
    """A training was asked to stop, and can be gone on with."""


class CheckpointError(DatlstmError):
    """There is no checkpoint to go on from, it is damaged, or another training writes the same ones."""


class BundleError(DatlstmError):
    """A model bundle is missing, corrupted, or does not match the grid, the settings or the code."""


class ProductError(DatlstmError):
    """A published product is damaged, or a write would break its structure."""


class StoreError(DatlstmError):
    """The object store or filesystem under the service can't be reached, read or written."""


class ConflictError(StoreError):
    """Another writer was first: nothing of this one is visible. Run it again."""


class ComputeError(DatlstmError):
    """The cluster that was to compute lost the work."""


class WeightsError(DatlstmError):
    """Published weights that can't be converted."""


class DeploymentError(DatlstmError):
    """A server of the deployment does not start or answer, or lacks or refuses what the service needs there."""
