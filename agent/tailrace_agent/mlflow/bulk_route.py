"""The bulk route of a server that has it (`mlflow server --app-name tailrace`), asked for once and then used.

What this module promises:

* A server is asked when it is worth a request: a full `log_batch` waits, or several small ones have gone.
* A route that is not there, or any answer that is neither MLflow's nor the route's, leaves the work to `log_batch`, and
  the server is asked again minutes later. What `log_batch` would meet, too (no answer, no login, a lock), it is left to
  meet and to say.
* Points count as stored when the route says how many there are, and it is the number that was sent.

Loading this module does not import MLflow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import requests

from tailrace_agent.bulk.columns import ROUTE, Offer, Taken, as_columns, encode
from tailrace_agent.decoding import convert
from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.answers import OK, believing
from tailrace_agent.mlflow.run_store import AT_ONCE

__all__ = ["BulkRoute"]

_WORTH_IT: Final = 1000
_SMALL_ONES: Final = 10
_AGAIN_AFTER: Final = 300.0
"""Seconds until a server without the route is asked again."""
_ELSEWHERE: Final = (403, 404, 405, 406, 411, 415, 500, 501)
"""What an answer has for a status that is not about the points, if it is not in MLflow's words."""
_ABSENT: Final = "ENDPOINT_NOT_FOUND"
_Kind = TypeVar("_Kind", Offer, Taken)


class BulkRoute:
    """The route of one server.

    Args:
        receive: Sends one request, by path, method and what `requests` calls its content; raises where none answers.
        answered: The JSON object that an answer is; raises for one that is no success.
        monotonic: The clock.

    Thread safety: any thread may call it; two at once may both ask the server.
    """

    def __init__(
        self,
        receive: Callable[..., requests.Response],
        answered: Callable[[requests.Response, str], Any],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._receive, self._answered, self._monotonic = receive, answered, monotonic
        self._points = 0
        self._small = 0
        self._absent_until = -1.0

    def at_once(self, waiting: int) -> int:
        """Points that one request takes; 0 where the route is not there, or nobody has asked yet."""
        if self._points or self._monotonic() < self._absent_until:
            return self._points
        self._small += waiting > 0
        if waiting >= _WORTH_IT or self._small > _SMALL_ONES:
            self._points = min(self.offered(), AT_ONCE)
            if not self._points:
                self._gone()
        return self._points

    def offered(self) -> int:
        """Asks the server how many points a request of the route may hold; 0 where it is not there."""
        try:
            response = self._receive(ROUTE, "GET")
            return max(0, self._read(response, Offer).points) if response.status_code == OK else 0
        except Exception:  # noqa: BLE001  # whatever it is: `log_batch` meets it next, and is understood
            return 0

    def send(self, run_id: str, points: Sequence[Point]) -> bool:
        """Stores points of one run; False where the route is not there, and nothing was stored.

        Raises:
            Exception: There was no answer, or one that refuses the points, or that cannot be believed.
        """
        if not self._points:
            return False
        content = {
            "data": encode([as_columns(run_id, points)]),
            "extra_headers": {"Content-Type": "application/msgpack"},
        }
        response = self._receive(ROUTE, "POST", **content)
        if response.status_code in _ELSEWHERE and _code(response) in (None, _ABSENT):
            self._gone()
            return False
        taken = self._read(response, Taken)
        with believing(response):
            if taken.stored != len(points):
                raise ValueError(f"the answer to {ROUTE} is about {taken.stored} points, and {len(points)} were sent")
        return True

    def _read(self, response: requests.Response, kind: type[_Kind]) -> _Kind:
        fields = self._answered(response, ROUTE)
        with believing(response):
            return convert(fields, kind)

    def _gone(self) -> None:
        self._points, self._absent_until = 0, self._monotonic() + _AGAIN_AFTER


def _code(response: requests.Response) -> str | None:
    """MLflow's code in an answer; None in one that is not MLflow's."""
    try:
        fields = json.loads(response.content)
    except ValueError:
        return None
    code = fields.get("error_code") if isinstance(fields, dict) else None
    return None if code is None else str(code)
