"""The way to MLflow: each call of a sink, with what can happen to a request and its answer.

The errors are those that `mlflow.errors` makes of such answers; its own tests prove that it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulation.clock import Clock
from simulation.faults import Points
from simulation.model import Model
from tailrace_agent.errors import Unavailable

__all__ = ["ANSWERS", "Network"]

_READS = {"fetch_artifact", "count_metrics", "find_runs"}
_WRITES = {"open_run", "log_batch", "log_artifact", "log_artifacts", "log_model", "end_run", "discard_twins"}
ANSWERS: dict[str, Callable[[float], Unavailable]] = {
    "refused": lambda _: Unavailable("connection refused", away=True),
    "reset": lambda _: Unavailable("the connection was cut off"),
    "slow": lambda _: Unavailable("no answer in time", too_slow=True),
    "429": lambda wait: Unavailable("too many requests", wait, 429, away=True),
    "503": lambda wait: Unavailable("service unavailable", wait, 503, away=True),
    "500": lambda _: Unavailable("internal error", None, 500),
    "redirect": lambda _: Unavailable("it sends on to /login", None, 302, away=True),
    "garbage": lambda _: Unavailable("an answer that is none of MLflow's", None, 200),
    "login": lambda _: Unavailable("it asks for other credentials", None, 401, away=True),
}
"""What comes in the place of an answer, by name; with the seconds that `Retry-After` says."""


class Network:
    """One store behind a network.

    Attributes:
        down: The answer that everybody gets for now, by its name, or None.
        requests: How many calls were made.
        stubborn: How often the next artifact that is uploaded does not get through, though others do.
    """

    def __init__(self, model: Model, clock: Clock, points: Points, trace: Callable[..., None]) -> None:
        self._model, self._clock, self._points, self._trace = model, clock, points, trace
        self._late: list[tuple[float, Callable[[], Any]]] = []
        self.down: str | None = None
        self.requests = 0
        self.stubborn = 0
        self._stuck: str | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if name not in _READS | _WRITES:
            return found
        return lambda *args, **kwargs: self._call(name, lambda: self._upload(name, args) or found(*args, **kwargs))

    def _upload(self, method: str, args: tuple[Any, ...]) -> None:
        """An artifact that the store stumbles over."""
        if method in ("log_artifact", "log_artifacts") and self.stubborn and self._stuck in (None, str(args[1])):
            self._stuck, self.stubborn = str(args[1]), self.stubborn - 1
            self._stuck = self._stuck if self.stubborn else None
            raise ANSWERS["500"](0.0)

    def next_late(self) -> float | None:
        """When the next request arrives that was under way for long."""
        return min((at for at, _ in self._late), default=None)

    def arrive(self) -> None:
        """What was under way for long arrives."""
        due = [entry for entry in self._late if entry[0] <= self._clock.now]
        self._late = [entry for entry in self._late if entry[0] > self._clock.now]
        for _, request in due:
            self._trace("arrives late", answer=_outcome(request))

    def _call(self, method: str, request: Callable[[], Any]) -> Any:
        self.requests += 1
        self._clock.now += 0.001
        struck = self._points.reach("request")
        fault, details = struck or ("", ())
        if self.down is not None:
            fault, details = self.down, (5.0,)
        self._trace("request", method=method, fault=fault)
        if fault in ("lost", "killed after"):
            outcome = _outcome(request)
            self._trace("answer lost", answer=outcome)
            if fault == "killed after":
                self._points.kill(f"{method} was answered")
            raise ANSWERS[details[0]](0.0)
        if fault == "late":
            self._late.append((self._clock.now + details[0], request))
            raise ANSWERS["slow"](0.0)
        if fault:
            raise ANSWERS[fault](details[0] if details else 0.0)
        answer = request()
        self._points.reach("answer")
        return answer


def _outcome(request: Callable[[], Any]) -> str:
    """Executes a request whose answer nobody gets."""
    try:
        request()
    except Exception as error:  # noqa: BLE001 - it would have been the answer
        return repr(error)
    return "stored"
