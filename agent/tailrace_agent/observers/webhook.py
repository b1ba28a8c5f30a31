"""The webhook: alerts posted as JSON to somebody's URL, for two minutes at most, and never in anybody's way.

The URL is a secret: only its host's name gets into a log line. That is why no text of an HTTP library's errors does,
which quote the whole URL. What waits here is in memory; what an agent that is killed has not posted is lost.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tailrace_agent.log import Log
from tailrace_agent.retry import IDLE, Backoff
from tailrace_agent.settings.uris import mask_url
from tailrace_agent.text.quoting import quoted

__all__ = ["Webhook"]

_TIMEOUT: Final = 10.0  # seconds for one request
_GIVE_UP_AFTER: Final = 120.0
_MOST: Final = 1000
_MAY_PASS: Final = frozenset({408, 425, 429})  # time-out, too early, too many: all other 4xx are about what was sent


class _Waiting(NamedTuple):
    title: str
    payload: Callable[[], dict[str, Any]]
    until: float


class _Failed(NamedTuple):
    alert: _Waiting
    reason: str
    may_pass: bool


class Webhook:
    """Posts to one URL.

    Args:
        url: Where to.
        log: Where operators read.
        report: Called with a line for the user when an alert is given up.
        monotonic: The clock of all deadlines.

    Thread safety: `step` from one thread, `put`, `pending` and `finish` from any.
    """

    def __init__(
        self, url: str, log: Log, report: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._url, self._log, self._report, self._monotonic = url, log, report, monotonic
        self._waiting: deque[_Waiting] = deque()  # in the order of their deadlines
        self._posted: _Waiting | None = None
        """The one that is being posted. It is none of those that wait, so that nobody else gives it up."""
        self._backoff = Backoff(base=1.0, cap=30.0)
        self._lock = threading.Lock()  # of these two; nothing slow happens under it
        self._posting = threading.Lock()  # `finish` may come while `step` is posting, and no alert must go out twice

    @property
    def pending(self) -> bool:
        """Whether something waits, or is being posted."""
        with self._lock:
            return self._posted is not None or bool(self._waiting)

    def put(self, title: str, payload: Callable[[], dict[str, Any]]) -> None:
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
        failed = self._post_oldest()
        if failed is None:
            self._backoff.worked()
            return now
        reason = failed.reason
        self._log.warning(
            "webhook failed", host=mask_url(self._url), reason=reason, failures=self._backoff.failures + 1
        )
        if not failed.may_pass:  # the next one is tried at once
            self._give_up(failed.alert, reason)
            return now
        for late in self._late():
            self._give_up(late, reason)
        return self._backoff.failed(self._monotonic())

    def finish(self, seconds: float) -> None:
        """The agent ends: one try for each that waits, until one fails that would have been tried again."""
        deadline = self._monotonic() + seconds
        while self.pending and self._monotonic() < deadline:
            failed = self._post_oldest()
            if failed is not None and failed.may_pass:
                self._log.error(
                    "alerts not posted", host=mask_url(self._url), reason=failed.reason, n=len(self._waiting)
                )
                return
            if failed is not None:
                self._give_up(failed.alert, failed.reason)

    def _give_up(self, alert: _Waiting, reason: str) -> None:
        self._log.error("alert not posted", host=mask_url(self._url), title=alert.title, reason=reason)
        self._report(f"the alert {quoted(alert.title)} could not be posted to {mask_url(self._url)}: {reason}")

    def _late(self) -> list[_Waiting]:
        """Takes out what has waited for too long."""
        late = []
        with self._lock:
            while self._waiting and self._waiting[0].until <= self._monotonic():
                late.append(self._waiting.popleft())
        return late

    def _post_oldest(self) -> _Failed | None:
        """Posts the oldest, which is gone unless its failure may pass; None when there was no failure."""
        with self._posting:
            with self._lock:
                if not self._waiting:
                    return None
                alert = self._posted = self._waiting.popleft()
            stays = True  # also when what is raised is none of the errors that are known
            try:
                reason, may_pass = self._post(alert)
                stays = reason is not None and may_pass
            finally:
                with self._lock:
                    self._posted = None
                    if stays:
                        self._waiting.appendleft(alert)
        return None if reason is None else _Failed(alert, reason, may_pass)

    def _post(self, alert: _Waiting) -> tuple[str | None, bool]:
        """Why it could not be posted, or None; and whether that may pass."""
        import requests
        import urllib3

        from tailrace_agent.mlflow.http_bounds import bound

        try:
            with requests.Session() as session:
                bound(session)
                # `stream`: the status is all that counts, so the body is not read.
                with session.post(
                    self._url, json=alert.payload(), timeout=_TIMEOUT, allow_redirects=False, stream=True
                ) as answer:
                    status = answer.status_code
        except (requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError, UnicodeError) as error:
            return f"{type(error).__name__}: no such address can be", False
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return type(error).__name__, True
        return None if 200 <= status < 300 else f"HTTP {status}", status >= 500 or status in _MAY_PASS
