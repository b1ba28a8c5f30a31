"""The system monitor, as users call it, against real MLflow stores."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.samples import CPU, MEMORY, sampled, steps_of
from helpers.sdk_tools import Store, eventually, named, script, tracking
from nvml.standin import Standin, build
from tailrace import Run, Tracker
from tailrace_agent.errors import CallError, SettingsError
from tailrace_agent.ipc.records import encode
from tailrace_agent.spool.blocks import SYSTEM, encode_rows
from tailrace_agent.spool.intake import Intake
from tailrace_agent.spool.store import Spool

_MLFLOWS = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/system_memory_usage_percentage",
    "system/disk_usage_percentage",
    "system/disk_usage_megabytes",
    "system/disk_available_megabytes",
    "system/network_receive_megabytes",
    "system/network_transmit_megabytes",
}


@pytest.mark.slow
def test_a_short_run_shows_a_first_and_a_last_sample_under_mlflows_names(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.start_run() as run, tracker.system_monitor(interval=3600.0) as monitor:
        sampled(monitor)
        time.sleep(0.2)
    store = Store(sqlite_uri, run)
    assert store.run.data.metrics.keys() >= _MLFLOWS
    assert steps_of(store) == [0, 1]
    assert store.status == "FINISHED"


@pytest.mark.slow
def test_a_run_that_ends_at_once_still_shows_a_sample(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.start_run(log_system_metrics=True) as run:
        pass
    found = Store(sqlite_uri, run).run.data.metrics.keys()
    assert found >= _MLFLOWS - {CPU}, "a share of time needs two samples"


@pytest.mark.slow
def test_the_agents_own_health_is_sampled(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.start_run() as run, tracker.system_monitor() as monitor:
        sampled(monitor)
    found = Store(sqlite_uri, run).run.data.metrics
    for name in ("lag_seconds", "pending_count", "spool_megabytes", "memory_usage_megabytes"):
        assert found[f"system/tailrace_{name}"] >= 0


@pytest.mark.slow
def test_the_agents_own_health_comes_after_the_programs_metrics_where_charts_are_sorted_by_name(
    tracker: Tracker, sqlite_uri: str
) -> None:
    with tracker.start_run() as run:
        for node in (None, "worker-1"):
            with tracker.system_monitor(node=node) as monitor:
                sampled(monitor)
    # A section for what stands before the last slash, those by name, and that of `system/` after them.
    sections: dict[str, list[str]] = {}
    for name in sorted(Store(sqlite_uri, run).run.data.metrics):
        sections.setdefault(name.rpartition("/")[0], []).append(name.rpartition("/")[2])
    assert list(sections) == ["system", "system/worker-1"]
    for names in sections.values():
        own = [name.startswith("tailrace_") for name in names]
        assert own == sorted(own), names
        assert 0 < sum(own) < len(own)


@pytest.mark.slow
def test_start_and_stop_do_what_with_does_and_steps_go_on_counting(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.start_run() as run:
        monitor = tracker.system_monitor(interval=3600.0)
        assert monitor.latest() == {}
        for count in (2, 4, 6):
            assert monitor.start() is monitor
            assert monitor.start() is monitor
            eventually(lambda count=count: _points(run, sqlite_uri) == count - 1)  # type: ignore[misc]
            monitor.stop()
            monitor.stop()
            eventually(lambda count=count: _points(run, sqlite_uri) == count)  # type: ignore[misc]
    assert steps_of(Store(sqlite_uri, run)) == [0, 1, 2, 3, 4, 5]


def _points(run: Run, uri: str) -> int:
    run.flush()
    return len(steps_of(Store(uri, run)))


@pytest.mark.slow
def test_nested_monitors_are_one_that_ends_with_the_outermost(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.start_run() as run:
        with tracker.system_monitor(interval=3600.0) as outer:
            sampled(outer)
            with tracker.system_monitor(interval=0.1, network=False) as inner:
                assert inner.latest() == outer.latest()
            assert _points(run, sqlite_uri) == 1
        assert _points(run, sqlite_uri) == 2


@pytest.mark.slow
def test_without_a_run_one_is_started(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.system_monitor() as monitor:
        run = tracker.active_run()
        assert run is not None
        sampled(monitor)
    assert tracker.active_run() is run
    tracker.end_run()
    assert MEMORY in Store(sqlite_uri, run).run.data.metrics  # a share of time needs two samples some time apart


@pytest.mark.slow
def test_several_runs_at_once_each_have_their_own_first_and_last_sample(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.start_run() as parent, parent.system_monitor(3600.0) as first:
        sampled(first)
        with tracker.start_run(nested=True) as child, child.system_monitor(3600.0) as second:
            sampled(second)
    of_child = Store(sqlite_uri, child)  # nested runs end without a wait; the parent's end waits for them, too
    assert steps_of(of_child) == [0, 1]
    assert steps_of(Store(sqlite_uri, parent)) == [0, 1, 2, 3]
    assert "system/cpu_count" in of_child.tags


@pytest.mark.slow
def test_start_run_and_the_settings_begin_it(tracker: Tracker, sqlite_uri: str) -> None:
    with tracker.start_run(log_system_metrics=True) as run:
        time.sleep(0.35)
    assert len(steps_of(Store(sqlite_uri, run))) >= 3
    with tracking(sqlite_uri, log_system_metrics=True, system_metrics_node="n7") as other:
        with other.start_run() as run:
            pass
        with other.start_run(log_system_metrics=False) as silent:
            pass
    assert "system/n7/system_memory_usage_megabytes" in Store(sqlite_uri, run).run.data.metrics
    assert not Store(sqlite_uri, silent).run.data.metrics


@pytest.mark.slow
def test_mlflows_variables_begin_it(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_NODE_ID", "worker-1")
    with tracking(sqlite_uri) as tracker, tracker.start_run() as run:
        time.sleep(0.5)
    assert len(steps_of(Store(sqlite_uri, run), "system/worker-1/system_memory_usage_megabytes")) >= 3


@pytest.mark.slow
def test_switches_prefix_and_node_choose_what_is_logged_and_how_it_is_called(tracker: Tracker, sqlite_uri: str) -> None:
    off = {"cpu": False, "disk": False, "network": False, "gpu": False, "process": False}
    with (
        tracker.start_run() as run,
        tracker.system_monitor(prefix="machine", node="a", cores=True, **off) as monitor,  # type: ignore[arg-type]
    ):
        sampled(monitor)
    kinds = {name.removeprefix("machine/a/")[:4] for name in Store(sqlite_uri, run).run.data.metrics}
    assert kinds <= {"syst", "swap", "tail"}
    assert "syst" in kinds


@pytest.mark.slow
def test_latest_comes_from_memory_as_a_dict_of_its_own(tracker: Tracker) -> None:
    with tracker.start_run(), tracker.system_monitor(interval=3600.0) as monitor:
        first = sampled(monitor)
        first.clear()
        began = time.perf_counter()
        for _ in range(1000):
            assert monitor.latest()
        assert (time.perf_counter() - began) / 1000 < 0.001  # microseconds: a benchmark says how many
        assert monitor.latest()[MEMORY] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"interval": 0}, "interval must be seconds from 0.1 to 3600, not 0"),
        ({"interval": "1s"}, "interval must be"),
        ({"cpu": 1}, "cpu must be True or False"),
        ({"prefix": "a//b"}, "prefix must be"),
        ({"node": "a\nb"}, "node must be"),
    ],
)
def test_bad_arguments_are_clear_errors_at_the_call(sqlite_uri: str, arguments: dict[str, Any], said: str) -> None:
    with tracking(sqlite_uri, on_error="warn") as tracker, tracker.start_run():
        with pytest.raises(CallError, match=said):
            tracker.system_monitor(**arguments)
        with pytest.raises(TypeError):
            tracker.system_monitor(gpus=True)  # type: ignore[call-arg]
    with pytest.raises(SettingsError):
        Tracker(system_metrics_interval=0)


@pytest.mark.slow
def test_a_working_directory_that_is_gone_costs_the_monitor_nothing_else(
    tracker: Tracker, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracker.start_run() as run:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with tracker.system_monitor() as monitor:
            sampled(monitor)
        monkeypatch.chdir(tmp_path)
    # Not the utilization: the first sample has none where no time has passed since the monitor began.
    assert "system/cpu_load_average_1m" in Store(sqlite_uri, run).run.data.metrics


@pytest.mark.slow
def test_a_tracker_that_is_off_takes_it_all(tmp_path: Path) -> None:
    with (
        tracking(str(tmp_path), agent="off", reports_dir=str(tmp_path / "reports")) as tracker,
        tracker.start_run(log_system_metrics=True),
        tracker.system_monitor() as monitor,
    ):
        assert monitor.latest() == {}


@pytest.mark.slow
def test_samples_are_no_calls_and_the_ledger_balances(tracker: Tracker) -> None:
    with tracker.start_run() as run, tracker.system_monitor() as monitor:
        for step in range(10):
            run.log(step=step, loss=0.5)
        sampled(monitor)
        time.sleep(0.3)
    ledger = run.ledger()
    assert ledger.calls == 10
    assert ledger.accepted > 10 + 3 * len(_MLFLOWS)
    assert ledger.accepted == ledger.delivered + ledger.dead + ledger.pending + sum(ledger.dropped.values())
    assert not ledger.pending
    assert not ledger.dead


@pytest.mark.slow
def test_system_metrics_are_the_first_to_go_at_the_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    intake = Intake(lambda *_: "")
    body = [encode((1, step, 1, {"loss": 0.5})) for step in range(250)]
    intake.feed("ring", body)
    intake.feed_samples(body)
    intake.feed("ring", body)
    changes = intake.take()
    assert sorted(block[1] for block in changes.blocks) == ["metric", "metric", SYSTEM]
    spool.ingest(changes.blocks, changes.tallies)
    one = len(encode_rows(body))
    assert spool.waiting.shed(2 * one, "full") == {1: 250}
    left = spool.waiting.oldest(1, "metric", 10_000)
    assert [block.n for block in left] == [250, 250]
    assert spool.database.rows("SELECT sum(minor) FROM block")[0][0] == 0
    assert spool.counts.ledger(1).dropped == {"full": 250}
    spool.close()


_TWO_PROCESSES = """
    import json, os, subprocess, sys, threading, time
    import tailrace as sdk

    if len(sys.argv) > 1:
        with sdk.system_monitor() as monitor:
            sdk.log(step=0, child=1)
            time.sleep(0.5)
    else:
        run = sdk.start_run(run_name="two", log_system_metrics=True)
        before = threading.active_count()
        subprocess.run([sys.executable, __file__, "child"], check=True)
        with sdk.system_monitor():
            pass
        assert run.run_id
        print(json.dumps({"threads": threading.active_count() - before,
                          "loaded": [name for name in ("psutil", "pynvml") if name in sys.modules]}))
        sdk.end_run()
