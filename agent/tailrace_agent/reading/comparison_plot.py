"""The figure of a comparison: one panel for each metric, one line for each run, and a legend of what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curves", "draw"]

_DRAWN: Final = 4000
"""Points of one line: more than a screen has columns."""
_LABELLED: Final = 20


class Curves(NamedTuple):
    """What is drawn.

    Attributes:
        labels: Of the runs.
        metrics: A panel each.
        history: The pieces of a metric's history, by the number of a run and the metric: steps, times, values.
        x: `step` or `time`.
    """

    labels: Sequence[str]
    metrics: Sequence[str]
    history: Callable[[int, str], Iterable[tuple[Any, Any, Any]]]
    x: str


def draw(curves: Curves) -> Figure:
    """Draws these metrics of runs."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.lines import Line2D

    labels, metrics, history, x = curves
    columns = min(len(metrics), 2 if len(metrics) < 5 else 3)
    rows = -(-len(metrics) // columns)
    # Not pyplot's: that keeps every figure until it is closed, and chooses a window system.
    figure = NewFigure(figsize=(1 + 4.6 * columns, 1.1 + 3.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    shades = _shades(mpl.colormaps, len(labels))
    for panel, metric in zip(panels, metrics, strict=False):
        found = [_points(history(run, metric), x) for run in range(len(labels))]
        if all(len(values) <= 1 for _, values in found):
            _bars(panel, found, shades)
        else:
            _lines(panel, found, shades)
        _dress(panel, metric, x)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    if len(labels) <= _LABELLED:
        handles = [Line2D([], [], color=shade, label=label) for shade, label in zip(shades, labels, strict=True)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False)
    return figure


def _shades(colormaps: Any, runs: int) -> list[Any]:
    if runs <= 10:  # `tab10` has ten colours
        return [colormaps["tab10"](number) for number in range(runs)]
    return [colormaps["viridis"](number / (runs - 1)) for number in range(runs)]


def _points(history: Iterable[tuple[Any, Any, Any]], x: str) -> tuple[Any, Any]:
    """Where and how high: steps or seconds, and values, in order."""
    pieces = list(history)
    if not pieces:
        return np.empty(0), np.empty(0)
    steps, times, values = (np.concatenate([piece[i] for piece in pieces]) for i in range(3))
    order = np.lexsort((times, steps)) if x == "step" else np.argsort(times, kind="stable")
    across = steps if x == "step" else (times - times.min()) / 1000
    return _thinned(across[order], values[order])


def _lines(panel: Axes, found: Sequence[tuple[Any, Any]], shades: Sequence[Any]) -> None:
    for (across, values), shade in zip(found, shades, strict=True):
        if len(values):
            panel.plot(across, values, linewidth=1.4, marker="o" if len(values) == 1 else "", color=shade)


def _bars(panel: Axes, found: Sequence[tuple[Any, Any]], shades: Sequence[Any]) -> None:
    """A metric with one value a run, as a final score has."""
    values = [float(values[0]) if len(values) else np.nan for _, values in found]
    bars = panel.bar(range(len(values)), np.nan_to_num(values, posinf=0, neginf=0), width=0.6, color=list(shades))
    panel.bar_label(bars, [f"{value:.4g}" for value in values], fontsize=8, padding=2)
    panel.set_xticks([])
    panel.margins(x=0.3 / len(values), y=0.15)


def _thinned(across: Any, values: Any) -> tuple[Any, Any]:
    """A long line without the points that nobody could see; the peaks stay: each stretch keeps its ends."""
    if len(values) <= _DRAWN:
        return across, values
    stretches = np.array_split(np.arange(len(values)), _DRAWN // 2)
    # An infinity would be the peak of its stretch, and is not drawn.
    finite = np.where(np.isfinite(values), values, np.nan)
    kept = []
    for stretch in stretches:
        part = finite[stretch]
        if np.isnan(part).all():
            kept.append(int(stretch[0]))
        else:
            kept += sorted({int(stretch[np.nanargmin(part)]), int(stretch[np.nanargmax(part)])})
    return across[kept], values[kept]


def _dress(panel: Axes, metric: str, x: str) -> None:
    panel.set_title(metric, fontsize=11, loc="left")
    panel.tick_params(labelsize=8)
    panel.grid(visible=True, axis="both" if panel.lines else "y", alpha=0.25, linewidth=0.7)
    panel.set_axisbelow(True)
    if panel.lines:
        panel.set_xlabel("step" if x == "step" else "seconds since the run's first point", fontsize=9)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
