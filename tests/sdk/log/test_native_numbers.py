"""What the hot path in C reads of NumPy and torch is what Python makes of it, whatever happens while it is read."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.log_pairs import LogBench, LogPairs
from tailrace._log.channel import Elsewhere, encode_checked, encode_row
from tailrace._log.log import make_log
from tailrace._values.numbers import KINDS, to_number
from tailrace_agent.ipc import native

pytestmark = pytest.mark.skipif(native.Log is None, reason="the hot path in C is switched off")

FLOATS = [np.float16, np.float32, np.float64, np.longdouble]
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64, np.bool_]
TENSORS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool]


class Own(torch.Tensor):
    """A class of its user's."""


class OwnScalar(np.float32):
    def __float__(self) -> float:
        return 42.0


NUMBERS = st.one_of(
    st.builds(lambda kind, x: kind(x), st.sampled_from(FLOATS), st.floats(width=16)),
    st.builds(lambda kind, x: kind(x), st.sampled_from(INTEGERS), st.integers(0, 127)),
    st.builds(lambda kind, x: np.array(x, dtype=kind), st.sampled_from([*FLOATS, *INTEGERS]), st.integers(0, 127)),
    st.builds(lambda kind, x: torch.tensor(x, dtype=kind), st.sampled_from(TENSORS), st.integers(0, 127)),
    st.builds(lambda x: torch.tensor(x, requires_grad=True), st.floats(width=32)),
    st.builds(lambda n: np.full((1,) * n, 0.25), st.integers(1, 4)),
    st.builds(lambda n: torch.full((1,) * n, 0.25), st.integers(1, 4)),
)
NO_NUMBERS = st.sampled_from(
    [
        np.timedelta64(5, "ns"),
        np.datetime64("2026-01-01"),
        np.array(np.timedelta64(5, "ns")),
        np.array(np.datetime64("2026-01-01", "ns")),
        np.array([1.0, 2.0]),
        np.array([]),
        np.array(1j),
        np.complex64(1j),
        np.str_("0.5"),
        np.array("0.5"),
        np.array(7, dtype=object),
        np.array(None, dtype=object),
        torch.tensor([1.0, 2.0]),
        torch.tensor([]),
        torch.tensor(1j),
        torch.empty((), device="meta"),
        torch.nn.Parameter(torch.tensor(3.0)),
        torch.tensor(2.0).as_subclass(Own),
        OwnScalar(1.0),
        "no number",
    ]
)
PLAIN = st.one_of(st.floats(), st.integers(-(2**40), 2**40), st.booleans())
CALLS = st.tuples(
    st.none() | st.dictionaries(st.sampled_from("abcdef"), st.one_of(NUMBERS, NO_NUMBERS, PLAIN), max_size=5),
    st.dictionaries(st.sampled_from("defgh"), st.one_of(NUMBERS, NO_NUMBERS, PLAIN), max_size=4),
)


@pytest.fixture(autouse=True, scope="module")
def learned() -> None:
    """Every kind has been seen once."""
    for value in (np.float32(1), np.float16(1), np.int64(1), np.bool_(True), np.array(1.0), torch.tensor(1.0)):
        to_number(value)


