"""The figure of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailrace import Tracker
from tailrace_agent.reading.comparison_plot import Curves, draw


def test_a_comparison_draws_a_panel_for_each_metric_and_a_line_for_each_run(
    tracker: Tracker, runs: dict[str, str], tmp_path: Path
) -> None:
    comparison = tracker.compare_runs(["read-small", "read-wide"])
    figure = comparison.plot(["loss", "score"], save=tmp_path / "runs.png")
    assert (tmp_path / "runs.png").stat().st_size > 10_000
    loss, score = figure.axes
    assert [len(line.get_xdata()) for line in loss.lines] == [5, 5]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["read-small (lr=0.1)", "read-wide (lr=0.2)"]
    assert [bar.get_height() for bar in score.patches] == [1, 0], "one value a run is drawn as a bar"
    assert len(comparison.iloc[:1].plot(x="time").axes[0].lines) == 1, "a part of a comparison can be drawn, too"
    with pytest.raises(ValueError, match="'step' or 'time'"):
        comparison.plot(x="epoch")


def _curves(*lengths: int, x: str = "step", metrics: int = 1) -> Curves:
    """Runs with so many points, whose steps come in no order."""

    def history(run: int, metric: str) -> list[tuple[Any, Any, Any]]:
        steps = np.arange(lengths[run])[::-1]
        return [(steps, 1000 * steps + 5000, steps * 2.0)] if len(steps) else []

    return Curves([f"run {n}" for n in range(len(lengths))], [f"m{n}" for n in range(metrics)], history, x)


def test_a_line_is_in_the_order_of_its_steps_or_begins_at_its_first_second() -> None:
    (line,) = draw(_curves(5)).axes[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 1, 2, 3, 4], [0, 2, 4, 6, 8])
    (line,) = draw(_curves(5, x="time")).axes[0].lines
    assert list(line.get_xdata()) == [0, 1, 2, 3, 4]


def test_a_long_line_keeps_its_peaks() -> None:
    values = np.zeros(100_000)
    values[[12_345, 77_777]] = (9.0, -9.0)
    values[50_000] = np.nan
    curves = Curves(["r"], ["m"], lambda run, metric: [(np.arange(100_000), np.arange(100_000), values)], "step")
    (line,) = draw(curves).axes[0].lines
    drawn = np.asarray(line.get_ydata())
    assert len(drawn) <= 4000
    assert (np.nanmax(drawn), np.nanmin(drawn)) == (9.0, -9.0)
    assert np.all(np.diff(line.get_xdata()) > 0)


def test_one_value_a_run_is_a_bar_and_a_run_without_any_is_none() -> None:
    (panel,) = draw(_curves(1, 0)).axes
    assert (len(panel.patches), len(panel.lines)) == (2, 0)
    (panel,) = draw(_curves(1, 3)).axes
    assert [line.get_marker() for line in panel.lines] == ["o", ""], "a single point beside a line can be seen"


def test_panels_that_are_not_needed_and_a_legend_of_too_many_are_left_out() -> None:
    panels = draw(_curves(2, metrics=3)).axes
    assert [panel.get_visible() for panel in panels] == [True, True, True, False]
    assert len(draw(_curves(*[2] * 20)).legends) == 1
    assert draw(_curves(*[2] * 21)).legends == []
    lines = draw(_curves(*[2] * 21)).axes[0].lines
    assert len({line.get_color() for line in lines}) == 21
