"""Each metric's smallest and largest value, noted with a run at its end: a server keeps last values only.

So a comparison of runs over HTTP need not read every point of their histories. What this module promises:

* A note is of all that was delivered, or there is none: not while the run goes on, not where a point was refused or
  dropped, not once another session writes to the same run (`SHARED`).
* A metric whose last point in MLflow is not the last one of the note, or lies outside of it, was written to by somebody
  else since; its note does not count. What this cannot detect is a foreign point that does not come last: of an earlier
  step, or of the same step and an earlier time (or the same millisecond, and not larger).

Pure functions over plain data; no I/O.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from tailrace_agent.decoding import convert
from tailrace_agent.ipc.records import Point
from tailrace_agent.text.directions import is_of_another

__all__ = [
    "LARGEST",
    "NOTE",
    "NO_NOTE",
    "SHARED",
    "SYSTEM_KEYS",
    "Extreme",
    "known",
    "machine_last",
    "of",
    "of_program",
    "to_text",
    "unbounded",
]

NOTE: Final = "tailrace.extremes"
"""The tag that holds a run's note."""
NO_NOTE: Final = "{}"
"""Its text while there is none, since tags cannot be taken away in a batch."""
SHARED: Final = "tailrace.shared"
"""The tag of a run that a session writes to which has not created it. It stays."""

_MOST_CHARACTERS: Final = 5000
"""Of a tag's value; the smallest limit of the servers that there are (MLflow 2: 5,000, MLflow 3: 8,000)."""
SYSTEM_KEYS: Final = "system/"
"""What the names of the machine's metrics begin with."""
LARGEST: Final = sys.float_info.max
"""What MLflow's databases put in the place of an infinity."""


class Extreme(NamedTuple):
    """What is noted of one metric.

    Attributes:
        n: Points.
        low: Smallest value; None where there was nothing but NaN.
        high: Largest value, likewise.
        step: Step of the last point, as MLflow orders them: by step, then by time.
        timestamp: Its time in milliseconds since the epoch.
    """

    n: int
    low: float | None
    high: float | None
    step: int
    timestamp: int


def of(points: Iterable[Point]) -> dict[str, Extreme]:
    """The extremes of some points, by key.

    Example:
        >>> of([Point("loss", 0.5, 1000, 0), Point("loss", 0.25, 2000, 1)])
        {'loss': Extreme(n=2, low=0.25, high=0.5, step=1, timestamp=2000)}
    """
    values: dict[str, list[float]] = {}
    last: dict[str, tuple[int, int]] = {}
    for key, value, timestamp, step in points:
        at = (step, timestamp)
        if key not in values:
            values[key], last[key] = [value], at
            continue
        values[key].append(value)
        last[key] = max(last[key], at)
    found = {}
    for key, every in values.items():
        numbers = [value for value in every if value == value]  # noqa: PLR0124 - NaN alone differs from itself
        low, high = (min(numbers), max(numbers)) if numbers else (None, None)
        found[key] = Extreme(len(every), low, high, *last[key])
    return found


def to_text(extremes: Mapping[str, Extreme]) -> str:
    """The tag's value: as many metrics as it has room for, the program's own before those of the machine."""
    entries: list[str] = []
    room = _MOST_CHARACTERS - 1  # two braces, less the comma that the last entry has not
    for key in sorted(extremes, key=machine_last):
        _, low, high, step, timestamp = extremes[key]
        entry = f"{json.dumps(key)}:{json.dumps([low, high, step, timestamp], separators=(',', ':'))}"
        if len(entry) < room:  # one that is too long leaves the room to shorter ones
            entries.append(entry)
            room -= len(entry) + 1
    return f"{{{','.join(entries)}}}"


def of_program(key: str) -> bool:
    """Whether a metric is the program's own: neither one of the machine, nor the best value of another one."""
    return not key.startswith(SYSTEM_KEYS) and not is_of_another(key)


def machine_last(key: str) -> tuple[bool, str]:
    """For sorting: the program's own metrics by name, then those of the machine."""
    return key.startswith(SYSTEM_KEYS), key


def known(tags: Mapping[str, str], last: Mapping[str, tuple[int, int, float]]) -> dict[str, tuple[float, float] | None]:
    """Smallest and largest values by key, as far as a run's note can be believed; None: there was nothing but NaN.

    Args:
        tags: The run's.
        last: Step, time and value of the last point of each metric, as MLflow has them.
    """
    found: dict[str, tuple[float, float] | None] = {}
    if SHARED in tags:
        return found
    with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):  # edited, or cut off by a server
        for key, (low, high, step, timestamp) in _noted(tags.get(NOTE, NO_NOTE)).items():
            if key not in last or last[key][:2] != (step, timestamp):
                continue
            value = unbounded(last[key][2])
            nan = math.isnan(value)
            if low is None or high is None:
                if low is high and nan:
                    found[key] = None
            elif nan or unbounded(low) <= value <= unbounded(high):
                found[key] = (unbounded(low), unbounded(high))
    return found


def _noted(text: str) -> dict[str, tuple[float | None, float | None, int, int]]:
    # Not msgspec's own decoder: it knows no Infinity.
    return convert(json.loads(text), dict[str, tuple[float | None, float | None, int, int]])


def unbounded(value: float) -> float:
    """An infinity where there is `LARGEST` in its place."""
    return math.copysign(math.inf, value) if abs(value) == LARGEST else value
