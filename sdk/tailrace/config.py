"""Tracking configured by a file or a dictionary: `TrackingConfig`, `load_config`, `build_tracker_from_config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace._api.tracker import Tracker
from tailrace._config.tracking import TrackingConfig, load_config

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["TrackingConfig", "build_tracker_from_config", "load_config"]


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
