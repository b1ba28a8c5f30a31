"""The course of a metric as a small picture, for those who read an alert far from any screen with charts.

Drawn with Pillow, which MLflow brings by way of matplotlib; where it is missing there is no picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Final

from tailrace_agent.ipc.curves import Span
from tailrace_agent.text.sparkline import heights

__all__ = ["picture"]

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 20, 40, 34
_PAPER, _INK, _QUIET, _LINE, _BAND = "#ffffff", "#1f2328", "#8c959f", "#2f81f7", "#cfe3fd"
_LONGEST: Final = 60  # characters


def picture(key: str, line: Sequence[Span]) -> bytes | None:
    """A PNG of a metric's course: its last values as a line, and what lies between its peaks as a band.

    Args:
        key: The metric's name.
        line: Its spans, by step.

    Returns:
        None where there is nothing to draw, or nothing to draw it with.
    """
    drawn = [span for span in line if math.isfinite(span.low) and math.isfinite(span.high)]
    if len(drawn) < 2:
        return None
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        return None
    low, high = min(span.low for span in drawn), max(span.high for span in drawn)
    across = heights([float(span.step) for span in drawn])
    # All three on one scale.
    up = heights([*(s.low for s in drawn), *(s.high for s in drawn), *(s.last for s in drawn)])
    n = len(drawn)

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - y * (_HEIGHT - _TOP - _BOTTOM)

    image = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    below, above = (
        [at(x, y) for x, y in zip(across, up, strict=False)],
        [at(x, y) for x, y in zip(across, up[n : 2 * n], strict=True)],
    )
    pen.polygon([*below, *reversed(above)], fill=_BAND)
    points = [at(x, y) for x, y in zip(across, up[2 * n :], strict=True)]
    pen.line(points, fill=_LINE, width=3, joint="curve")
    x, y = points[-1]
    pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=_LINE)
    pen.line([at(0, 0), at(1, 0)], fill=_QUIET)
    pen.line([at(0, 0), at(0, 1)], fill=_QUIET)
    name = key if len(key) <= _LONGEST else f"{key[: _LONGEST - 1]}…"
    pen.text((_LEFT, 12), f"{name}  {drawn[-1].last:.5g}", fill=_INK, font=font)
    for value, height in ((high, 1.0), (low, 0.0)):
        if high != low or height:
            pen.text((_LEFT - 8, at(0, height)[1]), f"{value:.4g}", fill=_QUIET, font=font, anchor="rm")
    pen.text((_LEFT, _HEIGHT - 10), f"step {drawn[0].step:,}", fill=_QUIET, font=font, anchor="ls")
    pen.text((_WIDTH - _RIGHT, _HEIGHT - 10), f"{drawn[-1].step:,}", fill=_QUIET, font=font, anchor="rs")
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
