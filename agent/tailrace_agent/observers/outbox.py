"""Alerts on their way to one address: in their order, for two minutes at most, and never in anybody's way.

An address is a secret, so a log line has only what its owner says may be shown. What waits here is in memory; what an
agent that is killed has not posted is lost.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from tailrace_agent.log import Log
from tailrace_agent.retry import IDLE, Backoff
from tailrace_agent.text.quoting import quoted

__all__ = ["Outbox"]

_TIMEOUT: Final = 10.0  # seconds for one request
_GIVE_UP_AFTER: Final = 120.0
_MOST: Final = 1000

P = TypeVar("P")


class _Waiting(NamedTuple, Generic[P]):
    title: str
    payload: Callable[[], P]
    until: float


class _Failed(NamedTuple, Generic[P]):
    alert: _Waiting[P]
    reason: str
    may_pass: bool


class Outbox(Generic[P]):
    """What waits for one address. What it is and how it gets there, whoever extends this says: `_post`.

    Args:
        address: Where to, as it may be shown.
        log: Where operators read.
        report: Called with a line for the user when an alert is given up.
        monotonic: The clock of all deadlines.

    Thread safety: `step` from one thread, `put`, `pending` and `finish` from any.
    """

    def __init__(
        self, address: str, log: Log, report: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._address, self._log, self._report, self._monotonic = address, log, report, monotonic
        self._waiting: deque[_Waiting[P]] = deque()  # in the order of their deadlines
        self._posted: _Waiting[P] | None = None
        """The one that is being posted. It is none of those that wait, so that nobody else gives it up."""
        self._backoff = Backoff(base=1.0, cap=30.0)
        self._lock = threading.Lock()  # of these two; nothing slow happens under it
        self._posting = threading.Lock()  # `finish` may come while `step` is posting, and no alert must go out twice

    @property
    def pending(self) -> bool:
        """Whether something waits, or is being posted."""
        with self._lock:
            return self._posted is not None or bool(self._waiting)

    def put(self, title: str, payload: Callable[[], P]) -> None:
        """Something to post; `payload` is called when it is posted."""
        with self._lock:
            # Bounded: an endpoint that is down must not grow the agent.
            oldest = self._waiting.popleft() if len(self._waiting) >= _MOST else None
            self._waiting.append(_Waiting(title, payload, self._monotonic() + _GIVE_UP_AFTER))
        if oldest is not None:
            self._give_up(oldest, f"{_MOST:,} newer ones wait")

    def step(self, now: float) -> float:
        """Posts one alert; when to be called again (monotonic seconds)."""
        if not self.pending:
            return now + IDLE
        if now < self._backoff.ready_at:
            return self._backoff.ready_at
        failed = self._post_oldest(_TIMEOUT)
        if failed is None:
            self._backoff.worked()
            return now
        reason = failed.reason
        self._log.warning("posting failed", to=self._address, reason=reason, failures=self._backoff.failures + 1)
        if not failed.may_pass:  # the next one is tried at once
            self._give_up(failed.alert, reason)
            return now
        for late in self._late():
            self._give_up(late, reason)
        return self._backoff.failed(self._monotonic())

    def finish(self, seconds: float) -> None:
        """The agent ends: one try for each that waits, until one fails that would have been tried again."""
        deadline = self._monotonic() + seconds
        while self.pending and (left := deadline - self._monotonic()) > 0:
            failed = self._post_oldest(min(left, _TIMEOUT), wait=left)
            if failed is not None and failed.may_pass:
                self._log.error("alerts not posted", to=self._address, reason=failed.reason, n=len(self._waiting))
                return
            if failed is not None:
                self._give_up(failed.alert, failed.reason)

    def _give_up(self, alert: _Waiting[P], reason: str) -> None:
        self._log.error("alert not posted", to=self._address, title=alert.title, reason=reason)
        self._report(f"the alert {quoted(alert.title)} could not be posted to {self._address}: {reason}")

    def _late(self) -> list[_Waiting[P]]:
        """Takes out what has waited for too long."""
        late = []
        with self._lock:
            while self._waiting and self._waiting[0].until <= self._monotonic():
                late.append(self._waiting.popleft())
        return late

    def _post_oldest(self, timeout: float, wait: float = -1) -> _Failed[P] | None:
        """Posts the oldest, which is gone unless its failure may pass; None when there was no failure."""
        if not self._posting.acquire(timeout=wait):
            return None
        try:
            with self._lock:
                if not self._waiting:
                    return None
                alert = self._posted = self._waiting.popleft()
            stays = True  # also when what is raised is none of the errors that are known
            try:
                reason, may_pass = self._post(alert.payload(), timeout)
                stays = reason is not None and may_pass
            finally:
                with self._lock:
                    self._posted = None
                    if stays:
                        self._waiting.appendleft(alert)
        finally:
            self._posting.release()
        return None if reason is None else _Failed(alert, reason, may_pass)

    def _post(self, payload: P, timeout: float) -> tuple[str | None, bool]:
        """Why it could not be posted within some seconds, or None; and whether that may pass."""
        raise NotImplementedError
