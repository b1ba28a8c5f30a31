"""A stand-in for training: steps of pure Python that hold the GIL, and one call with five floats after each."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

from tailrace._runs.run_part import core_of

__all__ = ["Step", "block", "call_times", "drained", "empty", "loop", "pairs", "timer_cost", "undisturbed"]

LogCall = Callable[..., Any]

_clock = time.perf_counter_ns


def empty(metrics: object = None, /, *, step: int | None = None, **values: object) -> None:
    """What any function with the signature of `log` costs."""


def loop(call: LogCall, calls: int) -> float:
    """Seconds a call in a tight loop, the loop itself included."""
    began = _clock()
    for step in range(calls):
        call(step=step, loss=0.25, accuracy=0.5, lr=0.001, grad_norm=1.5, throughput=1234.5)
    return (_clock() - began) / calls / 1e9


def undisturbed(measure: Callable[[], float], tries: int = 50) -> float:
    """A measurement during which the kernel did not give the processor to others; the last one if there was none."""
    found = 0.0
    for _ in range(tries):
        before = _preemptions()
        found = measure()
        if _preemptions() == before:
            break
    return found


def call_times(call: LogCall, calls: int, between: Callable[[], object] | None = None) -> list[float]:
    """Seconds that each of these calls took, less the timer's own cost; `between` runs before each, untimed."""
    took = [0] * calls
    own = timer_cost()
    for step in range(calls):
        if between is not None:
            between()
        began = _clock()
        call(step=step, loss=0.25, accuracy=0.5, lr=0.001, grad_norm=1.5, throughput=1234.5)
        took[step] = _clock() - began
    return [(ns - own) / 1e9 for ns in took]


def timer_cost() -> int:
    """Nanoseconds that reading the clock twice takes by itself."""
    found = [0] * 2001
    for turn in range(len(found)):
        began = _clock()
        found[turn] = _clock() - began
    return int(statistics.median(found))


class Step:
    """A step of about `seconds` of pure Python.

    Args:
        seconds: Of one call.
        weights: Numbers that it walks over, at 32 bytes each. With 65,536 of them the processor's own caches forget
            everything else, as they do in real training.
    """

    def __init__(self, seconds: float, weights: int = 1024) -> None:
        self._weights = [float(weight) for weight in range(weights)]
        self._at = 0
        self._count = 2000
        for _ in range(5):
            took = statistics.median(self._timed() for _ in range(15))
            self._count = max(1, round(self._count * seconds / took))

    def _timed(self) -> float:
        began = _clock()
        self()
        return (_clock() - began) / 1e9

    def __call__(self) -> float:
        """One step."""
        weights, at, total = self._weights, self._at, 0.0
        last = len(weights) - 1
        for _ in range(self._count):
            total = total * 0.5 + weights[at]
            # 7 and a power of two have no common factor, so all weights are visited.
            at = (at + 7) & last
        self._at = at
        return total


def block(step: Step, steps: int, call: LogCall | None) -> float:
    """Seconds a step, for `steps` steps with a call after each, or without one."""
    began = _clock()
    if call is None:
        for _ in range(steps):
            step()
    else:
        for number in range(steps):
            step()
            call(step=number, loss=0.25, accuracy=0.5, lr=0.001, grad_norm=1.5, throughput=1234.5)
    return (_clock() - began) / steps / 1e9


def pairs(step: Step, call: LogCall, rounds: int, steps: int = 2) -> dict[str, list[float]]:
    """Slowdown of a step by the call after it, in seconds, from blocks with and without calls, in turn.

    `calm` holds those pairs in which the kernel did not take the processor away from this thread for others. Waiting
    for the GIL is no such thing, so what threads of this process steal stays in.
    """
    every, calm = [], []
    # The first two warm up.
    for turn in range(rounds + 2):
        before = _preemptions()
        if turn % 2:
            logged, bare = block(step, steps, call), block(step, steps, None)
        else:
            bare, logged = block(step, steps, None), block(step, steps, call)
        if turn >= 2:
            every.append(logged - bare)
            if _preemptions() == before:
                calm.append(logged - bare)
    # On a machine that is never calm the undisturbed pairs would be a chance selection.
    return {"all": every, "calm": calm if len(calm) > rounds // 5 else every}


def _preemptions() -> int:
    # RUSAGE_THREAD is Linux's own.
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nivcsw


def drained(run: Any, patience: float = 60.0) -> bool:
    """Waits until the agent has taken over what the ring holds; whether it did. No delivery is waited for."""
    ring = core_of(run).connection.open_ring()
    deadline = time.monotonic() + patience
    while ring.unread and time.monotonic() < deadline:
        time.sleep(0.02)
    return not ring.unread
