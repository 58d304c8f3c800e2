"""Nightly sea-surface-temperature forecasts: the library, which knows nothing of Prefect."""
