"""Whole programs on a real GPU: training that logs values on the device, into a real MLflow, killed and not killed.

`pytest tests/gpu/test_training.py -s` prints what the run's system metrics say of the GPU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.sdk_tools import Store, eventually, forget, named, script, tracking  # noqa: E402 - torch first, its absence skips

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

TRAIN = """
import time
import torch
import tailrace as sdk

model = torch.nn.Sequential(torch.nn.Linear(2048, 8192), torch.nn.ReLU(), torch.nn.Linear(8192, 1)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
data = torch.randn(8192, 2048, device="cuda")

def train(seconds):
    end, step = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        loss = model(data).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sdk.log(step=step, loss=loss, copy=loss * 2, host=1.0)
        step += 1
        if step % 8 == 0:  # as any loop that reads its loss now and then: else the CPU runs ahead without end
            torch.cuda.synchronize()
    return step
"""

WATCHED = (
    TRAIN
    + """
with sdk.start_run(run_name="watched"), sdk.system_monitor(interval=0.5):
    steps = train(12)
    print(steps, torch.cuda.memory_allocated() / 1e6, torch.cuda.memory_reserved() / 1e6, flush=True)
"""
)


def test_a_runs_system_metrics_show_its_gpu_at_work(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(tmp_path, WATCHED, TAILRACE_TRACKING_URI=sqlite_uri)
    steps, allocated, reserved = (float(text) for text in done.stdout.split()[-3:])
    store = named(sqlite_uri, "watched")
    gpu = {key.removeprefix("system/"): points for key, points in store.metrics().items() if "gpu_0" in key}
    last = {key: points[-1][1] for key, points in gpu.items()}
    for key, points in sorted(gpu.items()):
        print(f"{key}: {len(points)} samples, last {points[-1][1]:.6g}, largest {max(p[1] for p in points):.6g}")
    print({key: text for key, text in store.tags.items() if "gpu" in key})
    print(done.stderr)

    assert len(store.history("loss")) == len(store.history("copy")) == len(store.history("host")) == steps
    pairs = zip(store.history("loss"), store.history("copy"), strict=True)
    assert all(twice == (step, pytest.approx(2 * loss, rel=1e-5)) for (step, loss), twice in pairs)
    busy = [value for _, value in gpu["gpu_0_utilization_percentage"]]
    assert max(busy) > 80
    assert last["gpu_0_torch_allocated_megabytes"] == pytest.approx(allocated, rel=0.5)
    assert last["gpu_0_torch_reserved_megabytes"] == pytest.approx(reserved, rel=0.01)
    watts = [value for _, value in gpu["gpu_0_power_usage_watts"]]
    assert 0.3 < last["gpu_0_energy_joules"] / (sum(watts) / len(watts) * 12) < 3
    kilowatt_hours = store.history("system/energy_kilowatt_hours")[-1][1]
    assert kilowatt_hours >= last["gpu_0_energy_joules"] / 3.6e6 * 0.999
    assert torch.cuda.get_device_name(0) in store.tags.values()


KILLED = (
    TRAIN
    + """
sdk.start_run(run_name="killed")
while True:
    steps = train(1)
    torch.cuda.synchronize()
    time.sleep(0.2)
    print(steps, flush=True)
"""
)


def test_a_kill_in_the_middle_loses_no_value_that_had_come_home(sqlite_uri: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(KILLED)
    environ = {"TAILRACE_DIR": str(tmp_path / "tailrace"), "TAILRACE_TRACKING_URI": sqlite_uri}
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=tmp_path, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        whole = [int(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGKILL)
    store = eventually(lambda: _ended(sqlite_uri, "killed"), 60)
    loss, host = store.history("loss"), store.history("host")
    print(f"{len(host)} steps of numbers, {len(loss)} of values on the GPU, whole rounds {whole}; {store.status}")
    assert store.status == "KILLED"
    begins = [index for index, (step, _) in enumerate(loss) if step == 0]
    rounds = [loss[begin:end] for begin, end in zip(begins, [*begins[1:], len(loss)], strict=True)]
    assert [len(points) for points in rounds[:2]] == whole
    for points in rounds:
        assert [step for step, _ in points] == list(range(len(points))), "a gap or a twin"
    forget(tmp_path)


def _ended(uri: str, name: str) -> Store | None:
    try:
        store = named(uri, name)
    except ValueError:  # the agent was still importing MLflow when the program was killed
        return None
    return store if "tailrace.ledger" in store.tags else None  # the status comes first, the ledger last


def test_a_model_on_the_gpu_is_saved_as_it_was_at_the_call_and_loads_on_the_cpu(sqlite_uri: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4096, 4096), torch.nn.BatchNorm1d(4096), torch.nn.Linear(4096, 1))
    model = model.cuda().eval()
    example = torch.randn(4, 4096, device="cuda")
    with torch.no_grad():
        before = model(example).cpu()
    with tracking(sqlite_uri) as tracker, tracker.start_run() as run:
        torch.cuda.synchronize()
        torch.cuda._sleep(2_000_000_000)  # the device is busy for a second: the call must not wait for it
        begun = time.perf_counter()
        handle = run.log_model(model, "net", input_example=example)
        took = time.perf_counter() - begun
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        print(f"log_model of 67 MB on a busy GPU: {took * 1e3:.1f} ms")
        assert handle.wait(100), handle
        assert handle.error is None
        loaded: Any = tracker.load_model("net", run_id=run.run_id)
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}
    with torch.no_grad():
        assert torch.allclose(loaded(example.cpu()), before, rtol=1e-2, atol=1e-2)
        assert loaded(example.cpu()).abs().max() > 0


def test_only_the_gpus_that_a_program_may_see_are_measured(sqlite_uri: str, tmp_path: Path) -> None:
    uuid = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    code = """
    import time
    import tailrace as sdk

    with sdk.start_run(run_name="{name}"), sdk.system_monitor(interval=0.2):
        time.sleep(1)
    """
    found = {}
    for name, visible in {"none": "", "index": "0", "uuid": uuid, "prefix": uuid[:12]}.items():
        (tmp_path / name).mkdir()
        script(tmp_path / name, code.format(name=name), TAILRACE_TRACKING_URI=sqlite_uri, CUDA_VISIBLE_DEVICES=visible)
        found[name] = {key for key in named(sqlite_uri, name).run.data.metrics if "gpu_" in key}
        forget(tmp_path / name)
    assert found["none"] == set()
    assert "system/gpu_0_utilization_percentage" in found["index"]
    assert found["index"] == found["uuid"] == found["prefix"]
