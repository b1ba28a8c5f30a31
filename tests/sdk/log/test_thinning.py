"""A budget for what slow calls of `log()` cost: what is left out is counted, and last values and extremes are exact."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from helpers.devices import StandIn, elsewhere
from helpers.sdk_tools import Store, tracking
from tailrace import Tracker
from tailrace._log import gpu_values, thinning
from tailrace._log.thinning import ThinningSlowPath
from tailrace._runs.run_part import core_of

SECOND = 1_000_000_000


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    device = StandIn(events=False)
    for module in (gpu_values, thinning):
        monkeypatch.setattr(module, "device_module", lambda kind: device)
    monkeypatch.setattr(thinning, "_EVERY", 1000.0)  # the tests look themselves
    return device


def budget_of(run: Any) -> ThinningSlowPath:
    path = core_of(run).slow_path
    assert isinstance(path, ThinningSlowPath)
    return path


def thinned(run: Any, every: int = 8) -> ThinningSlowPath:
    """A run whose names are thinned so much, whatever they cost."""
    path = budget_of(run)
    path._told = True
    for plan in path._plans.values():
        plan.every, plan.left = every, 0
    return path


def dropped(run: Any) -> dict[str, int]:
    return {reason: n for reason, n in run.ledger().dropped.items() if n}


def test_without_a_budget_there_is_none(sdk: Tracker) -> None:
    with sdk.start_run() as run:
        assert not isinstance(core_of(run).slow_path, ThinningSlowPath)


def test_of_a_thinned_name_last_value_and_extremes_are_exact_and_the_rest_is_counted(
    sqlite_uri: str, device: StandIn
) -> None:
    values = [5.0 + (step % 7) for step in range(100)]
    values[33], values[66] = -4.0, 40.0
    with tracking(sqlite_uri, overhead_budget="0.1 %") as sdk, sdk.start_run() as run:
        sdk.log(loss=elsewhere(values[0]), near=1.0, step=0)
        thinned(run)
        for step in range(1, 100):
            sdk.log(loss=elsewhere(values[step]), near=float(step), step=step)
    store = Store(sqlite_uri, run)
    history = store.history("loss")
    assert len(history) < 20
    assert history[0] == (0, 5.0)
    assert history[-1] == (99, values[99])
    assert {(33, -4.0), (66, 40.0)} <= set(history)
    assert all(value == values[step] for step, value in history)
    assert (99, 99.0) in store.history("near")
    assert dropped(run) == {
        f"thinned to keep overhead_budget: {key}": 100 - len(store.history(key)) for key in ("loss", "near")
    }
    ledger = run.ledger()
    assert ledger.of("metric").accepted == 200
    assert ledger.settled
    assert "1 in 8" in store.tags["tailrace.thinned"]


def test_a_tensor_that_was_changed_since_gives_no_wrong_value(sqlite_uri: str, device: StandIn) -> None:
    with tracking(sqlite_uri, overhead_budget=0.001) as sdk, sdk.start_run() as run:
        total = elsewhere(0.0)
        sdk.log(total=total, step=0)
        thinned(run, every=1000)
        for step in range(1, 50):
            total += 1
            sdk.log(total=total, step=step)
    history = Store(sqlite_uri, run).history("total")
    assert all(value == step for step, value in history)
    assert (49, 49.0) in history


def test_what_is_a_view_of_something_large_is_logged(sqlite_uri: str, device: StandIn) -> None:
    large = elsewhere(torch.arange(10_000.0))
    with tracking(sqlite_uri, overhead_budget=0.001) as sdk, sdk.start_run() as run:
        sdk.log(first=large[0], step=0)
        thinned(run, every=1000)
        for step in range(1, 5):
            sdk.log(first=large[step], step=step)
    assert Store(sqlite_uri, run).history("first") == [(step, float(step)) for step in range(5)]


def test_calls_that_are_wrong_are_reported_as_ever(sqlite_uri: str, device: StandIn, caplog: Any) -> None:
    with tracking(sqlite_uri, overhead_budget=0.001) as sdk, sdk.start_run() as run:
        sdk.log(loss="high", step=0)
        thinned(run, every=1000)
        sdk.log(loss="high", step=1)
        sdk.log("no mapping", step=2)  # type: ignore[arg-type]
        sdk.log(loss=elsewhere(1.0), step="no step")  # type: ignore[arg-type]
    assert dropped(run)["value is no number"] >= 2
    assert "thinned" not in str(dropped(run))


def test_the_busiest_are_thinned_in_the_second_second_above_the_budget_and_it_is_said_once(
    sqlite_uri: str, device: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking(sqlite_uri, overhead_budget="0.1 %") as sdk, sdk.start_run() as run:
        path = budget_of(run)

        def second(busy: int, rare: int = 1) -> None:
            for _ in range(busy):
                sdk.log(busy=elsewhere(1.0))
            for _ in range(rare):
                sdk.log(rare=elsewhere(1.0))
            now = path._looked
            path.took_ns = path._took + 2_000_000 * (busy > 0)  # of a second, whatever this machine takes
            for keys, plan in path._plans.items():
                plan.took = 1_900_000 if keys == ("busy",) and busy else 100_000
            path.look(now + SECOND)

        def every() -> dict[Any, int]:
            return {keys[0]: plan.every for keys, plan in path._plans.items()}

        second(20)
        assert every() == {"busy": 1, "rare": 1}
        second(20)
        assert every() == {"busy": 2, "rare": 2}
        second(0)
        second(20)
        assert every()["busy"] == 2
        for _ in range(30):
            second(20)
        assert every()["busy"] == 1024
    said = [record.getMessage() for record in caplog.records if "overhead_budget" in record.getMessage()]
    assert len(said) == 1
    assert "log() took 0.2 % of the time, and overhead_budget is 0.1 %: thinned busy (1 in 2)" in said[0]
    assert "busy (1 in 1024)" in Store(sqlite_uri, run).tags["tailrace.thinned"]


def test_what_spills_counts_and_is_thinned_too(
    sqlite_uri: str, device: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, spilled = [0], []
    monkeypatch.setattr(thinning, "monotonic_ns", lambda: clock[0])

    def spill(row: bytes) -> None:
        spilled.append(row)
        clock[0] += 100_000

    with tracking(sqlite_uri, overhead_budget="0.1 %") as sdk, sdk.start_run() as run:
        path = budget_of(run)
        path._looked = 0
        for second in range(1, 4):
            for step in range(20):
                path.spilled(b"row", step, second, {"loss": 0.5, "flag": True}, spill)
            path.look(second * SECOND)
        assert len(spilled) == 20 * 3 - 10 * 1
    said = "log() took 0.2 % of the time, and overhead_budget is 0.1 %: thinned flag (1 in 2), loss (1 in 2)"
    assert said in caplog.text
    assert dropped(run) == {f"thinned to keep overhead_budget: {key}": 10 - 2 for key in ("loss", "flag")}


def test_of_what_would_spill_last_values_and_extremes_are_exact_and_the_rest_is_counted(
    sqlite_uri: str, device: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinning, "_EVERY", 1000.0)
    n = 20_000
    with tracking(sqlite_uri, overhead_budget="0.1 %", ring_bytes=64 * 1024) as sdk, sdk.start_run() as run:
        path = budget_of(run)
        path._told = True
        plan = path._planned(("loss",))
        plan.every, plan.left = 8, 0
        for step in range(n):  # far more than the ring holds until the agent looks
            sdk.log(loss=-1.0 if step == 7_777 else 9.0 if step == 8_888 else 5.0 + step / n, step=step)
    store = Store(sqlite_uri, run)
    history = store.history("loss")
    assert len(history) < n
    assert {(7_777, -1.0), (8_888, 9.0)} <= set(history)
    assert history[-1] == (n - 1, 5.0 + (n - 1) / n)
    ledger = run.ledger()
    assert ledger.settled
    assert ledger.of("metric").accepted == n
    assert dropped(run) == {"thinned to keep overhead_budget: loss": n - len(history)}


def test_what_is_logged_while_a_run_ends_is_left_out_by_nobody(sqlite_uri: str, device: StandIn) -> None:
    with tracking(sqlite_uri, overhead_budget=0.001) as sdk, sdk.start_run() as run:
        sdk.log(loss=elsewhere(0.0), step=0)
        path = thinned(run, every=1000)
        path.rest()  # another thread logs on, until its calls are led elsewhere
        for step in range(1, 5):
            sdk.log(loss=elsewhere(float(step)), step=step)
    assert Store(sqlite_uri, run).history("loss") == [(step, float(step)) for step in range(5)]
    assert dropped(run) == {}


def test_a_thread_looks_once_a_second(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(thinning, "_EVERY", 0.01)
    monkeypatch.setattr(thinning, "_watching", set())
    monkeypatch.setattr(ThinningSlowPath, "look", lambda self, now: looked.append(now))
    with tracking(sqlite_uri, overhead_budget=0.001) as sdk, sdk.start_run():
        while len(looked) < 3:
            time.sleep(0.01)
    assert looked == sorted(looked)


def test_what_a_forked_child_logs_is_its_own_and_what_is_held_is_its_parents(sqlite_uri: str, device: StandIn) -> None:
    with tracking(sqlite_uri, overhead_budget=0.001) as sdk, sdk.start_run() as run:
        sdk.log(loss=elsewhere(1.0), step=0)
        thinned(run, every=1000)
        sdk.log(loss=elsewhere(2.0), step=1)  # the first of a thousand
        sdk.log(loss=elsewhere(3.0), step=2)
        path = budget_of(run)
        path.begin_anew()  # what a fork does in the child
        path.rest()
        sdk.log(loss=elsewhere(4.0), step=3)
    assert Store(sqlite_uri, run).history("loss") == [(0, 1.0), (1, 2.0), (3, 4.0)]
    assert dropped(run) == {}


def test_what_a_device_has_not_computed_at_the_end_is_dropped_and_counted(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = StandIn()
    monkeypatch.setattr(thinning, "device_module", lambda kind: never)
    monkeypatch.setattr(gpu_values, "device_module", lambda kind: StandIn(events=False))
    monkeypatch.setattr(thinning, "_EVERY", 1000.0)
    monkeypatch.setattr(thinning, "_ENDS_WITHIN", 0.1)
    with tracking(sqlite_uri, overhead_budget=0.001) as sdk, sdk.start_run() as run:
        sdk.log(loss=elsewhere(1.0), step=0)
        thinned(run, every=1000)
        for step in range(1, 10):
            sdk.log(loss=elsewhere(float(step)), step=step)
        budget_of(run).rest()
        never.finish()
        sdk.log(other=1.0)
    assert dropped(run) == {"thinned to keep overhead_budget: loss": 8}
    assert run.ledger().of("metric").accepted == 11
