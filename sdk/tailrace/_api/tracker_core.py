"""The core of a tracker: its settings, its experiment and its runs. `Tracker` and its parts work on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from tailrace._messages.voice import Voice
from tailrace._runs.program_end import end_all
from tailrace._session.connection import point_children_nowhere
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace._config.tracking import TrackingConfig
    from tailrace._runs.current import CurrentRuns

__all__ = ["TrackerCore", "module_core", "tracker_cores"]

_NEVER_EMPTY: Final = "MLFLOW_EXPERIMENT_NAME"
"""MLflow takes an empty name for one and refuses it; all others it takes for missing. So this one alone is deleted."""


class TrackerCore:
    """One tracker's state.

    Args:
        given: The settings that it was given; stronger than environment and files.
        config: What a configuration sets.
        auto_start: Whether entering its `with` block starts a run.

    Attributes:
        runs: Its runs in this process.
        experiment_id: MLflow's id of the experiment of runs started from now on, where that is how it was named.
        asynchronous: Whether calls that MLflow can make wait return something to wait on by themselves, as MLflow's do
            after `config.enable_async_logging()`.
        of_module: Whether it is the one behind the module's functions, which shows other programs where runs go.

    Thread safety: every method from any thread.
    """

    runs: CurrentRuns

    def __init__(self, given: dict[str, Any], config: TrackingConfig | None, *, auto_start: bool) -> None:
        self.given, self.config, self.auto_start = given, config, auto_start
        self.experiment_id: str | None = None
        self.asynchronous = os.environ.get("MLFLOW_ENABLE_ASYNC_LOGGING", "").lower() in ("true", "1")
        self.of_module = False
        self.voice = Voice()

    def open(self, runs: CurrentRuns) -> None:
        """Takes its runs; from now on they are ended when the program does."""
        self.runs = runs
        _cores.append(self)

    def close(self) -> None:
        """Ends its runs, as the end of the program does, and forgets it."""
        end_all([self.runs])
        _cores.remove(self)

    def settings(self, arguments: Mapping[str, Any]) -> Settings:
        """The settings in force, with arguments.

        Raises:
            SettingsError: One is wrong.
        """
        given = {key: value for key, value in arguments.items() if value is not None}
        return load_settings({**self.given, **given})

    def export(self, **variables: str | None) -> None:
        """Sets variables for programs that this one starts, as MLflow does; for the module's own tracker only."""
        if not self.of_module:
            return
        for name, value in variables.items():
            # None: else a program that is started from here would find the id of the experiment before.
            if value is not None:
                os.environ[name] = value
            elif name == _NEVER_EMPTY:
                os.environ.pop(name, None)
            else:
                point_children_nowhere(name, os.environ.get(name, ""))

    def surprised(self, what: str, error: Exception) -> None:
        """Warns that a call could not be done, or raises the error if that is wanted."""
        # Not by `settings`, which reads files: that may be the very thing that has failed.
        if self.given.get("on_error", os.environ.get("TAILRACE_ON_ERROR")) == "raise":
            raise error
        self.voice.warn_undone(what, error)


# Never weak: a tracker that nobody holds any more still has runs to end.
_cores: list[TrackerCore] = []


def tracker_cores() -> list[TrackerCore]:
    """Those of all trackers of this process."""
    return list(_cores)


def module_core() -> TrackerCore:
    """The one of the tracker behind the module's functions."""
    return next(core for core in _cores if core.of_module)
