"""Plug-ins that change how MLflow speaks to a store, found without importing MLflow or them."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

__all__ = ["has_plug_ins"]

_GROUPS: Final = (
    "mlflow.artifact_repository",
    "mlflow.default_experiment_provider",
    "mlflow.request_auth_provider",
    "mlflow.request_header_provider",
    "mlflow.tracking_store",
)
"""What MLflow loads while it is imported, or looks up when it sends a request."""
_OURS: Final = "tailrace_mlflow"
"""The module of our own, which changes nothing."""


def has_plug_ins() -> bool:
    """Whether one is installed that is not tailrace's."""
    # One call: each reads the metadata of all that is installed.
    found = entry_points()
    return any(plug_in.module != _OURS for group in _GROUPS for plug_in in found.select(group=group))
