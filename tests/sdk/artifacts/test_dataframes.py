"""Data frames, back-tests, training metrics and configs: as they were at the call, and read back by others' readers."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib.util
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.sdk_tools import Store, tracking
from tailrace import CallError, Ledger, Tracker
from tailrace._artifacts.backtest import metrics_of, snake_case
from tailrace._artifacts.dataframes import take
from tailrace._artifacts.equity_plot import curve_of, draw_equity
from tailrace._runs.core import core_of
from tailrace._values.params import plain_config

TIMES = pd.date_range("2024-01-01", periods=4, name="day")


class Capsule:
    """A frame of a library that knows nothing but Arrow's PyCapsule interface."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


class Interchange:
    """A frame of a library that knows nothing but the dataframe interchange protocol."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas would rather have Arrow's interface used
            return self._frame.__dataframe__(nan_as_null, allow_copy)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Model:
    layers: int = 2
    path: Path = Path("weights")


class Logged(NamedTuple):
    """One run into which all of it was logged, with everything changed after the call."""

    store: Store
    ledger: Ledger
    said: list[str]

    def read(self, path: str) -> bytes:
        return Path(self.store.client.download_artifacts(self.store.run_id, path)).read_bytes()

    def parquet(self, path: str) -> pd.DataFrame:
        return pd.read_parquet(io.BytesIO(self.read(path)))


def log_frames(sdk: Tracker) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3, 4], "b": ["x", "y", None, "z"], "kind": pd.Categorical(list("ssml"))})
    timed = frame.set_index(TIMES)
    numbers = np.arange(3.0)
    below = pd.DataFrame({"n": np.arange(3.0)})
    columns = {"n": numbers, "l": [1, 2, 3]}
    sdk.log_dataframe(frame, "frames/plain")
    sdk.log_dataframe(timed, "frames/timed", format="parquet")
    sdk.log_dataframe(timed, "frames/timed.csv")
    sdk.log_dataframe(frame, "frames/mixed", "csv")
    sdk.log_dataframe(pd.DataFrame({"m": [1, "x", [2]]}), "frames/objects.csv")
    sdk.log_dataframe(pd.DataFrame([[1, 2]], columns=["n", "n"]), "frames/twins.csv")
    sdk.log_dataframe(pa.table({"n": [1, 2]}), "frames/arrow.parquet")
    sdk.log_dataframe(Capsule(pa.table({"n": [1, 2]})), "frames/capsule")
    sdk.log_dataframe(Interchange(below), "frames/interchange")
    sdk.log_dataframe(columns, "frames/columns")
    for changed in (frame, timed):
        changed.loc[:, "a"] = 7
    below.loc[:, "n"] = 7.0
    numbers[:] = 7
    columns["l"].append(4)  # type: ignore[attr-defined]


def log_backtests(sdk: Tracker) -> None:
    values = [100.0, 110.0, 99.0, 120.0]
    equity = pd.Series(values, index=TIMES)
    trades = [{"side": "long", "pnl": 10.0}, {"side": "short", "pnl": -11.0, "fee": 0.5}]
    metrics = pd.Series({"Sharpe Ratio": 1.5, "Win Rate [%]": 50, "sharpe_ratio": 9.0, "--": 1.0})
    sdk.log_backtest("momentum", metrics, equity=equity, trades=trades)
    sdk.log_backtest("plain", {"maxDD": -0.1}, equity=values)
    equity[:] = values[:] = [0.0, 0.0, 0.0, 0.0]
    trades.clear()


@pytest.fixture(scope="module")
def logged(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    directory = tmp_path_factory.mktemp("frames")
    database = directory / "mlflow.db"
    database.write_bytes(sqlite_template.read_bytes())
    uri = f"sqlite:///{database}"
    config: dict[str, Any] = {"model": Model(), "lr": 3e-4, "sizes": (1, 2), "colour": Colour.RED}
    config["z"] = {"a": np.int64(3)}
    said: list[str] = []
    with tracking(uri, experiment_name="frames", dir=str(directory / "tailrace"), metadata=False) as sdk:
        sdk.set_experiment("frames")
        with sdk.start_run() as run:
            core_of(run).voice.warn = lambda text, **_: said.append(text)  # type: ignore[method-assign]
            log_frames(sdk)
            log_backtests(sdk)
            sdk.log_training_metrics({"loss": 0.5, "val_loss": 0.6, "epoch/duration_seconds": 3.0}, step=1)
            sdk.log_training_metrics(step=2, loss=0.4, val_loss=0.5, test_accuracy=0.9, lr=0.1)
            sdk.log_config(config)
            config["lr"], config["z"]["a"] = 7, 7
            ledger = sdk.flush()
        yield Logged(Store(uri, run), ledger, said)


def test_a_frame_is_that_of_the_call_whatever_happens_to_it_afterwards(logged: Logged) -> None:
    plain = logged.parquet("frames/plain.parquet")
    assert list(plain["a"]) == [1, 2, 3, 4]
    assert plain["kind"].dtype == "category"
    assert list(logged.parquet("frames/interchange.parquet")["n"]) == [0.0, 1.0, 2.0]
    assert logged.parquet("frames/columns.parquet").to_dict("list") == {"n": [0.0, 1.0, 2.0], "l": [1, 2, 3]}
    for name in ("arrow", "capsule"):
        assert list(logged.parquet(f"frames/{name}.parquet")["n"]) == [1, 2]
    assert logged.ledger.of("artifact").dropped == {}
    assert logged.ledger.settled


def test_an_index_that_is_more_than_row_numbers_is_kept(logged: Logged) -> None:
    timed = logged.parquet("frames/timed.parquet")
    assert list(timed.index) == list(TIMES)
    assert timed.index.name == "day"
    read = pd.read_csv(io.BytesIO(logged.read("frames/timed.csv")), parse_dates=["day"])
    assert list(read.columns) == ["day", "a", "b", "kind"]
    assert list(read["day"]) == list(TIMES)
    assert list(read["a"]) == [1, 2, 3, 4]


def test_a_csv_takes_what_arrow_has_no_type_for(logged: Logged) -> None:
    mixed = pd.read_csv(io.BytesIO(logged.read("frames/mixed.csv")))
    assert list(mixed.columns) == ["a", "b", "kind"]
    assert list(mixed["kind"]) == list("ssml")
    assert list(pd.read_csv(io.BytesIO(logged.read("frames/objects.csv")))["m"]) == ["1", "x", "[2]"]
    assert logged.read("frames/twins.csv").split() == [b"n,n", b"1,2"]


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


def test_training_metrics_are_told_apart_by_phase(logged: Logged) -> None:
    metrics = logged.store.metrics()
    assert metrics["train/loss"] == [(1, 0.5), (2, 0.4)]
    assert metrics["val/loss"] == [(1, 0.6), (2, 0.5)]
    assert metrics["epoch/duration_seconds"] == [(1, 3.0)]
    assert metrics["test/accuracy"] == [(2, 0.9)]
    assert metrics["train/lr"] == [(2, 0.1)]


def test_a_config_is_params_and_a_file_that_every_reader_takes(logged: Logged) -> None:
    params = logged.store.params
    assert {name: params[name] for name in ("model.layers", "model.path", "lr", "z.a")} == {
        "model.layers": "2",
        "model.path": "weights",
        "lr": "0.0003",
        "z.a": "3",
    }
    assert yaml.safe_load(logged.read("config/config.yaml")) == {
        "model": {"layers": 2, "path": "weights"},
        "lr": 3e-4,
        "sizes": [1, 2],
        "colour": "red",
        "z": {"a": 3},
    }


def test_what_is_no_frame_or_no_config_is_said_and_raises_under_strict(sqlite_uri: str) -> None:
    anything: Any = object()
    with tracking(sqlite_uri, strict=True) as sdk, sdk.start_run() as run:
        for call, message in (
            (lambda: sdk.log_dataframe(anything, "x"), "object cannot be made a table"),
            (lambda: sdk.log_dataframe(pd.DataFrame(), "x", anything), "can be 'parquet' or 'csv'"),
            (lambda: sdk.log_dataframe(pd.DataFrame(), "x.csv", "parquet"), r"does not end in \.parquet"),
            (lambda: sdk.log_dataframe(pd.DataFrame(), "../x"), "relative path"),
            (lambda: sdk.log_backtest("../x", {}), "relative path"),
            (lambda: sdk.log_backtest("x", anything), "metrics must be a mapping"),
            (lambda: sdk.log_backtest("x", {}, equity=anything), "equity: object cannot be made a table"),
            (lambda: sdk.log_config(anything), "a config must be a mapping, not object"),
            (lambda: sdk.log_training_metrics(anything), "mapping or keywords, not object"),
            (lambda: sdk.log_training_metrics(loss="high"), "'train/loss' was not logged"),
        ):
            with pytest.raises(CallError, match=message):
                call()
        assert run.flush(20).settled


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


def test_the_caller_pays_for_the_copy_and_no_more() -> None:
    frame = pd.DataFrame({"a": [1.0]})
    taken = take(frame)
    assert "table" not in vars(taken), "made in the background"
    assert not np.shares_memory(taken.frame["a"].to_numpy(), frame["a"].to_numpy())
    table = pa.table({"n": [1]})
    assert take(table).table is table, "an Arrow table does not change, so it is not copied"


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


def test_a_config_that_contains_itself_ends_at_the_repetition() -> None:
    itself: dict[str, Any] = {"a": argparse.Namespace(b=[1, {2}])}
    itself["me"] = itself
    assert plain_config(itself) == {"a": {"b": [1, [2]]}, "me": "..."}