"""


@pytest.mark.slow
def test_two_processes_of_one_session_are_sampled_once_and_no_thread_samples_in_them(
    sqlite_uri: str, tmp_path: Path
) -> None:
    done = script(tmp_path, _TWO_PROCESSES, TAILRACE_TRACKING_URI=sqlite_uri, TAILRACE_SYSTEM_METRICS_INTERVAL="3600")
    assert json.loads(done.stdout.splitlines()[-1]) == {"threads": 0, "loaded": []}
    store = named(sqlite_uri, "two")
    assert store.history("child") == [(0, 1.0)]
    assert steps_of(store) == [0, 1]


_KILLED_AGENT = """
    import os, signal, time
    import tailrace as sdk
    from tailrace_agent.ipc import status
    from tailrace_agent.ipc.status import AgentStatus

    run = sdk.start_run(run_name="killed-agent")
    monitor = sdk.system_monitor(interval=0.1).start()
    while run.ledger().accepted < 200:
        time.sleep(0.02)
    file = run._core.connection.session.shared / "agent.status"
    first = status.read(file, AgentStatus).pid
    os.kill(first, signal.SIGKILL)
    while status.read(file, AgentStatus).pid == first:
        time.sleep(0.02)
    count = run.ledger().accepted
    while run.ledger().accepted < count + 200:
        time.sleep(0.02)
    run.end()
    print(sum(run.ledger().dropped.values()), run.ledger().pending)
