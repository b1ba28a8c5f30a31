"""Values that are ready later: when to poll them, and who waits until they are there.

The intervals grow from 0.2 ms to 20 ms with every poll, and start anew after 0.1 s without a watch: one value now
and then is there at once, and a loop that logs a GPU tensor a thousand times a second wakes the background thread a
hundred times, not thousands (each time it takes the GIL from the training loop).

Thread safety: for the lane's thread alone, except `Barrier.passed` and `Watches.pending`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Barrier", "Watch", "Watches", "pass_error"]

FASTEST: Final = 0.0002
"""Seconds until a watch is polled for the first time, after quiet."""
SLOWEST: Final = 0.02
"""Seconds between two polls at most."""
SLOWEST_DRAINING: Final = 0.002
"""The same while somebody waits at a barrier."""
QUIET: Final = 0.1
"""Seconds without a watch after which the intervals start anew."""


class Watch(NamedTuple):
    """Something that is ready later.

    Attributes:
        ready: Polled; must not wait.
        done: Called once, when it is.
        on_error: Called with what either of them raised; the watch is then over.
    """

    ready: Callable[[], bool]
    done: Callable[[], None]
    on_error: Callable[[BaseException], None]

    def check(self) -> bool:
        """True when it is over, well or not. Does not raise."""
        try:
            if not self.ready():
                return False
            self.done()
        except BaseException as error:  # noqa: BLE001 - nothing ends the lane's thread
            pass_error(self.on_error, error)
        return True


class Barrier:
    """Somebody waits for everything submitted before.

    Attributes:
        left: The watches it still waits for.
        passed: Set when there are none left.
    """

    def __init__(self) -> None:
        self.left: set[int] = set()
        self.passed = threading.Event()


class Watches:
    """All watches that are not over, and the barriers behind them."""

    def __init__(self) -> None:
        self._pending: dict[int, Watch] = {}
        self._barriers: list[Barrier] = []
        self._serial = 0
        self._interval = FASTEST
        self._next = 0.0
        self._quiet_since = float("-inf")

    def __len__(self) -> int:
        return len(self._pending)

    def pending(self) -> list[Watch]:
        """Those that are not over; for any thread."""
        return list(self._pending.copy().values())

    @property
    def deadline(self) -> float | None:
        """When to poll next; None while there is nothing to poll."""
        return self._next if self._pending else None

    def begin(self, watch: Watch, now: float) -> None:
        """Takes in a watch."""
        if not self._pending:
            # Otherwise a loop that logs one value a step would begin at the shortest interval with each.
            if now - self._quiet_since >= QUIET:
                self._interval = FASTEST
            self._next = now + self._interval
        self._serial += 1
        self._pending[self._serial] = watch

    def wait(self, barrier: Barrier, now: float) -> None:
        """Lets a barrier pass when all that is pending now is over; until then polls more often."""
        # Those of this moment only: a loop that goes on logging would keep a barrier for all of them waiting for ever.
        barrier.left = set(self._pending)
        self._interval = FASTEST
        self._next = min(self._next, now + FASTEST)
        self._barriers.append(barrier)
        self._pass()

    def poll(self, now: float) -> None:
        """Polls the watches, if it is time to."""
        if not self._pending or now < self._next:
            return
        over = []
        # A copy, since those that are over are removed on the way.
        for serial, watch in tuple(self._pending.items()):
            if watch.check():
                del self._pending[serial]
                over.append(serial)
        # One interval for all of them: one wake-up polls every watch.
        self._interval = min(self._interval * 2, SLOWEST_DRAINING if self._barriers else SLOWEST)
        self._next = now + self._interval
        if not self._pending:
            self._quiet_since = now
        for barrier in self._barriers:
            barrier.left.difference_update(over)
        self._pass()

    def _pass(self) -> None:
        for barrier in self._barriers:
            if not barrier.left:
                barrier.passed.set()
        self._barriers = [barrier for barrier in self._barriers if barrier.left]


def pass_error(on_error: Callable[[BaseException], None], error: BaseException) -> None:
    """Hands an error on; a handler that fails has nobody to report that to."""
    try:
        on_error(error)
    except BaseException:  # noqa: BLE001 - as above
        return
