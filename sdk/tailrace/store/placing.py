"""How the plug-in comes to stand in the place of MLflow's stores."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.runtime.places import working_directory
from tailrace_agent.settings.plug_in import INSTALLED, installed, is_installed
from tailrace_agent.settings.uris import resolve_uri, without_plug_in

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["install", "join_mlflow", "stand_before"]


_SCHEMES: Final = frozenset({"file", "http", "https", "mssql", "mysql", "postgresql", "sqlite"})
"""That may have `tailrace+` before them; of other stores, MLflow's artifacts, models and traces go by the scheme."""


def install(*, offline: bool = False, background_artifacts: bool = False) -> None:
    """Lets everything that logs through MLflow in this process, and in those that it starts, log through tailrace.

    `mlflow.log_metric`, `MlflowClient`, `mlflow.autolog()` and the loggers of frameworks go on as they are; their calls
    return at once and survive a `kill -9`. The tracking URI stays as it is. Stores that were opened before, by a run
    that is active for example, are MLflow's own until MLflow opens them anew, which it does with the next call.

    Processes that this one starts get it when they import MLflow, by an environment variable. The last call counts.

    Args:
        offline: Runs can begin while the tracking server is away. Such a run has an id of this process's own, by which
            this process alone knows it; in MLflow it gets another one as soon as the server is back, and this one as
            the tag `tailrace.offline_run_id`. Each `create_run` asks the server first whether it is there. By default
            MLflow tries for minutes, and raises.
        background_artifacts: `log_artifact`, `log_text`, `log_figure` and their like return when the file is copied;
            the agent uploads it, before the run ends. This process waits for that where it lists or downloads a run's
            artifacts; others find them later. An upload that fails is reported by tailrace, and not raised. Files of
            logged models go MLflow's way.

    Raises:
        ImportError: This MLflow has no stores that could be stood before; the message names its version.

    Thread safety: any thread. It may be called more than once.

    Example:
        >>> import mlflow, tailrace
        >>> tailrace.install()
        >>> with mlflow.start_run():
        ...     mlflow.log_metric("loss", 0.5)
    """
    import mlflow

    try:
        from mlflow.tracking._tracking_service.utils import _tracking_store_registry
    except ImportError as error:
        raise ImportError(
            f"tailrace.install() needs MLflow 3.7 or newer, below 4; this is {mlflow.__version__}"
        ) from error
    known = is_installed() and hasattr(_tracking_store_registry.get_store_builder, "tailrace_before")
    os.environ[INSTALLED] = installed(offline=offline, background_artifacts=background_artifacts)
    stand_before(_tracking_store_registry)
    if not known:  # else the plug-in is in all of them, and they know what is on its way
        type(_tracking_store_registry)._get_store_with_resolved_uri.cache_clear()
    join_mlflow()


def join_mlflow() -> None:
    """What goes with the stores, as soon as MLflow is imported: active runs, the exit, artifacts, links, batches."""
    from tailrace.store.active_run import share_active_run
    from tailrace.store.artifacts import hand_over_artifacts, reach_artifacts
    from tailrace.store.batches import pass_batches_on
    from tailrace.store.exits import attend_exit
    from tailrace.store.fluent_metrics import shorten_fluent_calls
    from tailrace.store.links import link_by_what_is_known

    share_active_run()
    attend_exit()
    reach_artifacts()
    hand_over_artifacts()
    link_by_what_is_known()
    pass_batches_on()
    shorten_fluent_calls()


def stand_before(registry: Any) -> None:
    """Has a registry of MLflow's give the plug-in's builders, where they are wanted."""
    original = registry.get_store_builder
    if hasattr(original, "tailrace_before"):
        return

    @functools.wraps(original)
    def get_store_builder(store_uri: str) -> Callable[..., Any]:
        inner = without_plug_in(store_uri)
        if inner == store_uri and not is_installed():
            return original(store_uri)  # type: ignore[no-any-return]
        if inner != store_uri:
            _check_scheme(inner)
        return _placing(original(inner), inner)

    get_store_builder.tailrace_before = original  # type: ignore[attr-defined]
    registry.get_store_builder = get_store_builder


def _check_scheme(uri: str) -> None:
    """Raises MLflow's error if this is no store that may be named with `tailrace+` before it."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.uri import get_uri_scheme

    if get_uri_scheme(uri) not in _SCHEMES:
        raise MlflowException.invalid_parameter_value(
            f"tailrace+{uri.partition(':')[0]} is no tracking URI that MLflow could work with, since it looks at this "
            "scheme in many places: leave tailrace+ out of it, and call tailrace.install() or start the program by "
            "`tailrace run`"
        )


def _placing(build: Callable[..., Any], uri: str) -> Callable[..., Any]:
    """A builder of a store, and what stands in its place."""

    @functools.wraps(build)
    def build_store(store_uri: str, artifact_uri: str | None = None) -> Any:
        del store_uri
        store = build(store_uri=uri, artifact_uri=artifact_uri)
        from tailrace.store.placed_store import place

        return place(store, resolve_uri(uri or "mlruns", working_directory()))

    build_store.tailrace_before = build  # type: ignore[attr-defined]
    return build_store