"""

_KILLED_TRAINER = """
    import os, signal, time
    import tailrace as sdk

    run = sdk.start_run(run_name="killed-trainer")
    monitor = sdk.system_monitor(interval=0.1).start()
    while run.ledger().accepted < 400:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_new_agent_goes_on_sampling_where_the_killed_one_stopped(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(tmp_path, _KILLED_AGENT, TAILRACE_TRACKING_URI=sqlite_uri)
    assert done.stdout.splitlines()[-1] == "0 0"
    steps = steps_of(named(sqlite_uri, "killed-agent"))
    assert len(steps) > 6
    assert steps == sorted(set(steps))
    # The count is written before the sample itself: the kill may fall between.
    assert len(steps) >= steps[-1]


@pytest.mark.slow
def test_the_monitor_of_a_killed_trainer_ends_with_it(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(tmp_path, _KILLED_TRAINER, check=False, TAILRACE_TRACKING_URI=sqlite_uri)
    assert done.returncode == -signal.SIGKILL, done.stderr
    client = MlflowClient(sqlite_uri)
    query = "tags.`mlflow.runName` = 'killed-trainer' and attributes.status = 'KILLED'"
    eventually(lambda: list(client.search_runs(["0"], query)))
    store = named(sqlite_uri, "killed-trainer")
    eventually(lambda: len(steps_of(store)) > 6)
    time.sleep(1.0)
    count = len(steps_of(store))
    time.sleep(0.5)
    assert len(steps_of(store)) == count


_GPU = """
    import time
    import tailrace as sdk

    with sdk.start_run(run_name="gpu"), sdk.system_monitor(interval=0.2) as monitor:
        while "system/gpu_0_utilization_percentage" not in monitor.latest():
            time.sleep(0.01)
        time.sleep(0.5)
"""


@pytest.mark.slow
def test_gpus_arrive_with_their_names_and_uuids_as_tags(sqlite_uri: str, tmp_path: Path) -> None:
    library = build(tmp_path)
    standin = Standin(tmp_path)
    standin.script("set 1 utilization 77")
    script(
        tmp_path,
        _GPU,
        TAILRACE_TRACKING_URI=sqlite_uri,
        LD_LIBRARY_PATH=str(library.parent),
        CUDA_VISIBLE_DEVICES="1",
        **standin.environ,
    )
    store = named(sqlite_uri, "gpu")
    metrics = store.run.data.metrics
    assert metrics["system/gpu_0_utilization_percentage"] == 77.0
    mlflows = ("memory_usage_percentage", "memory_usage_megabytes", "power_usage_watts", "power_usage_percentage")
    assert metrics.keys() >= {f"system/gpu_0_{name}" for name in (*mlflows, "temperature_celsius")}
    assert not [name for name in metrics if name.startswith("system/gpu_1_")], "only what the process may see"
    assert store.tags["system/gpu_0_name"]
    assert store.tags["system/gpu_0_uuid"].startswith("GPU-")
    assert store.tags["system/gpu_driver_version"]


@pytest.mark.slow
def test_the_samples_of_a_resumed_run_go_on_behind_those_that_it_has(sqlite_uri: str, tmp_path: Path) -> None:
    run_id, steps = None, list[list[int]]()
    for part in range(3):
        # A program of its own each time: nothing is known here of the one before.
        with tracking(sqlite_uri, dir=str(tmp_path / f"state-{part}")) as sdk:
            with sdk.start_run(run_id=run_id) as run, sdk.system_monitor(interval=3600.0) as monitor:
                sampled(monitor)
                sdk.log(step=part, loss=1.0)
            run_id = run.run_id
        steps.append(steps_of(Store(sqlite_uri, run_id)))
    assert steps == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert Store(sqlite_uri, run_id).history("loss") == [(0, 1.0), (1, 1.0), (2, 1.0)]
