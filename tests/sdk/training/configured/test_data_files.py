"""Tables from files: formats, columns, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tailrace import SettingsError
from tailrace.training.configured.data_files import check_numbers, read_table, target_and_features

FRAME = pd.DataFrame({"a": [1.5, 2.5], "b": [True, False], "target": [0, 1]})


@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz", "data.tsv", "data.parquet", "DATA.CSV"])
def test_each_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        FRAME.to_parquet(path)
    else:
        FRAME.to_csv(path, index=False, sep="\t" if name.endswith("tsv") else ",")
    pd.testing.assert_frame_equal(read_table(path, "data"), FRAME)


def test_columns_are_chosen_and_left_out() -> None:
    features, target = target_and_features(FRAME, "target", None, ["b"], "training")
    assert list(features.columns) == ["a"]
    assert target.tolist() == [0, 1]
    features, _ = target_and_features(FRAME, "target", ["b", "a"], [], "training")
    assert list(features.columns) == ["b", "a"]
    with pytest.raises(
        SettingsError, match=r"training.leave_out: the data have no column 'c'; there are: a, b, target"
    ):
        target_and_features(FRAME, "target", None, ["c"], "training")
    with pytest.raises(SettingsError, match=r"no column to learn from but 'target'"):
        target_and_features(FRAME, "target", None, ["a", "b"], "training")


def test_columns_that_are_no_numbers_are_named() -> None:
    check_numbers(FRAME, "training")
    with pytest.raises(SettingsError, match=r"column 'city' holds 'Rome' and the like"):
        check_numbers(FRAME.assign(city="Rome"), "training")


def test_a_file_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "digits.csv").touch()
    with pytest.raises(SettingsError, match=r"there is no file .*digit.csv; did you mean 'digits.csv'?"):
        read_table(tmp_path / "digit.csv", "data")
    with pytest.raises(SettingsError, match=r"digits.csv cannot be read: No columns"):
        read_table(tmp_path / "digits.csv", "data")
