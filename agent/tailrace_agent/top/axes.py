"""Scales of a chart: which values are where, which of them are written beside it, and how. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["Scale", "figure", "scale_of", "short", "ticks"]

_NICE: Final = (1.0, 2.0, 2.5, 5.0)
_SMALLEST: Final = 5e-324
_LARGEST: Final = 1.7e308
_NOTHING: Final = 1e-290
"""What is nearer to one another than that is one value: its reciprocal is hardly a float any more."""
_UNITS: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Scale(NamedTuple):
    """From values to dots.

    Attributes:
        low: The value at the bottom.
        high: The one at the top, which is larger.
        size: Dots between them, both included.
        log: Whether decades are of one height.
    """

    low: float
    high: float
    size: int
    log: bool = False

    @property
    def dot(self) -> Callable[[float], int]:
        """From a finite value to its dot, counted from the top; one beyond the ends is at the end."""
        end, log = self.size - 1, self.log
        high, low = (math.log10(self.high), math.log10(self.low)) if log else (self.high, self.low)
        # Halved first: the difference of two floats may be more than a float.
        top, dots = high / 2, end / (high / 2 - low / 2)

        def dot(value: float) -> int:
            if log:
                if value <= 0:
                    return end
                value = math.log10(value)
            at = (top - value / 2) * dots
            return 0 if at <= 0 else end if at >= end else round(at)

        return dot


def scale_of(low: float, high: float, size: int, *, log: bool = False) -> Scale:
    """A scale that holds two finite values, and something beside them where they are one.

    With `log` both have to be above 0; else the scale is a plain one.

    Example:
        >>> scale_of(1.0, 1.0, 5).low < 1.0 < scale_of(1.0, 1.0, 5).high
        True
    """
    if log and low > 0:
        if high <= low * 1.0001:
            low, high = max(low / 2, _SMALLEST), min(high * 2, _LARGEST)
        return Scale(low, high, size, log=True)
    if high / 2 - low / 2 > max(abs(high) * 1e-12, _NOTHING):
        return Scale(low, high, size)
    beside = abs(high) / 10 if abs(high) > _NOTHING else 1.0
    return Scale(max(low - beside, -_LARGEST), min(high + beside, _LARGEST), size)


def ticks(scale: Scale, most: int) -> list[float]:
    """At most so many round values on a scale; without a round one its two ends.

    Example:
        >>> ticks(Scale(0.0, 1.0, 40), 3)
        [0.0, 0.5, 1.0]
    """
    found = _decades(scale, most) if scale.log else _round(scale.low, scale.high, most)
    return found if len(found) > 1 else [scale.low, scale.high]


def _decades(scale: Scale, most: int) -> list[float]:
    first, last = math.ceil(math.log10(scale.low) - 1e-9), math.floor(math.log10(scale.high) + 1e-9)
    every = max(1, -(-(last - first + 1) // max(most, 1)))
    return [10.0**n for n in range(first, last + 1, every)]


def _round(low: float, high: float, most: int) -> list[float]:
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return []
    power = 10.0 ** math.floor(math.log10(span / max(1, most)))
    if not power or not math.isfinite(power):  # too small for a float
        return []
    for step in (nice * more * power for more in (1.0, 10.0) for nice in _NICE):  # the finest for which there is room
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [n * step for n in range(first, last + 1)]
    return []


def figure(value: float | None) -> str:
    """A value in at most ten characters.

    Example:
        >>> figure(0.123456), figure(123456789.0), figure(float("nan")), figure(None)
        ('0.1235', '1.235e+08', 'nan', '-')
    """
    if value is None:
        return "-"
    if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def short(number: float) -> str:
    """A count in at most six characters.

    Example:
        >>> short(950), short(12_345), short(10_000_000)
        ('950', '12.3k', '10M')
    """
    for size, unit in _UNITS:
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}" if number == int(number) else f"{number:.3g}"
