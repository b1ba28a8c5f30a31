"""Data frames: as they were at the call, and read back by others' readers."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from helpers.logged_results import TIMES, Logged
from tailrace._artifacts.dataframes import take


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


def test_the_caller_pays_for_the_copy_and_no_more() -> None:
    frame = pd.DataFrame({"a": [1.0]})
    taken = take(frame)
    assert "table" not in vars(taken), "made in the background"
    assert not np.shares_memory(taken.frame["a"].to_numpy(), frame["a"].to_numpy())
    table = pa.table({"n": [1]})
    assert take(table).table is table, "an Arrow table does not change, so it is not copied"
