"""Accelerate: `TailraceTracker` for `Accelerator(log_with=…)`. The main process logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace.integrations import library
from tailrace.integrations.framework_run import FrameworkRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.protocol import TrackerLike

with library("accelerate"):
    from accelerate.tracking import GeneralTracker, on_main_process

__all__ = ["TailraceTracker"]


class TailraceTracker(GeneralTracker):  # type: ignore[misc]  # Accelerate is not installed everywhere
    """What an `Accelerator` logs, by tailrace. Tensors are taken as they are, and one on a GPU is not waited for.

    Joins the active run, or begins one; `accelerator.end_training()` ends that one.

    Args:
        run_name: The run's name, where it begins one.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        tags: Of a run that it begins.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Raises:
        CallError: The tracker is none.

    Thread safety: any thread.

    Example:
        >>> accelerator = Accelerator(log_with=TailraceTracker("baseline"))
        >>> accelerator.init_trackers("digits", config={"lr": 0.1})
        >>> accelerator.log({"loss": loss}, step=0)
        >>> accelerator.end_training()
    """

    name = "tailrace"
    requires_logging_directory = False
    main_process_only = True

    def __init__(
        self,
        run_name: str | None = None,
        *,
        tracker: TrackerLike | Any = None,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._framework = FrameworkRun("accelerate", tracker, run_name, tags, **settings)
        self._started = False
        super().__init__()

    @property
    def tracker(self) -> Any:
        """The run, to log to it what Accelerate has no call for."""
        return self._framework.run

    @on_main_process  # type: ignore[untyped-decorator]
    def start(self) -> None:
        """The training begins: `init_trackers` was called, of a newer Accelerate."""
        self._framework.begin()
        self._started = True

    @on_main_process  # type: ignore[untyped-decorator]
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """What `init_trackers` was given, as params."""
        if not self._started:
            self.start()
        self._framework.run.log_params(values)

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Metrics of one step; a text becomes a tag, as other trackers of Accelerate keep it."""
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        if texts:
            self._framework.run.set_tags(texts)
        self._framework.run.log({name: value for name, value in values.items() if name not in texts}, step=step)

    @on_main_process  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        """The training is over."""
        self._started = False
        self._framework.end()
