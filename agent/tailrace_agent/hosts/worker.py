"""A worker: the thin shell of a thread around one `step(now) -> next deadline`.

Whatever a step raises is logged and the step is called again, after a pause that grows; it never ends the thread, and
since a step commits before it forgets, it never loses a batch. Every wait has a deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tailrace_agent.log import Log
from tailrace_agent.retry import Backoff

__all__ = ["Worker"]

_LONGEST_WAIT = 5.0


class Worker:
    """Calls `step` when its deadline comes, or at once after `wake`.

    Args:
        name: Of the thread.
        step: Does one piece of work; returns the monotonic time at which to be called again.
        log: Where what it raises is written.

    Thread safety: `wake` and `stop` from any thread.
    """

    def __init__(self, name: str, step: Callable[[float], float], log: Log) -> None:
        self._step, self._log = step, log
        self._backoff = Backoff(base=0.2, cap=10.0)
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self.run, name=name, daemon=True)

    def start(self) -> None:
        """Begins, in a daemon thread of its own."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def leave(self) -> None:
        """Has the loop end at its next turn; only sets a flag, so a signal handler may call it."""
        # No `set`: it takes a lock, which the code that the signal interrupts may hold.
        self._stopping = True

    def stop(self, timeout: float) -> bool:
        """Has the thread end after its current step; whether it did within `timeout` seconds."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def run(self) -> None:
        """The loop."""
        while not self._stopping:
            self._wake.clear()  # before the step: a wake in the middle of it is not lost
            deadline = self.step_once()
            wait = min(deadline - time.monotonic(), _LONGEST_WAIT)
            if wait > 0 and not self._stopping:  # a stop may have come just before its call was cleared
                self._wake.wait(wait)

    def step_once(self) -> float:
        """One step, whatever it raises; the next deadline."""
        try:
            deadline = self._step(time.monotonic())
        except Exception as error:  # noqa: BLE001 - a worker must outlive every fault; it is logged, and nothing was committed
            self._log.error("step failed", worker=self._thread.name, error=repr(error), exc_info=True)
            return self._backoff.failed(time.monotonic())
        self._backoff.worked()
        return deadline
