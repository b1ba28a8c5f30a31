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

_TIMEOUT: Final = 10.0
_GIVE_UP_AFTER: Final = 120.0
_MOST: Final = 1000
_MAY_PASS: Final = frozenset({408, 425, 429})


class _Waiting(NamedTuple):
    title: str
    payload: Callable[[], dict[str, Any]]
    until: float


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
        # Bounded: an endpoint that is down must not grow the agent. The oldest goes.
        self._waiting: deque[_Waiting] = deque(maxlen=_MOST)
        self._backoff = Backoff(base=1.0, cap=30.0)
        self._posting = threading.Lock()

    @property
    def pending(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def put(self, title: str, payload: Callable[[], dict[str, Any]]) -> None:
        """Something to post; `payload` is called when it is posted."""
        self._waiting.append(_Waiting(title, payload, self._monotonic() + _GIVE_UP_AFTER))

    def step(self, now: float) -> float:
        """Posts one alert; when to be called again (monotonic seconds)."""
        if not self._waiting:
            return now + IDLE
        if now < self._backoff.ready_at:
            return self._backoff.ready_at
        reason, may_pass = self._post()
        if reason is None:
            self._backoff.worked()
            return now
        self._log.warning(
            "webhook failed", host=mask_url(self._url), reason=reason, failures=self._backoff.failures + 1
        )
        if not may_pass:
            self._give_up(reason)
            return now
        while self._waiting and self._waiting[0].until <= self._monotonic():
            self._give_up(reason)
        return self._backoff.failed(self._monotonic())

    def _give_up(self, reason: str) -> None:
        title = self._waiting.popleft().title
        self._log.error("alert not posted", host=mask_url(self._url), title=title, reason=reason)
        self._report(f"the alert {quoted(title)} could not be posted to {mask_url(self._url)}: {reason}")

    def finish(self, seconds: float) -> None:
        """The agent ends: one try for each that waits."""
        deadline = self._monotonic() + seconds
        while self._waiting and self._monotonic() < deadline:
            reason, _ = self._post()
            if reason is not None:
                self._log.error("alerts not posted", host=mask_url(self._url), reason=reason, n=len(self._waiting))
                return

    def _post(self) -> tuple[str | None, bool]:
        """Why the oldest could not be posted, and whether that may pass; it is gone when it could."""
        import requests
        import urllib3

        from tailrace_agent.mlflow.http_bounds import bound

        # `finish` may come while `step` is posting, and no alert must go out twice.
        with self._posting:
            if not self._waiting:
                return None, True
            try:
                with requests.Session() as session:
                    bound(session)
                    # `stream`: the status is all that counts, so the body is not read.
                    with session.post(
                        self._url, json=self._waiting[0].payload(), timeout=_TIMEOUT, allow_redirects=False, stream=True
                    ) as answer:
                        status = answer.status_code
            except (requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError, UnicodeError) as error:
                return f"{type(error).__name__}: no such address can be", False
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                return type(error).__name__, True
            if 200 <= status < 300:
                self._waiting.popleft()
                return None, True
            return f"HTTP {status}", status >= 500 or status in _MAY_PASS
