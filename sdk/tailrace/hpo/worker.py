"""A process that runs trials of a study, started by `workers`: it takes a byte from a pipe for each trial.

The kernel gives each byte to one process alone, and gives none to those that are dead: so trials are counted out
exactly, whoever is killed. When the pipe is at its end, because all bytes were taken or because the process that fills
it is gone, the worker ends its trial and leaves.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.hpo.config import SearchConfig
from tailrace.hpo.objectives import load_function
from tailrace.hpo.runner import OptunaRunner
from tailrace.hpo.storage import gone_away
from tailrace.hpo.tracking import SearchTracker
from tailrace_agent.decoding import decode_json
from tailrace_agent.errors import TailraceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.trial import Trial

    from tailrace.hpo.trials import Objective

__all__ = ["Job", "main"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do.

    Attributes:
        search: The search.
        number: Its number among the workers.
        turns: File descriptor of the pipe.
        folder: What paths of files are relative to.
        ends_at: When no trial begins any more; `time.time()`.
        settings: For the runs of trials.
        tags: Likewise.
        apart: Whether the run above is another machine's.
    """

    search: SearchConfig
    number: int
    turns: int
    folder: str
    ends_at: float | None = None
    settings: dict[str, Any] = {}
    tags: dict[str, str] = {}
    apart: bool = False


def main() -> int:
    """Runs trials until there are no more. Returns the exit code."""
    job = decode_json(sys.stdin.buffer.read(), Job)
    try:
        _work(job)
    except KeyboardInterrupt:
        return 130
    except TailraceError as error:
        sys.stderr.write(f"tailrace: {error}\n")
        return 2
    return 0


def _work(job: Job) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what trials raise is shown once, and Ctrl-C is no error
    search, folder = job.search, Path(job.folder)
    runner = OptunaRunner(**search.runner_options(job.number))
    objective, space = _shown(load_function(search.objective, folder, "hpo.objective")), search.space(folder)
    tracker = SearchTracker(None, trial_settings={**job.settings, "quiet": True}, tags=job.tags)
    try:
        runner.work(objective, space, _turns(job, runner), tracker=tracker, apart=job.apart)
    except TailraceError:
        raise
    except Exception as error:
        if (away := gone_away(error, search.kept_in)) is not None:
            raise away from None
        raise


def _shown(objective: Objective) -> Objective:
    """What it raises is printed: the search goes on, and nobody else would see it."""

    def run(trial: Trial, params: dict[str, Any]) -> Any:
        from optuna import TrialPruned

        try:
            return objective(trial, params)
        except TrialPruned:
            raise
        except Exception:
            traceback.print_exc()
            raise

    return run


def _turns(job: Job, runner: OptunaRunner) -> Callable[[], bool]:
    most = job.search.n_trials

    def turn() -> bool:
        if job.ends_at is not None and time.time() >= job.ends_at:
            return False
        # Other machines count out turns, too.
        return os.read(job.turns, 1) != b"" and (most is None or runner.counts().total < most)

    return turn
