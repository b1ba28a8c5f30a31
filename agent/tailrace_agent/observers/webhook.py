"""The webhook: alerts posted as JSON to somebody's URL.

The URL is a secret: only its host's name gets into a log line. That is why no text of an HTTP library's errors does,
which quote the whole URL.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from tailrace_agent.log import Log
from tailrace_agent.observers.outbox import Outbox
from tailrace_agent.settings.uris import mask_url

__all__ = ["Webhook"]

_MAY_PASS: Final = frozenset({408, 425, 429})  # time-out, too early, too many: all other 4xx are about what was sent


class Webhook(Outbox[dict[str, Any]]):
    """Posts to one URL.

    Args:
        url: Where to.
        log: Where operators read.
        report: Called with a line for the user when an alert is given up.
        monotonic: The clock of all deadlines.

    Thread safety: as `Outbox`.
    """

    def __init__(
        self, url: str, log: Log, report: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(mask_url(url), log, report, monotonic)
        self._url = url

    def _post(self, payload: dict[str, Any], timeout: float) -> tuple[str | None, bool]:
        import requests
        import urllib3

        from tailrace_agent.mlflow.http_bounds import bound

        try:
            with requests.Session() as session:
                bound(session)
                # `stream`: the status is all that counts, so the body is not read.
                with session.post(
                    self._url, json=payload, timeout=timeout, allow_redirects=False, stream=True
                ) as answer:
                    status = answer.status_code
        except (requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError, UnicodeError) as error:
            return f"{type(error).__name__}: no such address can be", False
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return type(error).__name__, True
        return None if 200 <= status < 300 else f"HTTP {status}", status >= 500 or status in _MAY_PASS
