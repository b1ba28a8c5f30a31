"""How far a search is, for those who wait: a bar on a terminal, a line for each trial elsewhere."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, TextIO

from tailrace.hpo.studies import best_of, count

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["Progress"]


class Progress:
    """Shows what has become of the trials that have ended since it was looked at last.

    Args:
        study: The study.
        metric: What is optimized.
        n_trials: How many trials there are to be, if that is known.
        to: Where to; a bar if that is a terminal.
    """

    def __init__(self, study: Study, metric: str, n_trials: int | None, to: TextIO | None = None) -> None:
        self._study, self._metric, self._n_trials = study, metric, n_trials
        self._to = sys.stdout if to is None else to
        self._bar: Any = None
        self._shown = {trial.number for trial in _ended(study)}
        if self._to.isatty():
            self._start_bar()

    def show(self) -> None:
        """Shows what is new."""
        fresh = [trial for trial in _ended(self._study) if trial.number not in self._shown]
        self._shown.update(trial.number for trial in fresh)
        best = best_of(self._study) if fresh else None
        for trial in fresh if self._bar is None else ():
            # Of a pruned one it is what the pruner saw last.
            value = "" if trial.state.name != "COMPLETE" else f" {self._metric} {trial.value:.5g}"
            held = "" if best is None else f" (best {best.value:.5g}, trial {best.number})"
            self._to.write(f"trial {trial.number}: {trial.state.name}{value}{held}\n")
        self._to.flush()
        if self._bar is not None:
            best = best or best_of(self._study)
            text = "" if best is None else f"best {self._metric} {best.value:.5g}, trial {best.number}"
            counts = count(self._study)
            self._bar.update(self._task, completed=counts.total - counts.running, best=text)

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            self._to.write(f"{text}\n")
            self._to.flush()

    def close(self) -> None:
        """No more is shown. That the study cannot be read is no matter any more: whoever needs it says so."""
        with contextlib.suppress(Exception):
            self.show()
        if self._bar is not None:
            self._bar.stop()

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[best]}"), TimeRemainingColumn())
        self._bar = Bar(*columns, console=Console(file=self._to))
        self._task = self._bar.add_task("trials", total=self._n_trials, best="")
        self._bar.start()


def _ended(study: Study) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
