"""A back-test's picture: equity above, drawdown below. Drawn in the background, without pyplot and without a display.

Nothing of matplotlib's global state is read or changed beyond its defaults, so a training script that draws at the
same time is not disturbed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from tailrace._artifacts.dataframes import Taken

__all__ = ["Curve", "curve_of", "draw_equity"]

_BLUE: Final = "#1f5fa8"
_RED: Final = "#c0392b"
_GREY: Final = "#666666"
_LEGEND: Final[dict[str, Any]] = {"framealpha": 0.8, "edgecolor": "none", "fontsize": 9}
_MOST_POINTS: Final = 4000
"""Beyond these a line is only slower to draw, at 1200 pixels: drawing holds the GIL."""


class Curve(NamedTuple):
    """What is drawn.

    Attributes:
        x: Times, or bar numbers.
        equity: Values; NaN where there are none.
        drawdown: Below the highest value so far: as a share of it, or in units of the equity.
        relative: Whether it is a share. A curve that goes below zero, or starts there, has none.
        timed: Whether `x` are times.
        bars: Number of values.
    """

    x: Any
    equity: Any
    drawdown: Any
    relative: bool
    timed: bool
    bars: int


def curve_of(table: Any) -> Curve:
    """The equity in an Arrow table: the column `equity` in any spelling, else the first one of numbers.

    Raises:
        ValueError: No column holds numbers, or there is no value at all.
    """
    import numpy as np

    equity = np.asarray(table.column(_equity_column(table)).to_numpy(), dtype=float)
    equity = np.where(np.isfinite(equity), equity, np.nan)  # nothing can be drawn at infinity
    if np.isnan(equity).all():
        raise ValueError("the equity holds no number")
    # `fmax` passes over NaN, where `maximum` would be NaN from there on.
    peak = np.fmax.accumulate(equity)
    # A share of zero, or of less than zero, means nothing.
    relative = bool(np.nanmin(equity) >= 0 and np.nanmin(peak) > 0)
    drawdown = equity - peak
    if relative:
        drawdown = drawdown / peak
    times = _time_column(table)
    x = np.arange(len(equity)) if times is None else table.column(times).to_numpy()
    shown = _deciding_points(equity, drawdown)
    bars = int(np.isfinite(equity).sum())
    return Curve(x[shown], equity[shown], drawdown[shown], relative, times is not None, bars)


def _deciding_points(equity: Any, drawdown: Any) -> Any:
    """The places that decide on how a long curve looks: ends, extremes, and each interval's highest and lowest."""
    import numpy as np

    known = np.flatnonzero(np.isfinite(equity))
    if len(equity) <= _MOST_POINTS:
        return slice(None)
    kept = {int(known[0]), int(known[-1])}
    # Three points of each are kept.
    for places in np.array_split(known, _MOST_POINTS // 3):
        if len(places):
            values = equity[places]
            lowest = drawdown[places].argmin()
            kept.update(int(places[at]) for at in (values.argmax(), values.argmin(), lowest))
    return np.array(sorted(kept))


def _equity_column(table: Any) -> int:
    from pyarrow import types

    index = (table.schema.pandas_metadata or {}).get("index_columns", [])
    numbers = [
        position
        for position, field in enumerate(table.schema)
        if (types.is_floating(field.type) or types.is_integer(field.type) or types.is_decimal(field.type))
        and field.name not in index
    ]
    if not numbers:
        raise ValueError("the equity has no column of numbers")
    named = [position for position in numbers if table.column_names[position].lower() == "equity"]
    return (named or numbers)[0]


def _time_column(table: Any) -> int | None:
    from pyarrow import types

    return next(
        (p for p, f in enumerate(table.schema) if types.is_timestamp(f.type) or types.is_date(f.type)),
        None,
    )


def draw_equity(taken: Taken, title: str, path: Path) -> None:
    """Draws equity and drawdown as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve = curve_of(taken.table)
    figure = Figure(figsize=(9, 5.4), dpi=150, layout="constrained", facecolor="white")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _draw_equity(above, curve, title)
    _draw_drawdown(below, curve)
    FigureCanvasAgg(figure)  # the canvas of this figure from now on: no display is looked for
    figure.savefig(path, format="png")


def _draw_equity(axes: Any, curve: Curve, title: str) -> None:
    import numpy as np

    known = np.flatnonzero(np.isfinite(curve.equity))
    first, last = curve.equity[known[0]], curve.equity[known[-1]]
    axes.plot(curve.x, np.fmax.accumulate(curve.equity), color=_GREY, linewidth=0.8, linestyle=":", label="peak")
    axes.plot(curve.x, curve.equity, color=_BLUE, linewidth=1.4, label="equity")
    # `parse_math`: a `$` in a name (`$SPY`) would begin a formula, and an odd one is an error.
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", parse_math=False)
    change = f"{last / first - 1:+.1%}" if first > 0 and curve.relative else f"{last - first:+,.4g}"
    axes.set_title(f"{change}, {curve.bars:,} bars", loc="right", fontsize=10, color=_GREY)
    axes.set_ylabel("equity")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.legend(loc="upper left", **_LEGEND)
    _plain(axes)


def _draw_drawdown(axes: Any, curve: Curve) -> None:
    import numpy as np

    axes.fill_between(curve.x, curve.drawdown, 0, color=_RED, alpha=0.3, linewidth=0)
    axes.plot(curve.x, curve.drawdown, color=_RED, linewidth=0.9)
    worst = int(np.nanargmin(curve.drawdown))
    deepest = curve.drawdown[worst]
    text = f"{deepest:.1%}" if curve.relative else f"{deepest:,.4g}"
    axes.plot(curve.x[worst], deepest, "o", color=_RED, markersize=4, label=f"deepest: {text}")
    axes.set_ylabel("drawdown")
    if not curve.timed:
        axes.set_xlabel("bar")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    # Without a drawdown the range would be empty, and matplotlib warns of that.
    axes.set_ylim(top=0, bottom=1.15 * deepest if deepest < 0 else -1)
    if curve.relative:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.legend(loc="lower left", **_LEGEND)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
