"""The stores under `tailrace+…`, and the plug-in in a program that was started to have it."""

from __future__ import annotations

import sys
from typing import Any

from tailrace.store.placing import join_mlflow, stand_before
from tailrace_agent.settings.uris import without_plug_in

__all__ = ["begin", "build_registry_store", "build_tracking_store"]


def build_tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """The tracking store that a URI with `tailrace+` before it means."""
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    join_mlflow()
    stand_before(_tracking_store_registry)
    return _tracking_store_registry.get_store_builder(store_uri)(store_uri=store_uri, artifact_uri=artifact_uri)


def build_registry_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    """MLflow's own model registry of that store: models are no matter of the plug-in."""
    import inspect

    from mlflow.tracking._model_registry.utils import _get_store_registry

    store_uri = without_plug_in(store_uri)
    build = _get_store_registry().get_store_builder(store_uri)
    if "tracking_uri" not in inspect.signature(build).parameters:
        return build(store_uri=store_uri)
    return build(store_uri=store_uri, tracking_uri=None if tracking_uri is None else without_plug_in(tracking_uri))


def begin() -> None:
    """MLflow is being imported in a program that is to have the plug-in from its beginning."""
    under_way: Any = sys.modules.get("mlflow.tracking._tracking_service.utils")
    if under_way is None:  # somebody else has loaded the entry points
        return
    stand_before(under_way._tracking_store_registry)
    from mlflow.utils.import_hooks import register_post_import_hook

    register_post_import_hook(lambda _: join_mlflow(), "mlflow.tracking.fluent")
