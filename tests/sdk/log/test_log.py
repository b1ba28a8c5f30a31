"""`log()` and its MLflow-named kin: what is a value, what is a step, and what becomes of everything else."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from helpers.sdk_tools import Store, tracking, warnings
from tailrace import CallError, Tracker
from tailrace_agent.mlflow.names import stored_name


@pytest.fixture
def strict(sqlite_uri: str) -> Iterator[Tracker]:
    with tracking(sqlite_uri, strict=True) as tracker:
        yield tracker


def test_metrics_come_as_a_mapping_as_keywords_or_as_both(sdk: Tracker, sqlite_uri: str) -> None:
    run = sdk.start_run()
    sdk.log({"train/loss": 0.5, "train loss.b-c_d": 1}, step=1)
    sdk.log(loss=0.25, step=2)
    sdk.log({"a": 1, "b": 2}, step=3, b=3, c=4)
    sdk.log(types.MappingProxyType({"d": 1}), step=4, e=2)
    sdk.log({}, step=5)
    sdk.log(step=6)
    run.log({"of the run": 7}, step=7)
    sdk.end_run()
    assert Store(sqlite_uri, run).metrics() == {
        "train/loss": [(1, 0.5)],
        "train loss.b-c_d": [(1, 1.0)],
        "loss": [(2, 0.25)],
        "a": [(3, 1.0)],
        "b": [(3, 3.0)],  # the keyword is the nearer of the two
        "c": [(3, 4.0)],
        "d": [(4, 1.0)],
        "e": [(4, 2.0)],
        "of the run": [(7, 7.0)],
    }


def test_calls_without_a_step_are_counted_by_the_run_and_explicit_steps_may_go_back(
    sdk: Tracker, sqlite_uri: str
) -> None:
    first = sdk.start_run()
    for value in range(3):
        sdk.log(own=value)
    sdk.log(own=10, step=100)
    sdk.log(own=3)
    first.log(own=4)
    sdk.log(back=1, step=5)
    sdk.log(back=2, step=2)
    sdk.log(back=3, step=-1)
    sdk.end_run()
    second = sdk.start_run()
    sdk.log(own=0)
    sdk.end_run()
    assert set(Store(sqlite_uri, first).history("own")) == {(0, 0), (1, 1), (2, 2), (100, 10), (3, 3), (4, 4)}
    assert set(Store(sqlite_uri, first).history("back")) == {(5, 1), (2, 2), (-1, 3)}
    assert Store(sqlite_uri, second).history("own") == [(0, 0)]


NUMBERS: dict[str, tuple[Any, float]] = {
    "int": (7, 7.0),
    "bool": (True, 1.0),
    "negative zero": (-0.0, 0.0),
    "2**62+1": (2**62 + 1, float(2**62)),
    "2**64-1": (2**64 - 1, 2.0**64),
    "10**30": (10**30, 1e30),
    "-10**30": (-(10**30), -1e30),
    "float16": (np.float16(0.5), 0.5),
    "float32": (np.float32(0.1), float(np.float32(0.1))),
    "float64": (np.float64(0.1), 0.1),
    "int64": (np.int64(-3), -3.0),
    "uint8": (np.uint8(200), 200.0),
    "bool_": (np.bool_(True), 1.0),
    "0-d array": (np.array(0.25), 0.25),
    "array of one": (np.array([0.25]), 0.25),
    "array of one of one": (np.array([[3]]), 3.0),
    "0-d tensor": (torch.tensor(0.25), 0.25),
    "tensor of one": (torch.tensor([2]), 2.0),
    "tensor of one of one": (torch.tensor([[2.5]]), 2.5),
    "bfloat16": (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
    "half": (torch.tensor(1.5, dtype=torch.float16), 1.5),
    "of a graph": (torch.tensor(3.0, requires_grad=True) * 2, 6.0),
    "bool tensor": (torch.tensor(True), 1.0),
    "Decimal": (decimal.Decimal("0.125"), 0.125),
    "Fraction": (fractions.Fraction(1, 8), 0.125),
}


def test_every_kind_of_number_arrives_strict_or_not(sdk: Tracker, sqlite_uri: str) -> None:
    values = {key: value for key, (value, _) in NUMBERS.items()}
    expected = {key.replace("*", "_").replace("+", "_"): number for key, (_, number) in NUMBERS.items()}
    values = dict(zip(expected, values.values(), strict=True))
    with sdk.start_run() as lenient:
        sdk.log(values, step=1)
    with sdk.start_run(strict=True) as checked:
        sdk.log(values, step=1)
    for run in (lenient, checked):
        assert Store(sqlite_uri, run).metrics() == {key: [(1, number)] for key, number in expected.items()}
        assert run.ledger().dropped == {}


def test_nan_and_infinities_are_values(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        sdk.log(nan=math.nan, up=math.inf, down=-math.inf, array=np.float32("nan"), tensor=torch.tensor(math.inf))
    store = Store(sqlite_uri, run)
    assert all(math.isnan(store.history(key)[0][1]) for key in ("nan", "array"))
    largest = 1.7976931348623157e308  # what MLflow makes of an infinity
    assert [store.history(key)[0][1] for key in ("up", "down", "tensor")] == [largest, -largest, largest]
    assert run.ledger().of("metric").delivered == 5


class Hostile:
    def __float__(self) -> float:
        raise RuntimeError("no float today")

    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


class HostileMapping:
    def keys(self) -> Any:
        raise RuntimeError("no keys")


BAD: dict[str, Any] = {
    "str": "0.5",
    "None": None,
    "list": [1.0],
    "tuple": (1.0,),
    "set": {1.0},
    "bytes": b"0.5",
    "complex": 1j,
    "frozenset": frozenset({1.0}),
    "object": object(),
    "hostile": Hostile(),
    "array of two": np.zeros(2),
    "array of none": np.zeros(0),
    "array of text": np.array(["a"]),
    "np.complex128": np.complex128(1j),
    "np.datetime64": np.datetime64("2024-01-01"),
    "tensor of two": torch.zeros(2),
    "complex tensor": torch.tensor(1j),
    "meta tensor": torch.tensor(1.0, device="meta"),
    "datetime": dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    "timedelta": dt.timedelta(seconds=1),
    "too large": 10**400,
}


def test_what_is_no_number_is_counted_and_warned_about_once_a_key_and_its_neighbours_arrive(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run() as run:
        for key, value in BAD.items():
            for step in range(2):
                sdk.log({key: value, "good": 1}, step=step)
        sdk.log({**BAD, "all at once": 1}, step=9)
        ledger = sdk.flush()
        metrics = ledger.of("metric")
        assert metrics.delivered == 2 * len(BAD) + 1
        assert metrics.dropped == {"value is no number": 3 * len(BAD)}
        assert ledger.balanced
        assert ledger.settled
    store = Store(sqlite_uri, run)
    assert {key: set(points) for key, points in store.metrics().items()} == {
        "good": {(0, 1.0), (1, 1.0)},
        "all at once": {(9, 1.0)},
    }
    said = warnings(caplog)
    for key in BAD:
        about = [text for text in said if f"metric {key!r} was not logged" in text]
        assert len(about) == 1, (key, about)
    assert len(said) == len(BAD)


def test_keys_that_are_no_strings_cost_nothing_but_themselves(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd: dict[Any, float] = {1: 1.0, None: 2.0, ("a", "b"): 3.0, b"c": 4.0, 2.5: 5.0, "good": 6.0}
    with sdk.start_run() as run:
        sdk.log(odd, step=1)
        sdk.log(odd, step=2)
        sdk.log({"\udc80": 1.0, "also good": 2.0}, step=3)  # a lone surrogate, as from a file's name
        ledger = sdk.flush().of("metric")
    assert Store(sqlite_uri, run).metrics() == {
        "good": [(1, 6.0), (2, 6.0)],
        "also good": [(3, 2.0)],
        stored_name("\\udc80"): [(3, 1.0)],  # MLflow does not take such a name
    }
    assert sum(ledger.dropped.values()) == 10
    assert ledger.dead == 0
    assert ledger.accepted == 14
    assert len(warnings(caplog)) == 6


def test_metrics_that_are_no_mapping_cost_nothing_but_themselves(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    anything: Any
    with sdk.start_run() as run:
        for anything in (0.5, "loss", [("loss", 1)], HostileMapping()):
            sdk.log(anything, beside=1)
            sdk.log_metrics(anything)
            sdk.log_metrics(anything, timestamp=1)
        ledger = sdk.flush().of("metric")
    assert Store(sqlite_uri, run).metrics() == {"beside": [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]}
    assert ledger.dropped == {"metrics are no mapping": 12}
    assert "takes a mapping or keywords, not float" in warnings(caplog)[0]


STEPS: dict[str, tuple[Any, int | None]] = {
    "np.int64": (np.int64(3), 3),
    "np.int32": (np.int32(4), 4),
    "tensor": (torch.tensor(5), 5),
    "array": (np.array(6), 6),
    "7.0": (7.0, 7),
    "True": (True, 1),
    "abc": ("abc", None),
    "1.5": (1.5, None),
    "nan": (math.nan, None),
    "list": ([1], None),
    "complex": (1j, None),
    "too large": (2**63, None),
    "far too large": (2**70, None),
    "object": (object(), None),
    "hostile": (Hostile(), None),
    "meta tensor": (torch.tensor(1, device="meta"), None),
}


@pytest.mark.parametrize("strictly", [False, True], ids=["lenient", "strict"])
def test_a_step_is_any_whole_number_and_what_is_none_costs_one_call(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture, strictly: bool
) -> None:
    bad = [name for name, (_, expected) in STEPS.items() if expected is None]
    with sdk.start_run(strict=strictly) as run:
        for name, (step, expected) in STEPS.items():
            for call in (sdk.log, sdk.log_metrics):
                logged: Callable[..., None] = call
                if strictly and expected is None:
                    with pytest.raises(CallError, match="step"):
                        logged({name: 1, "beside": 2}, step=step)
                else:
                    logged({name: 1, "beside": 2}, step=step)
        ledger = sdk.flush().of("metric")
    metrics = Store(sqlite_uri, run).metrics()
    expected_points = {name: {(expected, 1.0)} for name, (_, expected) in STEPS.items() if expected is not None}
    assert {key: set(points) for key, points in metrics.items() if key != "beside"} == expected_points
    dropped = {reason: n for reason, n in ledger.dropped.items() if n}
    assert set(dropped) <= {"step is no integer", "step is too large"}
    assert sum(dropped.values()) == 4 * len(bad)
    assert ledger.accepted == 4 * len(STEPS)
    assert all("step" in text for text in warnings(caplog))
    assert bool(warnings(caplog)) is not strictly


def test_strict_raises_at_the_call_for_every_bad_value_and_key_and_the_neighbours_still_arrive(
    strict: Tracker, sqlite_uri: str
) -> None:
    odd_keys: list[Any] = [1, None, ("a", "b"), b"c"]
    not_mappings: list[Any] = [3, "loss", [("loss", 1)]]
    with strict.start_run() as run:
        for key, value in BAD.items():
            with pytest.raises(CallError, match="was not logged"):
                strict.log({key: value, "good": 1}, step=0)
            with pytest.raises(CallError, match="was not logged"):
                run.log_metric(key, value)
            with pytest.raises(CallError, match="was not logged"):
                run.log_metrics({key: value}, timestamp=1)
        for odd in odd_keys:
            with pytest.raises(CallError, match="key is"):
                strict.log({odd: 1.0, "good": 2}, step=1)
        for metrics in not_mappings:
            with pytest.raises(CallError, match=r"takes a mapping|takes names"):
                strict.log(metrics, good=3, step=2)
        with pytest.raises(CallError, match="timestamp"):
            run.log_metric("good", 4, step=3, timestamp="yesterday")  # type: ignore[arg-type]
        ledger = strict.flush().of("metric")
    assert set(Store(sqlite_uri, run).history("good")) == {(0, 1.0), (1, 2.0), (2, 3.0)}
    assert sum(ledger.dropped.values()) == 3 * len(BAD) + len(odd_keys) + len(not_mappings)
    assert ledger.pending == 0


def test_the_own_counter_counts_calls_whatever_their_values_are(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        sdk.log(x=0)
        sdk.log(x=1, odd=1j)
        sdk.log(x=10**30)
        sdk.log(x=3)
    assert [step for step, _ in Store(sqlite_uri, run).history("x")] == [0, 1, 2, 3]


def test_without_a_run_the_first_call_starts_one_whatever_it_looks_like(sqlite_uri: str) -> None:
    calls: list[Callable[[Tracker], None]] = [
        lambda sdk: sdk.log({"a": 1}, b=2, step=3),
        lambda sdk: sdk.log(types.MappingProxyType({"a": 1}), b=2, step=3),
        lambda sdk: sdk.log_metrics({"a": 1, "b": 2}, step=3),
        lambda sdk: sdk.log({"a": np.float32(1), "odd": object()}, b=torch.tensor(2), step=3),
    ]
    for call in calls:
        with tracking(sqlite_uri) as sdk:
            assert sdk.active_run() is None
            call(sdk)
            run = sdk.active_run()
            assert run is not None
            sdk.log(own=1)
            sdk.end_run()
            assert sdk.active_run() is None
            assert Store(sqlite_uri, run).metrics() == {"a": [(3, 1.0)], "b": [(3, 2.0)], "own": [(0, 1.0)]}


def test_the_hot_path_never_looks_into_a_mapping_twice(sdk: Tracker, sqlite_uri: str) -> None:
    class Counting(Mapping[str, float]):
        looked = 0

        def __getitem__(self, key: str) -> float:
            Counting.looked += 1
            return 1.0

        def __iter__(self) -> Iterator[str]:
            return iter(["a"])

        def __len__(self) -> int:
            return 1

    with sdk.start_run() as run:
        sdk.log(Counting(), step=1)
    assert Counting.looked == 1
    assert Store(sqlite_uri, run).metrics() == {"a": [(1, 1.0)]}


def test_nested_metrics_are_flattened_as_params_are_whoever_takes_the_call(sqlite_uri: str) -> None:
    nested: Any = {"lr": 1, "train": {"loss": 2.0, "by": {"class": {0: 3.0}}}, "val/loss": np.float32(4)}
    flat = {"lr": 1.0, "train/loss": 2.0, "train/by/class/0": 3.0, "val/loss": 4.0}
    for settings in ({}, {"strict": True}, {"every": {"train/*": 2}}):
        with tracking(sqlite_uri, **settings) as sdk:
            with sdk.start_run() as run:
                sdk.log(nested, 5)
                sdk.log({"val": {"loss": "bad", "acc": 1}}, 6) if not settings else None
            metrics = Store(sqlite_uri, run).metrics()
            assert {key: points[0] for key, points in metrics.items() if key != "val/acc"} == {
                key: (5, value) for key, value in flat.items()
            }
            assert settings or metrics["val/acc"] == [(6, 1.0)]
            assert run.ledger().of("metric").dropped == ({} if settings else {"value is no number": 1})


def test_a_name_and_its_value_one_after_the_other_are_told_what_to_write_and_stop_nobody(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    call: Any = sdk.log
    with sdk.start_run() as run:
        call("loss", 0.5)
        call("loss", 0.5, 7)
        call("loss", 0.5, step=7)
        call({"loss": 1.0}, 8)
        call({"loss": 2.0}, 8, step=9)
    assert Store(sqlite_uri, run).metrics() == {"loss": [(8, 1.0), (9, 2.0)]}
    assert run.ledger().of("metric").dropped == {"metrics are no mapping": 3}
    (said,) = warnings(caplog)
    assert said.startswith("tailrace: metric 'loss' was not logged: log() takes names with their values. Write ")
    assert said.endswith("log({'loss': 0.5}, step=…), or log_metric('loss', 0.5, step=…)")
