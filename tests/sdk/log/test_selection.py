"""Selective logging: what is due is logged, what is not costs less and is held, and the last value always arrives."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.sdk_tools import Store, named, script, tracking
from tailrace import CallError, SettingsError
from tailrace._log.channel import Elsewhere
from tailrace._log.selection import DONE, Selection
from tailrace._runs.run_part import core_of
from tailrace._values.numbers import NotReady, to_number
from tailrace_agent.settings.sources import load_settings

SECOND = 1_000_000_000

encode = msgspec.msgpack.Encoder(enc_hook=to_number).encode


class Log:
    """Rows through a selection, as a channel would send them."""

    def __init__(self, every: dict[str, int] | None = None, min_interval: dict[str, float] | None = None) -> None:
        selection = Selection.of(every, min_interval)
        assert selection is not None
        self.selection = selection
        self.odd: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self._gate = selection.gate(Elsewhere(self._note))
        self._choose = selection.encoder(encode, lambda values, *_: self.odd.append(values))

    def __call__(self, step: int, seconds: float = 0.0, /, **values: Any) -> None:
        row = self._choose((1, step, round(seconds * SECOND), values))
        assert row == DONE
        self._gate.put(row)
        assert self._gate.put_slowly(row) is None  # type: ignore[func-returns-value]

    def end(self) -> list[tuple[int, dict[str, Any]]]:
        """Everything that was logged, the rest included."""
        for held in self.selection.rest():
            self._note(held if isinstance(held, bytes) else encode(held))
        return self.logged

    def _note(self, row: bytes) -> None:
        _, step, _, values = msgspec.msgpack.decode(row)
        self.logged.append((step, values))

    def steps(self, key: str) -> list[int]:
        return [step for step, values in self.logged if key in values]


class Remote:
    """A number on a device: reading it would wait. It can be changed in place, as a tensor can."""

    shape = ()

    def __init__(self, value: float) -> None:
        self.value = value

    def copy_to_host_async(self) -> None:
        """Says that it is not here."""

    def detach(self) -> Remote:
        return self

    def clone(self) -> Remote:
        return Remote(self.value)


@given(n=st.integers(1, 7), count=st.integers(1, 40))
def test_each_nth_value_and_the_last_one_are_logged_with_their_own_steps(n: int, count: int) -> None:
    log = Log({"a": n})
    for step in range(count):
        log(step, a=step / 2)
    logged = log.end()
    assert [step for step, _ in logged] == sorted({*range(0, count, n), count - 1})
    assert all(values == {"a": step / 2} for step, values in logged)
    assert log.selection.rest() == []


@given(st.lists(st.floats(0, 10), max_size=40), st.floats(0.1, 3))
def test_between_two_logged_values_lies_the_interval_and_the_last_one_is_kept(at: list[float], gap: float) -> None:
    log = Log(min_interval={"*": gap})
    times = sorted(at)
    for step, time in enumerate(times):
        log(step, time, a=1.0)
    before_the_end = [times[step] for step in log.steps("a")]
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(before_the_end))
    log.end()
    if times:
        assert log.steps("a")[0] == 0
        assert log.steps("a")[-1] == len(times) - 1


def test_a_clock_that_is_set_back_stops_nothing() -> None:
    log = Log(min_interval={"*": 10})
    log(0, 1_000_000, a=1)
    log(1, 5, a=1)
    log(2, 6, a=1)
    assert log.steps("a") == [0, 1]


def test_the_first_pattern_that_fits_decides_and_the_others_are_logged_always() -> None:
    log = Log({"train/loss": 2, "train/*": 4})
    for step in range(8):
        log(step, **{"train/loss": 1.0, "train/acc": 1.0, "val/loss": 1.0})
    assert log.steps("train/loss") == [0, 2, 4, 6]
    assert log.steps("train/acc") == [0, 4]
    assert log.steps("val/loss") == list(range(8))
    log.end()
    assert log.steps("train/acc") == [0, 4, 7]


def test_a_key_is_counted_on_whatever_unruled_keys_come_along() -> None:
    log = Log({"train/*": 10})
    for step in range(31):
        log(step, **{"train/loss": 1.0, **({"val/loss": 1.0} if step % 5 == 0 else {})})
    assert log.steps("train/loss") == [0, 10, 20, 30]


def test_with_both_settings_a_value_has_to_be_due_by_both() -> None:
    log = Log({"*": 2}, {"*": 3.0})
    for step in range(10):
        log(step, float(step), a=1.0)
    assert log.steps("a") == [0, 3, 6, 9]


def test_a_skipped_value_that_may_change_is_taken_as_it_is() -> None:
    log = Log({"*": 3})
    array = np.array([0.5])
    for step in range(3):
        log(step, a=array)
    array[:] = 7.0
    assert log.end() == [(0, {"a": 0.5}), (2, {"a": 0.5})]


def test_what_is_no_number_beside_values_that_may_change_is_said_and_its_neighbours_are_still_selected() -> None:
    bad = object()
    log = Log({"*": 3, "c": 1})
    log(0, a=np.array([1.0]), b=1.0)
    log(1, a=2.0, b=bad)
    assert log.odd == [{"b": bad}]
    assert log.end() == [(0, {"a": 1.0, "b": 1.0}), (1, {"a": 2.0})]
    mixed = Log({"a": 3})
    mixed(0, a=1.0, c=1.0)
    mixed(1, a=2.0, c=bad)
    assert mixed.odd == [{"c": bad}]
    assert mixed.end() == [(0, {"a": 1.0, "c": 1.0}), (1, {"a": 2.0})]


def test_a_skipped_value_on_a_device_is_copied_there_and_read_at_the_end() -> None:
    log = Log({"a": 3, "b": 3})
    with pytest.raises(NotReady):  # which sends the call where such values wait
        log(0, a=Remote(1.0), b=1.0)
    value = Remote(0.5)
    log(1, a=value, b=2.0)
    value.value = 7.0
    ((_, step, _, values),) = log.selection.rest()
    assert isinstance(values, dict)
    assert (step, values["b"], values["a"].value) == (1, 2.0, 0.5)
    mixed = Log({"a": 2})
    mixed(0, a=1.0, c=1.0)
    mixed(1, a=1.0, c=value)
    assert mixed.odd == [{"c": value}], "only what is due goes on, not what is skipped"


def test_endless_new_keys_are_logged_and_not_remembered() -> None:
    log = Log({"*": 2})
    for step in range(5000):
        log(step, **{f"key {step}": 1.0})
    assert len(log.logged) == 5000
    assert len(log.selection.plans) == 4096


def test_a_run_without_these_settings_has_the_bare_encoder_and_the_bare_ring(sqlite_uri: str) -> None:
    assert Selection.of(None, None) is None
    assert Selection.of({}, {}) is None
    with tracking(sqlite_uri) as sdk, sdk.start_run() as run:
        assert core_of(run).connection is not None
        assert core_of(run).channel.ring is core_of(run).connection.open_ring()
        assert core_of(run).channel.encode is not None
        assert core_of(run).channel.encode.__module__ != "tailrace._log.selection"


def in_a_child(tracker: Any, run: Any, said: Path) -> None:
    sys.stderr = said.open("w", buffering=1)
    for step in range(10, 15):
        tracker.log(step=step, child=step)
    run.end()
    os._exit(0)


def test_every_way_of_logging_is_selected_and_the_last_values_arrive_before_the_end(
    sqlite_uri: str, tmp_path: Path
) -> None:
    every = {"train/*": 10, "child": 3}
    with tracking(sqlite_uri) as sdk:
        run = sdk.start_run(every=every)
        for step in range(26):
            sdk.log({"train/a": step}, step=step)
            run.log({"train/b": step})
            sdk.log_metrics({"train/c": step, "free": step}, step=step)
        said = tmp_path / "said.txt"
        child = multiprocessing.get_context("fork").Process(target=in_a_child, args=(sdk, run, said))
        child.start()
        child.join()
        assert child.exitcode == 0, said.read_text()
        assert run.flush(20).of("metric").accepted == 3 * 3 + 26 + 3, "what is skipped was never accepted"
        run.fail(ValueError("boom"))
        store = Store(sqlite_uri, run)
        assert store.history("free") == [(step, step) for step in range(26)]
        for key in ("a", "b", "c"):
            assert store.history(f"train/{key}") == [(step, step) for step in (0, 10, 20, 25)]
        assert store.history("child") == [(10, 10), (13, 13), (14, 14)]
        assert store.status == "FAILED"
        with sdk.start_run() as plain:
            for step in range(3):
                sdk.log({"train/a": step}, step=step)
        assert len(Store(sqlite_uri, plain).history("train/a")) == 3, "a run's setting is that run's alone"


@pytest.mark.slow
def test_a_script_that_forgets_to_end_its_run_keeps_its_last_values(sqlite_uri: str, tmp_path: Path) -> None:
    (tmp_path / "tailrace.toml").write_text('min_interval = "1h"\n[every]\n"train/*" = 4\n')
    code = """
    import tailrace as sdk

    sdk.start_run(run_name="forgetful", quiet=True)
    for step in range(10):
        sdk.log({"train/loss": step, "lr": step}, step=step)
    """
    script(tmp_path, code, MLFLOW_TRACKING_URI=sqlite_uri)
    store = named(sqlite_uri, "forgetful")
    assert store.history("train/loss") == [(0, 0.0), (9, 9.0)]
    assert store.history("lr") == [(0, 0.0), (9, 9.0)]


def test_a_bad_value_is_said_and_counted_at_once_though_it_is_skipped(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    anything: Any = "high"
    with tracking(sqlite_uri, strict=True) as sdk:
        with sdk.start_run(every=3) as run:
            with pytest.raises(CallError, match="'loss' was not logged"):
                run.log(loss=anything, lr=1.0)
            run.log(accuracy=0.5, lr=0.5)
            with pytest.raises(CallError, match="'accuracy' was not logged: str is no number"):
                run.log(accuracy=anything, lr=0.25)
        ledger = run.ledger().of("metric")
    assert ledger.dropped == {"value is no number": 2}
    assert Store(sqlite_uri, run).history("lr") == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "every", "min_interval"),
    [
        ({"every": 10}, {"*": 10}, None),
        ({"every": {"train/*": "5", "*": 2}}, {"train/*": 5, "*": 2}, None),
        ({"every": "train/*=5, grad/[ab]*=100"}, {"train/*": 5, "grad/[ab]*": 100}, None),
        ({"min_interval": "500ms"}, None, {"*": 0.5}),
        ({"min_interval": "train/*=1min,*=2"}, None, {"train/*": 60.0, "*": 2.0}),
        ({"min_interval": {"loss": 1}}, None, {"loss": 1.0}),
    ],
)
def test_the_settings_take_a_number_a_mapping_or_text(
    given: dict[str, Any], every: dict[str, int] | None, min_interval: dict[str, float] | None, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    settings = load_settings(given, environ={}, start_dir=tmp_path)
    assert (settings.every, settings.min_interval) == (every, min_interval)
    texts = {f"TAILRACE_{key.upper()}": str(value) for key, value in given.items() if not isinstance(value, dict)}
    if texts:
        assert load_settings({}, environ=texts, start_dir=tmp_path) == settings
    assert json.loads(msgspec.json.encode(settings))["every"] == every


@pytest.mark.parametrize(
    "given",
    [
        {"every": 0},
        {"every": 1.5},
        {"every": True},
        {"every": "train/*=x"},
        {"every": {"": 3}},
        {"every": {3: 3}},
        {"every": [3]},
        {"min_interval": -1},
        {"min_interval": "soon"},
        {"min_interval": {"a": "2 days"}},
    ],
)
def test_what_is_no_such_setting_is_one_clear_error(given: dict[str, Any]) -> None:
    (key,) = given
    with pytest.raises(SettingsError, match=f"^argument '{key}' is .*; allowed: .* for each pattern"):
        load_settings(given, environ={})
