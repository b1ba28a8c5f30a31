"""A line of figures as a line of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

__all__ = ["BLOCKS", "heights", "sparkline", "thinned"]

BLOCKS: Final = "▁▂▃▄▅▆▇█"
_NONE: Final = " "


def thinned(values: Sequence[float], width: int) -> list[float]:
    """At most `width` of some values, evenly spread, the first and the last among them.

    Example:
        >>> thinned([0.0, 1.0, 2.0, 3.0, 4.0], 3)
        [0.0, 2.0, 4.0]
    """
    if len(values) <= width:
        return list(values)
    return [values[n * (len(values) - 1) // (width - 1)] for n in range(width)]


def heights(values: Sequence[float]) -> list[float]:
    """Where each of some values lies between the smallest, 0, and the largest, 1; NaN where it is no number.

    Values that are all the same lie in the middle. An infinity is as high, or low, as the others reach.

    Example:
        >>> heights([1.0, 3.0, 2.0])
        [0.0, 1.0, 0.5]
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    # The difference of two floats may be more than a float, and half of the smallest is none.
    scale = 0.5 if math.isinf(high - low) else 1.0

    def height(value: float) -> float:
        if math.isnan(value):
            return value
        if math.isinf(value):
            return 1.0 if value > 0 else 0.0
        if low == high:
            return 0.5
        return (value * scale - low * scale) / (high * scale - low * scale)

    return list(map(height, values))


def sparkline(values: Sequence[float]) -> str:
    """One character a value, the higher the larger; a blank for what is no number. See `heights`.

    Example:
        >>> sparkline([1.0, 0.5, 0.25, 0.2])
        '█▄▁▁'
    """
    return "".join(
        _NONE if math.isnan(height) else BLOCKS[min(len(BLOCKS) - 1, int(height * len(BLOCKS)))]
        for height in heights(values)
    )
