"""Which run a training logs to: the active one, the one that MLflow has begun, one that it resumes, or its own."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailrace_agent.errors import TailraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Resumed", "TrackedRun", "begun_id", "entered", "joined", "mlflows_run"]


@dataclass(frozen=True)
class Resumed:
    """A run to go on with, and how far it is.

    Attributes:
        run_id: MLflow's id; empty: the one that is begun anyway.
        step: The last step that it has; -1: none.
        epoch: The last epoch that it has; 0: none.
        total_steps: Steps that its summary speaks of; -1: it has none.
    """

    run_id: str
    step: int = -1
    epoch: int = 0
    total_steps: int = -1


@dataclass(frozen=True)
class TrackedRun:
    """Where a training logs to.

    Attributes:
        target: Has `log`, `log_params` and the other calls: a tracker, whose run is active, or a run.
        name: By which the run is found again: MLflow's id, or tailrace's own; None: it cannot be found.
        known_id: MLflow's id, where it is known already.
        run: The run itself, where the tracker gives one.
        own: Whether it has been begun for this training, and ends with it.
        enabled: Whether what is logged is delivered: False with tracking off.
    """

    target: Any
    name: str | None = None
    known_id: str | None = None
    run: Any = None
    own: bool = False
    enabled: bool = True

    def run_id(self) -> str | None:
        """MLflow's id, waited for; None where MLflow cannot be reached in time, and with tracking off."""
        if self.known_id is not None or self.run is None:
            return self.known_id
        if self.own and hasattr(self.run, "ledger"):
            ledger = self.run.ledger()
            if not ledger.settled and not ledger.delivered:
                return None  # its end has waited for MLflow already
        try:
            return getattr(self.run, "run_id", None) or None
        except (TailraceError, OSError):  # TimeoutError is one
            return None

    def log_text(self, text: str, file: str) -> None:
        """A text as a file of the run."""
        with tempfile.TemporaryDirectory(prefix="tailrace-") as folder:
            path = Path(folder, Path(file).name)
            path.write_text(text, encoding="utf-8")
            parent = str(Path(file).parent)
            # The file is copied, or linked, before the call returns.
            self.target.log_artifact(str(path), None if parent == "." else parent)


@contextlib.contextmanager
def entered(tracker: Any, *, run_name: str | None, resumed: Resumed | None) -> Iterator[TrackedRun]:
    """Enters the run that a training logs to. One that was active before is left as it is at the end.

    Args:
        tracker: Whose run; a `TrackerLike`, of which what else it can is made use of.
        run_name: Of a run of its own.
        resumed: The run to go on with.
    """
    if resumed is not None and resumed.run_id and resumed.run_id != begun_id(tracker):
        # Inside of another run, which is the active one again afterwards.
        nested = hasattr(tracker, "active_run") and tracker.active_run() is not None
        with tracker.start_run(run_id=resumed.run_id, nested=nested) as run:
            yield TrackedRun(tracker, resumed.run_id, resumed.run_id, run, enabled=_enabled(run))
        return
    found = joined(tracker)
    if found is None:
        with tracker.start_run(run_name=run_name) as run:
            yield TrackedRun(tracker, _name(run), None, run, own=True, enabled=_enabled(run))
    elif found.target is tracker:
        yield found
    else:
        # At its end all of it is delivered, with the error as tags: whoever has begun the run may read it next.
        with found.run:
            yield found


def joined(tracker: Any) -> TrackedRun | None:
    """The run that is active, tailrace's or MLflow's own; None where there is none.

    To one of MLflow's own a run of the tracker's is attached: that one is the target, and its end waits for delivery.
    """
    active = tracker.active_run() if hasattr(tracker, "active_run") else None
    if active is not None:
        return TrackedRun(tracker, _name(active), None, active, enabled=_enabled(active))
    theirs = mlflows_run(tracker)
    if theirs is None:
        return None
    run_id = theirs.info.run_id
    run = tracker.attach_run(run_id, sys.modules["mlflow"].get_tracking_uri())
    return TrackedRun(run, run_id, run_id, run, enabled=_enabled(run))


def _name(run: Any) -> str | None:
    """By which the run is found again; one that goes nowhere is not."""
    return getattr(run, "id", None) if _enabled(run) else None


def _enabled(run: Any) -> bool:
    return bool(getattr(run, "enabled", True))


def mlflows_run(tracker: Any) -> Any:
    """The run that MLflow itself has begun, if the tracker can log to it."""
    mlflow: Any = sys.modules.get("mlflow")
    return mlflow.active_run() if mlflow is not None and hasattr(tracker, "attach_run") else None


def begun_id(tracker: Any) -> str | None:
    """MLflow's id of the run that the user has entered; None: there is none, or nobody knows yet."""
    active = tracker.active_run() if hasattr(tracker, "active_run") else None
    theirs = mlflows_run(tracker) if active is None else None
    try:
        return theirs.info.run_id if theirs is not None else getattr(active, "run_id", None)
    except (TailraceError, OSError):
        return None
