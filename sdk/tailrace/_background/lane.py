"""The deferred lane: one background thread for what `log()` and `log_artifact()` must not wait for.

It runs **jobs** (write a figure, copy a file), in the order in which they were submitted, and **watches**: values
that are ready later (`gpu_values.DeferredValues`), polled until they are.

* The thread starts with the first piece of work, and sleeps without polling while there is none.
* Watches are polled after 0.2 ms at first, then ever more rarely, up to 20 ms (`watches`).
* `submit` and `watch` take no lock that the same thread could hold already: they may be called from a signal
  handler, from `__del__`, and from a job.
* After a fork the child has an empty lane; what the parent submitted is done by the parent.
* Where the end of the process may pass by unseen (`process_end.lasts`), a job runs on the caller, and a watch is
  waited for: nothing is left for later that would not be done.
* Nothing that a job, a watch or an error handler raises ends the thread.

All of the logic is `Lane.step(now) -> next deadline`; `_run` is the thread around it.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from tailrace._background.process_end import lasts
from tailrace._background.watches import Barrier, Watch, Watches, pass_error
from tailrace_agent.files.descriptors import SPARE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LANE", "SAVES", "Lane", "abandon", "drain"]


_PATIENCE: Final = 1.0  # seconds; a copy from a GPU takes milliseconds, unless the device is stuck


class _Job(NamedTuple):
    run: Callable[[], None]
    on_error: Callable[[BaseException], None]


class Lane:
    """The background thread's work, and how it gets there.

    Args:
        capacity: Pieces of work that may wait for the thread; beyond that `submit` runs the job on the caller.
        watch_capacity: The same for watches, which are small; beyond that `watch` refuses.
        clock: Seconds, monotonic.
        threaded: False starts no thread: a test calls `step` itself.

    Example:
        >>> lane = Lane()
        >>> lane.submit(lambda: path.write_text(text), on_error=report)
        True
        >>> lane.drain(timeout=5.0)
        True
    """

    def __init__(
        self,
        capacity: int = 1024,
        *,
        watch_capacity: int = 65_536,
        clock: Callable[[], float] = time.monotonic,
        threaded: bool = True,
    ) -> None:
        self._capacity = capacity
        self._watch_capacity = watch_capacity
        self._clock = clock
        self._threaded = threaded
        self._generation = 0
        self._reset()
        _lanes.append(weakref.ref(self, _lanes.remove))

    def _reset(self) -> None:
        """A fresh, empty lane without a thread: at the start, and in a forked child."""
        # A job may fork: the copy of its thread in the child must not go on with the child's lane.
        self._generation += 1
        self._inbox: deque[_Job | Watch | Barrier] = deque()
        # `SimpleQueue.put` may be re-entered in one thread; an Event or a Condition has a lock that deadlocks then.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._may_start = [True]
        self._idle = False
        self._thread_id: int | None = None
        self._watches = Watches()

    # What callers call.

    def submit(self, job: Callable[[], None], *, on_error: Callable[[BaseException], None]) -> bool:
        """Runs a job in the background, after those submitted before it.

        When the lane is full, no thread can be started, or this process may end without a word, the job runs on the
        caller before this returns, ahead of those that wait: nothing is lost, and whoever submits faster than the
        thread works is slowed down.

        Args:
            job: What to do. Keep no reference to it that is needed afterwards.
            on_error: Called with whatever the job raised, in the thread that ran it.

        Returns:
            True when it is left to the background, False when it ran here.

        Thread safety: any thread, signal handlers and `__del__` included; takes no lock.
        """
        task = _Job(job, on_error)
        if len(self._inbox) >= self._capacity or not lasts() or not self._started():
            _run_job(task)
            return False
        self._inbox.append(task)
        self._wake_up()
        return True

    def watch(
        self,
        ready: Callable[[], bool],
        done: Callable[[], None],
        *,
        on_error: Callable[[BaseException], None],
    ) -> bool:
        """Calls `done` in the background, soon after `ready` has become True.

        Args:
            ready: Polled; must not wait.
            done: Called once.
            on_error: Called with whatever either of them raised; the watch is then over.

        Where this process may end without a word the caller waits for it, for a second at most.

        Returns:
            False when the lane is full or no thread can be started: the caller then counts the value as dropped.

        Thread safety: as `submit`.
        """
        # No wait for room here, as a full lane of jobs has it: the caller is the training loop.
        if len(self._inbox) + len(self._watches) >= self._watch_capacity or not self._started():
            return False
        self._inbox.append(Watch(ready, done, on_error))
        # A thread that is awake between two askings finds it at the next one.
        if self._idle:
            self._wake_up()
        if not lasts():
            self.drain(_PATIENCE)
        return True

    def drain(self, timeout: float | None = None) -> bool:
        """Waits until everything submitted before this call is done.

        Args:
            timeout: Seconds; None waits as long as it takes.

        Returns:
            Whether it is all done. At once False when called by a job while other work waits.

        Thread safety: any thread; not from a signal handler.
        """
        if not self._inbox and not self._watches and self._idle_or_unstarted():
            return True
        # It would wait for the very job that waits.
        if self._thread_id == threading.get_ident():
            return False
        # In the same queue, so it comes up behind all that was submitted before it.
        barrier = Barrier()
        self._inbox.append(barrier)
        if not self._threaded or not self._started():
            return self._drain_here(barrier, timeout)
        self._wake_up()
        return barrier.passed.wait(timeout)

    def abandon(self, reason: str) -> None:
        """The process ends: what is not done gets a time-out with this reason."""
        error = TimeoutError(reason)
        left: list[_Job | Watch | Barrier] = []
        # The thread may still take jobs meanwhile: `popleft` gives each of them to one of the two, the last one, too.
        with contextlib.suppress(IndexError):
            while True:
                left.append(self._inbox.popleft())
        for item in (*left, *self._watches.pending()):
            if not isinstance(item, Barrier):
                pass_error(item.on_error, error)

    @property
    def waiting(self) -> int:
        """Pieces of work that the thread has not begun."""
        return len(self._inbox)

    def _idle_or_unstarted(self) -> bool:
        return self._idle or bool(self._may_start)

    def _drain_here(self, barrier: Barrier, timeout: float | None) -> bool:
        """Without a thread (the interpreter is going down) the caller does the work."""
        end = float("inf") if timeout is None else self._clock() + timeout
        while True:
            deadline = self.step(self._clock())
            now = self._clock()
            if barrier.passed.is_set() or now >= end:
                return barrier.passed.is_set()
            time.sleep(max(0.0, min(end, deadline or now) - now))

    # The logic, without a thread.

    def step(self, now: float) -> float | None:
        """Does all that can be done now: takes in what was submitted, runs jobs, polls the watches that are due.

        Args:
            now: Seconds of the lane's clock.

        Returns:
            When to call again at the latest, or None: not before something is submitted.
        """
        while self._inbox:
            self._accept(self._inbox.popleft(), now)
            if self._watches:
                # Between jobs as well, which may take seconds each: a value is not to wait for a figure.
                now = max(now, self._clock())
                self._watches.poll(now)
        self._watches.poll(now)
        return self._watches.deadline

    def _accept(self, item: _Job | Watch | Barrier, now: float) -> None:
        if isinstance(item, _Job):
            _run_job(item, background=True)
        elif isinstance(item, Watch):
            self._watches.begin(item, now)
        else:
            self._watches.wait(item, now)

    # The thread.

    def _wake_up(self) -> None:
        self._idle = False
        self._wake.put(None)

    def _started(self) -> bool:
        """Starts the thread with the first piece of work. `list.pop` makes sure that only one caller does."""
        if not self._may_start:
            return True
        if not self._threaded:
            return True
        try:
            self._may_start.pop()
        except IndexError:
            return True
        try:
            # Not `threading.Thread`, whose `start` takes locks that a signal handler might find held.
            _thread.start_new_thread(self._run, (self._generation,))
        except RuntimeError:
            # The interpreter is going down, or the system has no threads left: the next call tries again.
            self._may_start.append(True)
            return False
        return True

    def _run(self, generation: int) -> None:
        threading.current_thread().name = "tailrace-lane"  # by its prefix `notebook` knows our threads
        self._thread_id = threading.get_ident()
        while self._generation == generation:
            try:
                self._turn()
            except Exception:  # noqa: BLE001 - a fault in the lane itself must not end it, nor spin
                time.sleep(0.02)

    def _turn(self) -> None:
        """One turn of the thread: a step, then sleep until the next one is due."""
        wake = self._wake
        deadline = self.step(self._clock())
        if deadline is None:
            # Whoever appends after this line sees `_idle` and wakes us; what was appended before, we see.
            self._idle = True
            if not self._inbox:
                wake.get()
            self._idle = False
        else:
            try:
                wake.get(timeout=max(0.0, deadline - self._clock()))
            except Empty:
                return
        # One step takes in all that was submitted: a wake-up for each of them would be a step for nothing.
        while not wake.empty():
            wake.get()


def _run_job(job: _Job, *, background: bool = False) -> None:
    try:
        # A program that has leaked all its descriptors still gets its artifacts written.
        with SPARE.lent():
            job.run()
    except BaseException as error:
        pass_error(job.on_error, error)
        # On a caller, Ctrl-C and SystemExit go where they were meant to go.
        if not background and not isinstance(error, Exception):
            raise


_lanes: list[weakref.ref[Lane]] = []


def _fresh_in_child() -> None:
    for ref in tuple(_lanes):
        lane = ref()
        if lane is not None:
            lane._reset()


os.register_at_fork(after_in_child=_fresh_in_child)

LANE: Final = Lane()
"""The process's own lane."""
SAVES: Final = Lane()
"""One for models, which take seconds, so that nothing else waits for them."""


def drain(timeout: float) -> bool:
    """Waits until everything submitted to both of them is done; whether it is."""
    deadline = time.monotonic() + timeout
    return LANE.drain(timeout) and SAVES.drain(max(0.0, deadline - time.monotonic()))


def abandon(reason: str) -> None:
    """Gives up what is left in both of them; see `Lane.abandon`."""
    for lane in (LANE, SAVES):
        lane.abandon(reason)
