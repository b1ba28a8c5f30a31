"""Back-tests: metrics under names that MLflow takes, files, and a picture where one can be drawn."""

from __future__ import annotations

import importlib.util
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.logged_results import TIMES, Logged
from helpers.sdk_tools import Store, tracking
from tailrace._artifacts.backtest import metrics_of, snake_case


def test_a_backtest_is_metrics_files_and_a_picture(logged: Logged) -> None:
    metrics = logged.store.metrics()
    assert metrics["backtest/momentum/sharpe_ratio"] == [(0, 1.5)]
    assert metrics["backtest/momentum/win_rate_pct"] == [(0, 50.0)]
    assert metrics["backtest/plain/max_dd"] == [(0, -0.1)]
    assert set(logged.store.artifacts("backtest/momentum")) == {
        f"backtest/momentum/{name}" for name in ("equity.parquet", "equity.png", "trades.parquet")
    }
    equity = logged.parquet("backtest/momentum/equity.parquet")
    assert list(equity["equity"]) == [100.0, 110.0, 99.0, 120.0]
    assert list(equity.index) == list(TIMES)
    assert list(logged.parquet("backtest/plain/equity.parquet")["equity"]) == [100.0, 110.0, 99.0, 120.0]
    trades = logged.parquet("backtest/momentum/trades.parquet")
    assert list(trades["side"]) == ["long", "short"]
    assert trades["fee"].isna().tolist() == [True, False]
    picture = Image.open(io.BytesIO(logged.read("backtest/momentum/equity.png")))
    assert picture.size == (1350, 810)
    assert len(logged.said) == 2, "the metric without a word, and the one that comes up twice"


def test_without_matplotlib_the_files_are_logged_all_the_same(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    with tracking(sqlite_uri) as sdk, sdk.start_run() as run:
        for _ in range(2):
            sdk.log_backtest("b", {}, equity=[1.0, 2.0])
    assert Store(sqlite_uri, run).artifacts() == ["backtest/b/equity.parquet"]
    assert [record.getMessage() for record in caplog.records] == [
        "tailrace: log_backtest draws no equity.png: matplotlib is not installed"
    ]


def test_metrics_that_are_none_do_not_cost_the_equity(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as sdk, sdk.start_run() as run:
        sdk.log_backtest("b", None, trades=[{"side": "buy"}])  # type: ignore[arg-type]
    assert Store(sqlite_uri, run).artifacts() == ["backtest/b/trades.parquet"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Sharpe Ratio", "sharpe_ratio"),
        ("sharpeRatio", "sharpe_ratio"),
        ("max DD %", "max_dd_pct"),
        ("Max. Drawdown [%]", "max_drawdown_pct"),
        ("# Trades", "n_trades"),
        ("CAGRNet", "cagr_net"),
        ("maxDD", "max_dd"),
        ("PnL", "pn_l"),
        ("p95Latency", "p95_latency"),
        ("already_snake", "already_snake"),
        ("Profit/Loss (net)", "profit_loss_net"),
        ("Überschuss", "überschuss"),
        (" -- ", ""),
    ],
)
def test_names_become_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected


@given(st.text())
def test_snake_case_is_at_rest_and_holds_only_words(name: str) -> None:
    once = snake_case(name)
    assert not once.startswith("_")
    assert not once.endswith("_")
    assert all(letter == "_" or letter.isalnum() for letter in once)
    assert "__" not in once


def test_metrics_whose_names_meet_keep_the_first() -> None:
    found, odd = metrics_of("a/b", {"maxDD": 1, "max dd": 2, "!": 3, 5: 4})  # type: ignore[dict-item]
    assert found == {"backtest/a/b/max_dd": 1, "backtest/a/b/5": 4}
    assert odd == ["max dd", "!"]
