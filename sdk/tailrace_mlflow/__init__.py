"""What MLflow loads of tailrace when it is imported: the stores under `tailrace+…`, by the entry points of the wheel.

A package of its own, and bare: every `import mlflow` loads it where tailrace is installed, also in programs that never
use tailrace, and in tailrace's own agent. `tailrace` itself comes with the store plug-in alone, when one is wanted.
"""

import os
from typing import Any

__all__ = ["build_registry_store", "build_tracking_store"]


def build_tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """The tracking store that a URI with `tailrace+` before it means, as MLflow's builders of stores."""
    from tailrace.store import schemes

    return schemes.build_tracking_store(store_uri, artifact_uri)


def build_registry_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    """MLflow's own model registry of that store."""
    from tailrace.store import schemes

    return schemes.build_registry_store(store_uri, tracking_uri)


# What `install()` and `tailrace run` leave to the processes below, or a URI for the whole program: now is the moment.
if os.environ.get("TAILRACE_INSTALLED") or os.environ.get("MLFLOW_TRACKING_URI", "").startswith("tailrace+"):
    from tailrace.store.schemes import begin

    begin()