@pytest.mark.parametrize("strict", [False, True])
@settings(deadline=None, max_examples=150)
@given(calls=st.lists(CALLS, max_size=5))
def test_both_write_the_same_of_whatever_numpy_and_torch_have(strict: bool, calls: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, LogPairs(Path(folder), strict=strict) as (c, python):
        for step, (metrics, values) in enumerate(calls):
            for bench in (c, python):
                bench.log(metrics, step=step, **values)
        assert repr(c.odd) == repr(python.odd)
        assert c.said() == python.said()


@settings(deadline=None, max_examples=100)
@given(every=st.sampled_from([{"*": 1}, {"*": 3}, {"a": 2, "*": 3}]), calls=st.lists(CALLS, max_size=8))
def test_both_hold_the_same_of_a_selection(every: dict[str, int], calls: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, LogPairs(Path(folder), every=every) as (c, python):
        for step, (metrics, values) in enumerate(calls):
            for bench in (c, python):
                bench.log(metrics, step=step, **values)
        assert repr(c.odd) == repr(python.odd)
        assert c.said() == python.said()
        assert c.held() == python.held()


class _Counting:
    """A `log` in C that counts the calls which it hands to Python."""

    def __init__(self, bench: LogBench) -> None:
        assert native.Log is not None
        self.handed_over = 0
        pointer = SimpleNamespace(home=None, own=None, shared=bench.channel)
        self.log = native.Log(pointer, self._otherwise, encode_row, encode_checked, KINDS).log

    def _otherwise(self, *_: Any, **__: Any) -> None:
        self.handed_over += 1


@pytest.mark.parametrize(
    "value",
    [np.float32(0.5), np.int64(3), np.bool_(True), np.array(0.5), torch.tensor(0.5), torch.tensor(2, dtype=torch.int8)],
    ids=lambda value: f"{type(value).__name__} {value.dtype}",
)
def test_no_function_in_python_is_called_for_a_number_in_memory(tmp_path: Path, value: Any) -> None:
    bench = LogBench(tmp_path, make_log)
    counting = _Counting(bench)
    counting.log(loss=value, step=1)
    counting.log({"loss": value, "other": 1.0}, 2)
    counting.log({"train/loss": value}, step=3, lr=0.5)
    assert counting.handed_over == 0
    assert len(bench.rows()) == 3
    bench.reader.close()


def test_a_keyword_of_the_name_of_an_entry_is_pythons(tmp_path: Path) -> None:
    with LogPairs(tmp_path) as (c, python):
        counting = _Counting(c)
        counting.log({"a": 1.0}, a=2.0)
        assert counting.handed_over == 1
        for bench in (c, python):
            bench.log({"a": 1.0, "b": 2.0}, step=1, a=3.0, c=4.0)
        assert c.said() == python.said() == ["(7, 1, {'a': 3.0, 'b': 2.0, 'c': 4.0})"]


def test_with_tracking_off_a_dictionary_and_keywords_are_kept_both(tmp_path: Path) -> None:
    with LogPairs(tmp_path) as both:
        for bench in both:
            bench.channel.latest, bench.channel.known = {"a": 0.0, "b": 0.0}, 9
            bench.channel.encode = None
            bench.log({"a": 1.0}, b=2.0, step=3)
            assert bench.channel.latest == {"a": 1.0, "b": 2.0}


# -- other code runs while a value is read -----------------------------------------------------------------------------


class Meanwhile:
    """A tensor, as C knows it, that does something while it is read."""

    is_cpu = True

    def __init__(self, do: Callable[[], object]) -> None:
        self.do = do

    def item(self) -> float:
        self.do()
        return 0.5

    __float__ = item


@pytest.fixture
def as_tensors() -> Iterator[None]:
    KINDS[Meanwhile] = 3
    yield
    del KINDS[Meanwhile]


@pytest.fixture
def new_objects_only() -> Iterator[None]:
    """The garbage collector looks at what the test makes alone: all that is loaded takes it a second each time."""
    gc.freeze()
    yield
    gc.unfreeze()


SELECTED = pytest.mark.parametrize("rules", [{}, {"every": {"*": 1}}], ids=["all", "selected"])


@SELECTED
def test_a_ring_that_goes_meanwhile_is_not_written_to(tmp_path: Path, as_tensors: None, rules: dict[str, Any]) -> None:
    elsewhere: list[bytes] = []
    with LogPairs(tmp_path, **rules) as (c, _):
        c.log(a=0.0, b=0.0, step=0)
        assert len(c.rows()) == 1
        c.log(a=Meanwhile(lambda: c.channel.lead_to(Elsewhere(elsewhere.append))), b=1.0, step=1)
        assert (len(c.rows()), len(elsewhere)) == (0, 1)


@SELECTED
def test_a_run_that_ends_meanwhile_takes_nothing_more(tmp_path: Path, as_tensors: None, rules: dict[str, Any]) -> None:
    def over(row: object) -> bytes:
        raise LookupError

    with LogPairs(tmp_path, **rules) as (c, _):
        c.log(a=0.0, step=0)
        assert len(c.rows()) == 1
        c.log(a=Meanwhile(lambda: c.channel.close(over)), step=1)
        assert c.rows() == []
        assert len(c.odd) == 1


@SELECTED
@pytest.mark.parametrize("change", ["grows", "shrinks", "is emptied", "gets other values"])
def test_a_dictionary_that_changes_meanwhile_breaks_no_row(
    tmp_path: Path, as_tensors: None, new_objects_only: None, rules: dict[str, Any], change: str
) -> None:
    with LogPairs(tmp_path, **rules) as (c, _):
        c.log({f"k{i}": 0.0 for i in range(20)}, 0)
        assert len(c.rows()) == 1
        for step in range(20):
            metrics: dict[str, Any] = {f"k{i}": float(i) for i in range(20)}

            def changes(metrics: dict[str, Any] = metrics) -> None:
                if change == "grows":
                    metrics.update({f"more{len(metrics) + i}": 1.0 for i in range(50)})
                elif change == "shrinks":
                    metrics.pop("k19", None)
                elif change == "is emptied":
                    metrics.clear()
                else:
                    metrics.update(dict.fromkeys(list(metrics), 99.5))
                gc.collect()

            metrics["k3"] = Meanwhile(changes)
            c.log(metrics, step, lr=1.0)
        rows = c.said()
        assert all(row.startswith("(7, ") for row in rows)
        assert len(rows) + len(c.odd) == 20


@SELECTED
def test_ctrl_c_meanwhile_gets_out(tmp_path: Path, as_tensors: None, rules: dict[str, Any]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with LogPairs(tmp_path, **rules) as (c, _):
        c.log(a=1.0)
        with pytest.raises(KeyboardInterrupt):
            c.log(a=Meanwhile(interrupt))
        c.log(a=2.0)
        assert len(c.rows()) == 2


@SELECTED
def test_calls_within_a_call_are_all_there(tmp_path: Path, as_tensors: None, rules: dict[str, Any]) -> None:
    with LogPairs(tmp_path, **rules) as (c, _):
        c.log(a=0.0, step=0)
        steps = itertools.count(1)

        def inner() -> None:
            c.log(a=1.0, step=next(steps))

        for _ in range(50):
            c.log(a=Meanwhile(inner), step=next(steps))
        assert len(c.rows()) == 101


def test_nothing_that_was_read_is_kept_or_released_too_often(tmp_path: Path) -> None:
    bench = LogBench(tmp_path, make_log)
    values = [np.float32(0.5), np.array(0.25), torch.tensor(0.75), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])]
    metrics = dict(zip("abc", values, strict=False))
    before = [sys.getrefcount(value) for value in [*values, metrics]]
    for step in range(500):
        bench.log(metrics, step)
        bench.log(step=step, **metrics)
        bench.log(metrics, step, d=values[3], e=values[4])
        bench.odd.clear()
    assert [sys.getrefcount(value) for value in [*values, metrics]] == before
    bench.reader.close()


def test_a_type_is_read_in_c_from_the_second_time_on() -> None:
    code = (
        "import numpy as np, torch\n"
        "from tailrace._values.numbers import KINDS, to_number\n"
        "assert not KINDS\n"
        "for value in (np.float32(1), np.array(1.0), torch.tensor(1.0), torch.nn.Parameter(torch.tensor(1.0))):\n"
        "    to_number(value)\n"
        "assert KINDS == {np.float32: 1, np.ndarray: 2, torch.Tensor: 3}, KINDS\n"
    )
    assert os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", code], os.environ) == 0
