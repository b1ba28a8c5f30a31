"""What the fast path leaves, tensors on another device: logged with the step and time of the call, as they were then.

The tensors are torch's own, on the CPU, and say that they are elsewhere; the device's queue is the stand-in of
test_gpu_values, at the edge. tests/gpu does the same with a real GPU.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from helpers.devices import StandIn, elsewhere
from helpers.sdk_tools import Store
from tailrace import CallError, Tracker
from tailrace._log import gpu_values
from tailrace._runs.run_part import core_of


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    device = StandIn()
    monkeypatch.setattr(gpu_values, "device_module", lambda kind: device)
    monkeypatch.setattr(gpu_values, "_POOL", gpu_values.Pool(chunk=4))
    return device


def test_a_value_on_a_device_has_the_step_and_time_of_the_call_and_is_safe_against_what_comes_after(
    sdk: Tracker, sqlite_uri: str, device: StandIn
) -> None:
    loss = elsewhere(0.25)
    with sdk.start_run() as run:
        before = time.time_ns() // 1_000_000
        sdk.log(loss=loss, near=1.0, step=3)
        sdk.log({"loss": loss, "host": torch.tensor(2.0)}, step=4)
        after = time.time_ns() // 1_000_000
        loss.zero_()
        time.sleep(0.05)
        sdk.log(near=2.0, step=5)
        assert sdk.flush(0.2).delivered <= 3, "the device has not come so far"
        device.finish()
        ledger = sdk.flush()
    store = Store(sqlite_uri, run)
    assert store.metrics() == {
        "loss": [(3, 0.25), (4, 0.25)],
        "near": [(3, 1.0), (5, 2.0)],
        "host": [(4, 2.0)],
    }
    assert all(before <= p.timestamp <= after for p in store.client.get_metric_history(store.run_id, "loss"))
    assert ledger.of("metric").accepted == 5


def test_the_own_counter_counts_calls_and_the_end_waits_for_the_device(
    sdk: Tracker, sqlite_uri: str, device: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = []

    def finish_later(self: Any) -> bool:
        polls.append(1)
        if len(polls) > 5:
            device.finish()
        return bool(len(polls) > 5)

    monkeypatch.setattr("helpers.devices.Mark.query", finish_later)
    sdk.log(loss=elsewhere(0.0))  # starts the run, too
    run = sdk.active_run()
    assert run is not None
    sdk.log(loss=elsewhere(1.0))
    run.log(loss=elsewhere(2.0))
    sdk.log(loss=3.0)
    sdk.log_metric("mlflow's", elsewhere(4.0))
    sdk.log_metric("timed", elsewhere(5.0), step=2, timestamp=1_700_000_000_000)
    sdk.end_run()
    store = Store(sqlite_uri, run)
    assert store.history("loss") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert store.history("timed") == [(2, 5.0)]
    (point,) = store.client.get_metric_history(store.run_id, "timed")
    assert point.timestamp == 1_700_000_000_000


def test_the_report_counts_calls_not_rows_and_has_the_cost_of_those_with_values_on_a_device(
    sdk: Tracker, device: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    with sdk.start_run(quiet=False) as run:
        for step in range(10):
            sdk.log(step=step, loss=elsewhere(0.25), near=1.0)
        device.finish()
        core_of(run).slow_path.took_ns = 50_000_000
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "log() cost" in line]
    assert "log() cost 5000.0 µs a call" in line
    assert "(10 calls, 10 of them timed)" in line


@pytest.mark.parametrize("strictly", [False, True], ids=["lenient", "strict"])
def test_what_is_no_single_number_is_counted_once_and_its_neighbours_arrive(
    sdk: Tracker, sqlite_uri: str, device: StandIn, caplog: pytest.LogCaptureFixture, strictly: bool
) -> None:
    bad = {"many": elsewhere(torch.zeros(3)), "complex": elsewhere(1j)}
    with sdk.start_run(strict=strictly) as run:
        for key, value in bad.items():
            if strictly:
                with pytest.raises(CallError, match=key):
                    sdk.log({key: value, "good": elsewhere(1.0), "near": 2.0}, step=1)
            else:
                sdk.log({key: value, "good": elsewhere(1.0), "near": 2.0}, step=1)
        device.finish()
        ledger = sdk.flush().of("metric")
    assert ledger.dropped == {"value is no number": 2}
    assert (ledger.accepted, ledger.pending) == (6, 0)
    assert set(Store(sqlite_uri, run).history("good")) == {(1, 1.0)}
    assert set(Store(sqlite_uri, run).history("near")) == {(1, 2.0)}
    assert len([r for r in caplog.records if r.name == "tailrace"]) == (0 if strictly else 2)


@pytest.mark.parametrize("strictly", [False, True], ids=["lenient", "strict"])
def test_a_device_that_fails_costs_its_values_and_is_counted_exactly(
    sdk: Tracker, sqlite_uri: str, device: StandIn, caplog: pytest.LogCaptureFixture, strictly: bool
) -> None:
    with sdk.start_run(strict=strictly) as run:
        sdk.log(a=elsewhere(1.0), b=elsewhere(2.0), near=3.0, step=1)
        device.marks[0].error = RuntimeError("device-side assert")
        ledger = sdk.flush().of("metric")
    assert sum(ledger.dropped.values()) == 2
    assert (ledger.accepted, ledger.delivered) == (3, 1)
    assert Store(sqlite_uri, run).metrics() == {"near": [(1, 3.0)]}
    assert "device-side assert" in caplog.text


def test_a_step_on_a_device_is_not_waited_for(sdk: Tracker, device: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    with sdk.start_run():
        sdk.log(loss=1.0, step=elsewhere(3))
        ledger = sdk.flush().of("metric")
    assert ledger.dropped == {"step is no integer": 1}
    assert "step" in caplog.text
