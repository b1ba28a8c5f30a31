"""Tracking configured by a file or a dictionary: `TrackingConfig`, `load_config`, `build_tracker_from_config`.

Also what `mlflow.config` has, so that `import tailrace as mlflow` carries `mlflow.config.enable_async_logging()` over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace._api.tracker import Tracker
from tailrace._api.tracker_core import module_core
from tailrace._config.files import read_override
from tailrace._config.tracking import TrackingConfig, load_config

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["TrackingConfig", "build_tracker_from_config", "enable_async_logging", "load_config", "read_override"]

_OURS = ("get_tracking_uri", "set_tracking_uri")


def build_tracker_from_config(
    config: str | os.PathLike[str] | Mapping[str, Any] | TrackingConfig | None = None,
) -> Tracker:
    """A tracker as a configuration wants it; use it as a context manager, or start and end runs by hand.

    Args:
        config: As for `load_config`.

    Returns:
        The tracker; as a context manager it starts a run and ends it.

    Raises:
        SettingsError: As for `load_config`.

    Example:
        >>> with build_tracker_from_config("config.toml") as tracker:
        ...     tracker.log(step=0, loss=0.5)
    """
    return Tracker(config=load_config(config))


def enable_async_logging(enable: bool = True) -> None:
    """What calls without `synchronous` return: something to wait on, as MLflow's do after this, or nothing.

    All of tailrace's calls are asynchronous, before it and after it.

    Args:
        enable: Whether they return something to wait on.

    Example:
        >>> tailrace.config.enable_async_logging()
        >>> tailrace.log_metric("loss", 0.5).wait()
    """
    module_core().asynchronous = enable


def __getattr__(name: str) -> Any:
    """What else `mlflow.config` has: tailrace's own where there is one, else MLflow's."""
    if not name.startswith("_"):
        if name in _OURS:
            return getattr(module_core().runs.home, name)
        from tailrace._fluent.names import handed_config

        return handed_config(module_core(), name)
    raise AttributeError(f"module 'tailrace.config' has no attribute {name!r}")
