"""How long a server's answers are held back from clients that acknowledge what they receive as usual.

`mlflow server` with more than one worker sends the head and the body of an answer apart, and the body only when the
head is acknowledged (Nagle's algorithm, which uvicorn leaves on for sockets that it hands to its workers). Linux
acknowledges after 40 ms. tailrace's own requests acknowledge at once (see `http_bounds`); MLflow's client does not.
"""

from __future__ import annotations

import statistics
import time
from typing import Final

import requests

from tailrace_agent.mlflow.http_bounds import bound, hold

__all__ = ["answer_delay"]

_REQUESTS: Final = 4
_LEAST: Final = 0.02
"""Seconds; less than half of what Linux waits may be anything."""


def answer_delay(uri: str, timeout: float) -> float | None:
    """Asks a server for its health some times over one connection, in both ways in turn.

    Args:
        uri: Of an MLflow server.
        timeout: Of each request, in seconds.

    Returns:
        Seconds, the median; None where nothing is held back, or the server has no such page.
    """
    took: dict[bool, list[float]] = {True: [], False: []}
    with requests.Session() as plain, requests.Session() as quick:
        bound(quick)
        try:
            for number in range(_REQUESTS):
                for session in (plain, quick):
                    began = time.perf_counter()
                    response = session.get(f"{uri.rstrip('/')}/health", timeout=timeout, stream=True)
                    hold(response)
                    if number:  # a connection's first answer is never held back
                        took[session is quick].append(time.perf_counter() - began)
        except requests.RequestException:
            return None  # a gateway that requires a login, or a certificate of its own: others say so
    delay = statistics.median(took[False]) - statistics.median(took[True])
    return delay if delay >= _LEAST else None
