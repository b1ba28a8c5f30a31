"""Functions by their names in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace import SettingsError
from tailrace.hpo.objectives import check_function, load_function


@pytest.fixture(autouse=True)
def _path() -> Iterator[None]:
    before, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_function_of_a_file_is_found_with_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("VALUE = 3\n")
    (tmp_path / "train_it.py").write_text("import beside_it\n\ndef objective(): return beside_it.VALUE\n")
    check_function("train_it.py:objective", tmp_path, "objective")
    assert load_function("train_it.py:objective", tmp_path, "objective")() == 3
    check_function("train_it:objective", tmp_path, "objective")
    assert load_function("train_it:objective", tmp_path, "objective")() == 3


def test_what_lies_there_hides_nothing_that_is_installed(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a trap')\n")
    assert load_function("json:dumps", tmp_path, "objective")({}) == "{}"


def test_a_file_is_checked_without_being_run(tmp_path: Path) -> None:
    code = "raise SystemExit\n\nif True:\n    from math import exp as objective\nother = print\n"
    (tmp_path / "train_it.py").write_text(code)
    check_function("train_it.py:objective", tmp_path, "objective")
    check_function("train_it.py:other", tmp_path, "objective")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train_it.py:objectiv", "has no function 'objectiv'; did you mean 'objective'"),
        ("nowhere.py:objective", r"nowhere\.py cannot be read"),
        ("broken_it.py:objective", r"broken_it\.py, line 1"),
        ("no_such_module:objective", "there is no module 'no_such_module'; a file is named as train.py:objective"),
        ("train_it.py", "write module:function, or train.py:function"),
        (None, "objective is None; write module:function"),
    ],
)
def test_what_is_not_there_is_one_error(tmp_path: Path, name: Any, message: str) -> None:
    (tmp_path / "train_it.py").write_text("def objective(): ...\n")
    (tmp_path / "broken_it.py").write_text("def objective(:\n")
    with pytest.raises(SettingsError, match=message):
        check_function(name, tmp_path, "objective")


def test_what_turns_out_when_it_is_loaded_is_the_same_error(tmp_path: Path) -> None:
    (tmp_path / "train_it.py").write_text("objective = 3\ndef objectives(): ...\n")
    with pytest.raises(SettingsError, match="has no function 'objective'; did you mean 'objectives'"):
        load_function("train_it.py:objective", tmp_path, "objective")
