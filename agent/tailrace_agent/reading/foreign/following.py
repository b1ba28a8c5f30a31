"""Event files that are still being written, followed: what comes goes to MLflow while the runs go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tailrace_agent.errors import SinkError
from tailrace_agent.reading.foreign.run_copy import RunCopy
from tailrace_agent.reading.foreign.tfevents import EventRuns
from tailrace_agent.reading.import_ import TIMEOUT, Imported
from tailrace_agent.sinks.mlflow import sink_over

if TYPE_CHECKING:
    from pathlib import Path

    from tailrace_agent.reading.foreign.foreign_run import ForeignRun
    from tailrace_agent.reading.reader import Reader

__all__ = ["Follower"]


class Follower:
    """Follows all event files below a directory.

    Args:
        reader: The store that the runs go to.
        source: Where they come from, for people.
        directory: TensorBoard's log directory.
        experiment: Experiment for all of them; by default that of the directory.
        on_progress: As for `copy_runs`.

    Raises:
        TailraceError: TensorBoard is not installed, or there are no event files.
    """

    def __init__(
        self,
        reader: Reader,
        source: str,
        directory: Path,
        experiment: str | None,
        on_progress: Callable[[str, int, int, str], None],
    ) -> None:
        self._reader, self._source, self._directory = reader, source, directory
        self._experiment, self._on_progress = experiment, on_progress
        self._sink = sink_over(reader.uri, reader.store, TIMEOUT)
        self._begin()

    def step(self) -> int:
        """Sends what has come since the last time; how many points.

        Raises:
            SinkError: The store is away. The next step begins anew, with what MLflow has by then.
        """
        sent = 0
        try:
            for run in self._events.runs(going_on=True):
                sent += self._copy(run).update()
        except SinkError:
            self._begin()
            raise
        return sent

    def finish(self) -> list[Imported]:
        """Sends what is left, and ends the runs with their last points.

        Raises:
            SinkError: The store is away.
        """
        self.step()
        for run in self._events.runs():
            copy = self._copy(run)
            copy.update()
            copy.finish()
        return [copy.outcome for copy in self._copies.values()]

    def _copy(self, run: ForeignRun) -> RunCopy:
        copy = self._copies.get(run.origin)
        if copy is None:  # it has appeared since the last time
            copy = self._copies[run.origin] = RunCopy(
                self._reader, self._sink, self._source, run, self._experiment, self._on_progress
            )
        copy.run = run
        return copy

    def _begin(self) -> None:
        self._events = EventRuns(self._directory)
        self._copies: dict[str, RunCopy] = {}
