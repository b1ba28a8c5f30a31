"""A line of figures as a line of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

__all__ = ["BLOCKS", "sparkline", "thinned"]

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


def sparkline(values: Sequence[float]) -> str:
    """One character a value, the higher the larger; a blank for what is no number.

    Values that are all the same stand in the middle. An infinity is as high, or low, as the others reach.

    Example:
        >>> sparkline([1.0, 0.5, 0.25, 0.2])
        '█▄▁▁'
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)

    def drawn(value: float) -> str:
        if math.isnan(value):
            return _NONE
        if math.isinf(value):
            return BLOCKS[-1] if value > 0 else BLOCKS[0]
        if low == high:
            return BLOCKS[len(BLOCKS) // 2]
        # Halved first: the difference of two floats may be more than a float.
        share = (value / 2 - low / 2) / (high / 2 - low / 2)
        return BLOCKS[min(len(BLOCKS) - 1, int(share * len(BLOCKS)))]

    return "".join(map(drawn, values))
