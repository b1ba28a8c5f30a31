"""The run that a framework's values go to: the active one, MLflow's own, one that is given, or one of its own.

Not every framework says when a training ends, and hardly one when it fails. A run of its own that nobody has ended is
ended when the callback is gone, or when the next training of the same kind begins in that thread: two trainings never
become one run. Where no training was under way (an evaluation alone) nothing has failed then. What is left at the end
of the program ends with it, as every run does.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from tailrace.training.runs.run_log import default_tracker, warn
from tailrace.training.runs.tracked_run import joined
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from tailrace.protocol import TrackerLike

__all__ = ["FrameworkRun"]

_OPEN: weakref.WeakSet[FrameworkRun] = weakref.WeakSet()
"""Those with a run of their own that has not ended."""
_LACKING: set[tuple[type, str]] = set()
"""What was warned of: a tracker's type, and a call that it does not have."""


class FrameworkRun:
    """The run of what a framework does: a training, and what is measured after it.

    Args:
        framework: Its name; None of what may stand beside others of its kind.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        run_name: Of a run of its own.
        tags: Likewise.
        left: Gives how a training ends that nobody has ended; FAILED by default.
        **settings: Of a run of its own: what else the tracker's `start_run` takes (`experiment_name`, `tracking_uri`).

    Raises:
        CallError: It is neither a tracker nor a run.

    Thread safety: `run` from any thread; `begin` and `end` from one at a time. Pickled or copied, it has the same run,
    and leaves its end to the first.

    Example:
        >>> framework = FrameworkRun("keras", run_name="digits")
        >>> framework.begin().log({"loss": 0.5}, step=0)
        >>> framework.end()
    """

    def __init__(
        self,
        framework: str | None,
        tracker: TrackerLike | Any = None,
        run_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        *,
        left: Callable[[], str] | None = None,
        **settings: Any,
    ) -> None:
        if tracker is not None and not callable(getattr(tracker, "log", None)):
            raise CallError(f"tracker is {type(tracker).__name__}, which has no log(): see tailrace.TrackerLike")
        # Not the module, which cannot be pickled.
        self._own_tracker = None if tracker is sys.modules["tailrace"] else tracker
        self._framework, self._left = framework, left or _failed
        self._starting = {"run_name": run_name, "tags": dict(tags) if tags else None, **settings}
        self._run: Any = None
        self._own = self._waited_for = self._open = self._over = False
        self._stage = _Stage()
        self._thread = 0
        self._when_gone: Callable[[], Any] | None = None

    @property
    def run(self) -> Any:
        """Takes the values: the run that was begun last, also after its end, or one that is begun now."""
        if self._run is None:
            self._enter(None)
        elif self._over:
            self._run = self._after_end(self._run)
        return self._run

    def begin(self, run_name: str | None = None) -> Any:
        """A training begins: joins a run, or begins one, and gives what takes the values.

        Args:
            run_name: Of a run of its own, where it was given none.
        """
        if self._stage.training:  # the one before was not ended
            self.end(self._left())
        if not self._open:
            self._enter(run_name)
        self._stage.training = True
        return self._run

    def end(self, status: str = "FINISHED", error: BaseException | None = None) -> None:
        """Ends a run of its own, with the error that was its end, if any. Another's is left as it is."""
        if not self._open:
            return
        run, own = self._run, self._own
        self._open = self._stage.training = False
        if own:
            self._settle()
            _end(run, status, error)
            self._over = True
            self._run = self._after_end(run)
        elif self._waited_for:  # MLflow's own: whoever has begun it may read it next
            run.end()

    @property
    def should_stop(self) -> bool:
        """Whether somebody has asked the run to stop, as far as its tracker hears of that."""
        ask = getattr(self._run, "should_stop", None)
        return ask is not None and bool(ask())

    def call(self, name: str, *args: Any, **kwargs: Any) -> None:
        """A call that not every tracker has (`log_image`); of one that lacks it that is reported once."""
        run = self.run
        if hasattr(run, name):
            getattr(run, name)(*args, **kwargs)
        elif (type(run), name) not in _LACKING:
            _LACKING.add((type(run), name))
            warn(f"{type(run).__name__} has no {name}(): what it is for is left out")

    def below(self, run_name: str | None) -> AbstractContextManager[Any] | None:
        """A new run below this one; None where the tracker is a run itself."""
        parent = self.run  # which is active then
        return None if parent is self._tracker else self._tracker.start_run(run_name=run_name, nested=True)

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _tracker(self) -> Any:
        return default_tracker() if self._own_tracker is None else self._own_tracker

    def _enter(self, run_name: str | None) -> None:
        tracker = self._tracker
        self._own = self._waited_for = self._over = False
        self._open = True
        if not hasattr(tracker, "start_run"):
            self._run = tracker
            return
        found = joined(tracker)
        if found is not None and not self._is_anothers(found.run):
            # The run itself: it stays the same one, whatever is begun meanwhile.
            self._run = found.run if hasattr(found.run, "log") else found.target
            self._waited_for = found.target is found.run
            return
        starting = {key: value for key, value in self._starting.items() if value is not None}
        if run_name:
            starting.setdefault("run_name", run_name)
        entered = tracker.start_run(**starting)
        begun = entered.__enter__()
        self._run = run = begun if hasattr(begun, "log") else tracker
        self._own, self._thread = True, threading.get_ident()
        _OPEN.add(self)
        left, stage = self._left, self._stage
        gone = weakref.finalize(self, lambda: _end(run, stage.status(left), None, timeout=0.0))
        gone.atexit = False  # the program's end has its own word for it
        self._when_gone = gone.detach

    def _is_anothers(self, run: Any) -> bool:
        """Whether the active run is one of another training of this kind: over in this thread, or beside this one."""
        for other in list(_OPEN):
            if None is not other._framework == self._framework and other._run is run:
                if other._thread == threading.get_ident():
                    other.end(other._stage.status(other._left))
                return True
        return False

    def _settle(self) -> None:
        """Nobody else is to end it."""
        _OPEN.discard(self)
        if self._when_gone is not None:
            self._when_gone()
        self._when_gone = None

    def _after_end(self, run: Any) -> Any:
        """What takes the values that are measured after the end: the run, opened for that, or as it is."""
        if not hasattr(self._tracker, "attach_run") or not hasattr(run, "ledger"):
            self._over = False
            return run
        # Of one that is not delivered MLflow's id may be unknown, and nobody waits for it: the next call looks again.
        if not run.ledger().settled:
            return run
        self._over = False
        return self._tracker.attach_run(run.run_id) if run.run_id else run

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_own": False, "_waited_for": False, "_when_gone": None, "_left": _failed}


class _Stage:
    """Whether a training is under way."""

    training = False

    def status(self, left: Callable[[], str]) -> str:
        """How a run ends that nobody has ended."""
        return left() if self.training else "FINISHED"


def _failed() -> str:
    return "FAILED"


def _end(run: Any, status: str, error: BaseException | None, timeout: float | None = None) -> None:
    """Ends a run, whatever it can."""
    if error is not None and not isinstance(error, Exception):  # Ctrl-C, or an exit
        run.set_tags({"error.type": type(error).__qualname__})
        error, status = None, "KILLED"
    if error is not None and hasattr(run, "fail"):
        run.fail(error)
    elif not hasattr(run, "end"):
        run.end_run("FAILED" if error is not None else status)
    elif timeout is None:
        run.end("FAILED" if error is not None else status)
    else:
        run.end(status, timeout)
