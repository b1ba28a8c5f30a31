"""Tables that grow call by call are what pandas' concat would have made of the parts."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.delivery.tables import merge_tables


def part(path: Path, columns: list[Any], data: list[list[Any]]) -> Path:
    path.write_text(json.dumps({"columns": columns, "data": data}))
    return path


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_rows_of_all_parts_follow_one_another(tmp_path: Path) -> None:
    parts = [part(tmp_path / str(n), ["a", "b"], [[n, "x"], [n + 0.5, None]]) for n in range(3)]
    out = tmp_path / "out.json"
    assert merge_tables(parts, out) == 6
    assert read(out) == {"columns": ["a", "b"], "data": [row for n in range(3) for row in ([n, "x"], [n + 0.5, None])]}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_columns_are_united_in_the_order_in_which_they_appear(tmp_path: Path) -> None:
    one = part(tmp_path / "1", ["a", "b"], [[1, 2]])
    two = part(tmp_path / "2", ["c", "b"], [[3, 4]])
    three = part(tmp_path / "3", ["b", "a"], [[5, 6]])
    merge_tables([one, two, three], tmp_path / "out")
    assert read(tmp_path / "out") == {"columns": ["a", "b", "c"], "data": [[1, 2, None], [None, 4, 3], [6, 5, None]]}


def test_the_whole_so_far_may_be_the_first_part_and_the_output(tmp_path: Path) -> None:
    whole = part(tmp_path / "whole.json", ["a"], [[1]])
    for step in range(2, 5):
        assert merge_tables([whole, part(tmp_path / "part", ["a"], [[step]])], whole) == step
    assert read(whole)["data"] == [[1], [2], [3], [4]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part", "whole.json"]


def test_cells_keep_their_bytes(tmp_path: Path) -> None:
    cells = '[0.10000000000000000555,1e400,12345678901234567890123,"\\u00e9",{"k": [1, 2]}]'
    (tmp_path / "1").write_text('{"columns":["a","b","c","d","e"],"data":[' + cells + "]}")
    merge_tables([tmp_path / "1", part(tmp_path / "2", ["f"], [[1]])], tmp_path / "out")
    assert cells[1:-1].split(",", 3)[:3] == (tmp_path / "out").read_text().split("[[")[1].split(",", 3)[:3]


def test_columns_with_one_name_twice_and_columns_that_are_no_strings_are_kept_apart(tmp_path: Path) -> None:
    one = part(tmp_path / "1", ["a", "a", 1, ["x", "y"]], [[1, 2, 3, 4]])
    two = part(tmp_path / "2", ["1", "a", ["x", "y"]], [[5, 6, 7]])
    merge_tables([one, two], tmp_path / "out")
    assert read(tmp_path / "out") == {
        "columns": ["a", "a", 1, ["x", "y"], "1"],
        "data": [[1, 2, 3, 4, None], [6, None, None, 7, 5]],
    }


def test_a_row_that_is_too_short_is_filled_up(tmp_path: Path) -> None:
    one = part(tmp_path / "1", ["a", "b"], [[1]])
    merge_tables([one, part(tmp_path / "2", ["c"], [[2]])], tmp_path / "out")
    assert read(tmp_path / "out")["data"] == [[1, None, None], [None, None, 2]]


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"columns": ["a"], "data": [[1', '{"columns": 3, "data": []}'])
def test_a_damaged_part_is_named_and_the_table_is_as_before(tmp_path: Path, damage: str) -> None:
    whole = part(tmp_path / "whole", ["a"], [[1]])
    bad = tmp_path / "bad"
    bad.write_text(damage)
    with pytest.raises(ValueError, match="bad is no table"):
        merge_tables([whole, bad], whole)
    assert read(whole)["data"] == [[1]]


def test_tables_without_rows_or_columns_are_tables(tmp_path: Path) -> None:
    assert merge_tables([], tmp_path / "none") == 0
    assert read(tmp_path / "none") == {"columns": [], "data": []}
    merge_tables([part(tmp_path / "1", ["a"], []), part(tmp_path / "2", [], [])], tmp_path / "out")
    assert read(tmp_path / "out") == {"columns": ["a"], "data": []}


frames = st.lists(
    st.dictionaries(st.sampled_from("abcd"), st.integers(-1000, 1000) | st.text("xyz", max_size=3), min_size=1),
    min_size=1,
    max_size=4,
)


@given(rows=frames)
def test_merging_is_what_pandas_makes_of_the_same_parts(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    folder = tmp_path_factory.mktemp("merge")
    tables = [pd.DataFrame([row]) for row in rows]
    for number, table in enumerate(tables):
        table.to_json(folder / str(number), orient="split", index=False)
    merge_tables([folder / str(number) for number in range(len(tables))], folder / "out")
    expected = pd.concat(tables, ignore_index=True).to_json(orient="split", index=False)
    merged = read(folder / "out")
    assert merged["columns"] == json.loads(expected)["columns"]
    assert merged["data"] == json.loads(expected)["data"]
    pd.read_json(io.StringIO((folder / "out").read_text()), orient="split")


def test_parts_in_parquet_become_what_pandas_makes_of_them(tmp_path: Path) -> None:
    frames = [
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        pd.DataFrame({"b": ["z"], "c": [0.5]}),
        pd.DataFrame({"a": [0.5]}),
    ]
    parts = [tmp_path / f"{n}.part" for n in range(len(frames))]
    for frame, path in zip(frames, parts, strict=True):
        frame.to_parquet(path, index=False)
    out = tmp_path / "t.parquet"
    assert merge_tables(parts, out) == 4
    pd.testing.assert_frame_equal(pd.read_parquet(out), pd.concat(frames, ignore_index=True), check_dtype=False)
    assert merge_tables([out, parts[2]], out) == 5, "the whole so far may be the first of them"


def test_a_part_in_parquet_that_does_not_fit_leaves_the_whole_as_it_was(tmp_path: Path) -> None:
    good, other, broken, out = (tmp_path / name for name in ("0.part", "1.part", "2.part", "t.parquet"))
    pd.DataFrame({"a": [1]}).to_parquet(good, index=False)
    pd.DataFrame({"a": ["text"]}).to_parquet(other, index=False)
    broken.write_text("{}")
    merge_tables([good], out)
    for wrong, said in ((other, "do not fit to those before"), (broken, "is no table")):
        with pytest.raises(ValueError, match=said):
            merge_tables([good, wrong], out)
        assert list(pd.read_parquet(out)["a"]) == [1]
