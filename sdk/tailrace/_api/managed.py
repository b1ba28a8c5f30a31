"""A tracker as a context manager, and what a configuration sets for its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace._api.tracker_part import TrackerPart
from tailrace_agent.errors import SettingsError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from tailrace._config.tracking import TrackingConfig

__all__ = ["Managed", "given"]


class Managed(TrackerPart):
    """`with Tracker(...) as tracker`. A base of `Tracker`."""

    @property
    def config(self) -> TrackingConfig | None:
        """The configuration that it was built from, if it was."""
        return self._core.config

    def __enter__(self) -> Self:
        """Starts a run, unless this thread has one already or `auto_start_run=False`."""
        # `own`, not `current`: in a thread the program's run is active, and this block wants one that it can end.
        if self._core.auto_start and self._core.runs.active.own() is None:
            self._core.runs.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends this thread's runs: FAILED when an exception goes through, and the exception goes on."""
        before = None
        # All of them, innermost first: nested ones may have been left open by the exception.
        while (run := self._core.runs.active.own()) is not None and run is not before:
            run.handle.__exit__(kind, error, traceback)
            before = run  # one that could not be ended is left to the end of the program

    def _run_name(self) -> str | None:
        """What a run is called that is given no name and is no other's child."""
        return None if self._core.config is None else self._core.config.run_name or self._core.config.name

    def _tags(self) -> dict[str, str]:
        return {} if self._core.config is None else self._core.config.tags

    def _files(self) -> list[str]:
        """Files to record with each run."""
        return [] if self._core.config is None or self._core.config.source is None else [self._core.config.source]


def given(
    config: TrackingConfig | None, tracking_uri: Any, experiment_name: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """A tracker's settings: its own arguments before those of its configuration.

    Raises:
        SettingsError: The configuration is something else, such as a run's params.
    """
    # By its method: to import the class would load what reads configuration files.
    if config is not None and not hasattr(config, "tracker_settings"):
        raise SettingsError(
            f"config is what `tailrace.load_config` reads, a TrackingConfig, not {type(config).__name__}; "
            "params belong to a run: `start_run(params=…)` or `log_params`"
        )
    arguments = {"tracking_uri": tracking_uri, "experiment_name": experiment_name, **settings}
    named = {key: value for key, value in arguments.items() if value is not None}
    return {**({} if config is None else config.tracker_settings()), **named}
