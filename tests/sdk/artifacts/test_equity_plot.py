"""The picture of a back-test: its drawdown, and which points of a long curve are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from tailrace._artifacts.dataframes import take
from tailrace._artifacts.equity_plot import curve_of, draw_equity


def test_the_drawdown_is_a_share_of_the_peak_or_where_there_is_none_a_difference() -> None:
    curve = curve_of(pa.table({"price": [7.0, 8.0, 9.0, 10.0], "Equity": [100.0, None, 50.0, 200.0]}))
    assert curve.relative
    assert np.nan_to_num(curve.drawdown).tolist() == [0.0, 0.0, -0.5, 0.0]
    curve = curve_of(pa.table({"pnl": [0.0, 5.0, -5.0], "when": pa.array([0, 1, 2], pa.timestamp("s"))}))
    assert not curve.relative
    assert curve.timed
    assert curve.drawdown.tolist() == [0.0, 0.0, -10.0]
    stepped = take(pd.DataFrame({"value": [1.0, 2.0]}, index=pd.Index([5, 7], name="bar"))).table
    assert curve_of(stepped).equity.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="no column of numbers"):
        curve_of(pa.table({"a": ["x"]}))
    with pytest.raises(ValueError, match="holds no number"):
        curve_of(pa.table({"a": [None, float("nan")]}, pa.schema([("a", pa.float64())])))


def test_a_long_curve_is_drawn_by_the_points_that_decide_on_how_it_looks() -> None:
    equity = 100 + np.sin(np.arange(50_000) / 300)
    equity[30_000], equity[40_000], equity[0] = 50.0, 150.0, np.nan
    curve = curve_of(pa.table({"equity": equity}))
    assert len(curve.x) < 5000
    assert curve.bars == 49_999
    assert {1, 30_000, 40_000, 49_999} <= set(curve.x.tolist())
    assert np.nanmin(curve.drawdown) == pytest.approx(50 / 101 - 1, abs=1e-4)


@pytest.mark.parametrize(
    "values", [[1.0], [0.0, 0.0], [5, 4, 3], [float("nan"), 2.0, 1.0], [-3.0, -5.0], [float("inf"), 1.0]]
)
def test_every_curve_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    draw_equity(take(values, "equity"), "cost $x_{ y", tmp_path / "equity.png")
    assert Image.open(tmp_path / "equity.png").size == (1350, 810)
