"""The traceback of an error as a text."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tailrace._console import tracebacks
from tailrace._console.tracebacks import traceback_text


def _error(call: Any, *given: Any) -> BaseException:
    with pytest.raises(BaseException) as caught:
        call(*given)
    return caught.value


def _step(batch: Any, token: str = "abc") -> None:
    loss = float("nan")
    raise ValueError(f"the loss is {loss}, password=hunter2")


def test_it_is_what_python_prints_without_secrets() -> None:
    text = traceback_text(_error(_step, 1))
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("ValueError: the loss is nan, password=***\n")
    assert "Local variables" not in text


def test_the_values_that_were_asked_for_stand_below_it() -> None:
    text = traceback_text(_error(_step, [1, 2]), ("batch", "loss", "token", "nothing"))
    assert "    batch = [1, 2]\n    loss = nan\n" in text
    assert "abc" not in text
    assert "nothing" not in text


def test_a_value_is_cut_and_a_large_one_is_not_shown_whole() -> None:
    text = traceback_text(_error(_step, list(range(10_000_000))), ("batch",))
    assert "batch = [0, 1, 2," in text
    assert len(text) < 5000
    assert len(traceback_text(_error(_step, "x" * 10**7), ("batch",))) < 5000


class _Bad:
    def __repr__(self) -> str:
        raise RuntimeError("CUDA error: an illegal memory access")


def test_a_value_that_cannot_be_shown_says_so() -> None:
    text = traceback_text(_error(_step, _Bad()), ("batch", "loss"))
    assert "batch = <" in text
    assert "loss = nan" in text


class _Hangs:
    def __init__(self) -> None:
        self.let_go = threading.Event()

    def __repr__(self) -> str:
        self.let_go.wait(60)
        return ""


def test_a_value_that_is_never_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracebacks, "_PATIENCE", 0.1)
    hangs = _Hangs()
    text = traceback_text(_error(_step, hangs), ("loss", "batch"))
    assert "[the others were not there" in text
    hangs.let_go.set()


def _cause(batch: Any) -> None:
    try:
        _step(batch)
    except ValueError as error:
        raise KeyError("outer") from error


def test_causes_are_looked_at_too() -> None:
    text = traceback_text(_error(_cause, 3), ("batch", "loss"))
    assert text.count("batch = 3") >= 2
    assert "loss = nan" in text


def _recurse(depth: int) -> None:
    _recurse(depth + 1)


def test_a_recursion_without_end_is_bounded() -> None:
    text = traceback_text(_error(_recurse, 0), ("depth",))
    assert len(text) < 200_000
    assert text.count("depth =") <= 50
