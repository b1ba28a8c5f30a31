"""A run of another tracker, as far as it has come, as plain data."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailrace_agent.ipc.records import Point

__all__ = ["ForeignRun", "as_float", "flat", "origin_of", "place_of"]


_PART, _PARTS = 50, 16
"""Characters of a directory's or file's name, of up to four bytes each, and how deep they lie."""


@dataclass
class ForeignRun:
    """One run.

    Attributes:
        origin: What it is known by: the same at each import, of letters, digits, `_` and `-`.
        name: Its name.
        experiment: The name of its experiment.
        start_time: Milliseconds since the epoch.
        end_time: The same; None while it goes on.
        status: FINISHED, FAILED or KILLED, once it has ended.
        state: Another text whenever anything of it has changed.
        points: Its points, those of each metric always in the same order; called again, those that have come since.
        params: Of any length.
        tags: Of any length.
        files: Files, and the directory of the run in which each is to lie (None: its root).
        texts: Contents of files that are made for it, by their paths in the run.
        user: Whose it is.
        left_out: What of it MLflow has no place for, and how often: `histograms`.
        ordered: Whether the order of `points` holds when it has grown. Several files that grow at once have none.
    """

    origin: str
    name: str
    experiment: str
    start_time: int
    end_time: int | None
    state: str
    points: Callable[[], Iterable[Point]]
    status: str = "FINISHED"
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[tuple[Path, str | None]] = ()
    texts: Mapping[str, bytes] = field(default_factory=dict)
    user: str = "unknown"
    left_out: Mapping[str, int] = field(default_factory=dict)
    ordered: bool = True


def origin_of(*parts: str) -> str:
    """What a run is known by, from what identifies it where it comes from."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]


def as_float(value: float) -> float:
    """A number of JSON; an int that is too large for a float is an infinity."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def place_of(name: str) -> str:
    """A foreign name as a path for a file in a run; two names never have the same one.

    Example:
        >>> place_of("eval/answers"), place_of("../eval?")
        ('eval/answers', 'eval_-b0d73500')
    """
    parts = (re.sub(r"[^\w.\- ]+", "_", part).strip(". ")[:_PART] for part in name.split("/"))
    place = "/".join([part for part in parts if part][-_PARTS:]) or "untitled"
    return place if place == name else f"{place}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def flat(values: Mapping[str, Any], separator: str = ".", above: str = "") -> dict[str, Any]:
    """Nested values by the names of all levels."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, separator, f"{name}{separator}")
        else:
            found[name] = value
    return found
