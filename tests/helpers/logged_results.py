"""One run into which frames, back-tests, training metrics and a config were logged; several files look at it."""

from __future__ import annotations

import dataclasses
import enum
import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from helpers.sdk_tools import Store
from tailrace import Ledger, Tracker

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
