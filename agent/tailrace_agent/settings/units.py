"""Values as people write and read them: numbers with units (`64 KiB`, `500ms`, `10 min`), flags, words, paths."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Final

__all__ = [
    "ago",
    "as_flag",
    "as_number",
    "as_path",
    "as_text",
    "as_whole",
    "as_word",
    "by_pattern",
    "duration",
    "finite",
    "parse_duration",
    "parse_share",
    "parse_size",
]


def parse_size(value: object) -> int:
    """Bytes from a number, or from text such as `8MB` (powers of 1000) or `64 KiB` (powers of 1024).

    Raises:
        ValueError: It is no size.
    """
    if isinstance(value, int) and not isinstance(value, bool):  # first: as a float a large int would be rounded
        return value
    number, unit = _split(value)
    factor = _SIZE_UNITS.get(unit)
    if factor is None or not (number * factor).is_integer():
        raise ValueError("no size in bytes")
    return int(number * factor)


def parse_duration(value: object) -> float:
    """Seconds from a number, or from text such as `500ms`, `30s`, `2min`, `1h`.

    Raises:
        ValueError: It is no duration.
    """
    number, unit = _split(value)
    factor = _DURATION_UNITS.get(unit)
    if factor is None:
        raise ValueError("no duration")
    return finite(number * factor)


def parse_share(value: object) -> float:
    """A share of a whole from a number, or from text such as `0.1 %`.

    Raises:
        ValueError: It is none.
    """
    number, unit = _split(value)
    if unit not in ("", "%"):
        raise ValueError("no share")
    return finite(number / 100 if unit == "%" else number)


def by_pattern(value: object, parse: Callable[[object], object]) -> dict[str, object]:
    """Values by pattern, in order: a mapping, text such as `train/*=10, grad/*=100`, or one value for all names (`*`).

    Args:
        value: What was given.
        parse: Reads one of the values.

    Raises:
        ValueError: It is nothing of the kind.

    Example:
        >>> by_pattern("train/*=500ms, *=2s", parse_duration)
        {'train/*': 0.5, '*': 2.0}
    """
    if isinstance(value, str) and "=" in value:
        # From the right: a metric's key may hold a `=`.
        entries = [entry.rpartition("=") for entry in value.split(",") if entry.strip()]
        value = {pattern.strip(): number.strip() for pattern, _, number in entries}
    if not isinstance(value, Mapping):
        value = {"*": value}
    if not all(isinstance(pattern, str) and pattern for pattern in value):
        raise ValueError("no pattern")
    return {pattern: parse(number) for pattern, number in value.items()}


_SIZE_UNITS: Final = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_DURATION_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
_NUMBER_AND_UNIT = re.compile(
    r"\s*([+-]?[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)\s*([a-z]*|%)\s*", re.IGNORECASE | re.ASCII
)


def _split(value: object) -> tuple[float, str]:
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None:
            raise ValueError("no number with a unit")
        return finite(float(match[1])), match[2].lower()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("no number")
    return finite(value), ""


def finite(number: float) -> float:
    """The number as a float.

    Raises:
        ValueError: It is NaN, infinite, or beyond all floats.
    """
    try:
        number = float(number)
    except OverflowError:
        number = math.inf  # an int beyond all floats
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def as_number(value: object) -> object:
    """A float from text; finite."""
    return finite(float(value)) if isinstance(value, (str, float)) else value


def as_whole(value: object) -> object:
    """An int from text."""
    return int(value) if isinstance(value, str) else value


_FLAGS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def as_flag(value: object) -> object:
    """True or False from one of the usual words; None from any other text."""
    return _FLAGS.get(value.strip().lower()) if isinstance(value, str) else value


def as_word(value: object) -> object:
    """A text without case and blanks around it."""
    return value.strip().lower() if isinstance(value, str) else value


def as_text(value: object) -> object:
    """A text that is not empty, and that may be a path: without NUL."""
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("empty, or with a NUL")
    return value


def as_path(value: object) -> object:
    """A path as text, the home directory spelled out."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111 - it must stay a str


def size_text(n: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError  # GiB returns


def duration(seconds: float) -> str:
    """Seconds for people: `0.3 s`, `12 s`, `3 min`, `2 h`, `5 d`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for limit, unit, factor in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / factor:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def ago(at: float, now: float) -> str:
    """When something was."""
    return "just now" if now - at < 1 else f"{duration(now - at)} ago"
