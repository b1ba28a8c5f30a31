"""Each GPU figure against `nvidia-smi`, on a real GPU. What a CPU machine can show is in
`tests/agent/sampler/gpu/test_sources.py`.

`pytest tests/gpu/test_nvml.py -s` prints both figures side by side, and what each source's calls cost.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import Any

import pytest

from tailrace_agent.sampler.gpu.sources import gpu_sources
from tailrace_agent.sampler.source import Source, SourceGone

MEBIBYTE = 1.048576


class PrintingLog:
    def info(self, event: str, **fields: object) -> None:
        print(event, fields)

    warning = error = info


def sources() -> list[Source]:
    return gpu_sources(os.environ.get("CUDA_VISIBLE_DEVICES"), PrintingLog(), lambda: {os.getpid()})


@pytest.fixture
def found() -> Any:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no nvidia-smi on this machine")
    every = sources()
    try:
        every[0].sample(time.monotonic())
    except SourceGone as gone:
        pytest.skip(f"no GPU on this machine: {gone}")
    yield every
    for source in every:
        source.close()


def smi(uuid: str, *fields: str) -> dict[str, str]:
    """What `nvidia-smi` says of a GPU; without what it has no figure for."""
    command = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    line = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    texts = dict(zip(fields, line.split(", "), strict=True))
    return {field: text for field, text in texts.items() if "N/A" not in text and "Not Supported" not in text}


def gpus(every: list[Source]) -> dict[int, str]:
    """UUIDs of the whole GPUs by visible index."""
    tags = every[0].tags()
    uuids = {int(name.split("_")[1]): text for name, text in tags.items() if name.endswith("_uuid")}
    return {index: uuid for index, uuid in uuids.items() if uuid.startswith("GPU-")}


def measure(every: list[Source]) -> dict[str, float]:
    values: dict[str, float] = {}
    for source in every:
        values.update(source.sample(time.monotonic()))
    return values


def near(ours: float, theirs: str, absolute: float, relative: float) -> bool:
    return abs(ours - float(theirs)) <= absolute + relative * float(theirs)


# Metric, nvidia-smi's field, and how far they may be apart: absolute, and relative to theirs.
COMPARED = [
    ("utilization_percentage", "utilization.gpu", 15.0, 0.1),
    ("power_usage_watts", "power.draw", 15.0, 0.2),
    ("temperature_celsius", "temperature.gpu", 3.0, 0.0),
    ("sm_clock_megahertz", "clocks.sm", 100.0, 0.1),
    ("memory_clock_megahertz", "clocks.mem", 50.0, 0.0),
    ("fan_speed_percentage", "fan.speed", 5.0, 0.0),
    ("ecc_corrected_errors", "ecc.errors.corrected.volatile.total", 0.0, 0.0),
    ("ecc_uncorrected_errors", "ecc.errors.uncorrected.volatile.total", 0.0, 0.0),
]


def test_each_figure_is_nvidia_smis(found: list[Source]) -> None:
    wrong = []
    for index, uuid in gpus(found).items():
        for name, field, absolute, relative in COMPARED:
            values, theirs = measure(found), smi(uuid, field)
            ours = values.get(f"gpu_{index}_{name}")
            print(f"gpu {index} {name}: {ours}, nvidia-smi: {theirs.get(field)}")
            told = field in theirs
            if (ours is not None) != told or (ours is not None and not near(ours, theirs[field], absolute, relative)):
                wrong.append((name, ours, theirs))
    assert wrong == []


def test_memory_is_what_nvidia_smi_counts_as_used_and_reserved(found: list[Source]) -> None:
    for index, uuid in gpus(found).items():
        values, theirs = measure(found), smi(uuid, "memory.used", "memory.reserved", "memory.total")
        used = (float(theirs["memory.used"]) + float(theirs.get("memory.reserved", 0))) * MEBIBYTE
        total = float(theirs["memory.total"]) * MEBIBYTE
        ours = values[f"gpu_{index}_memory_usage_megabytes"]
        print(f"gpu {index} memory: {ours:.0f} MB, nvidia-smi, used and reserved: {used:.0f} MB of {total:.0f}")
        assert ours == pytest.approx(used, abs=200 if "memory.reserved" in theirs else 2000)
        assert values[f"gpu_{index}_memory_usage_percentage"] == pytest.approx(ours / total * 100, abs=0.5)


def test_the_power_limit_and_the_throttle_reasons_are_nvidia_smis(found: list[Source]) -> None:
    for index, uuid in gpus(found).items():
        values, theirs = measure(found), smi(uuid, "enforced.power.limit", "clocks_throttle_reasons.hw_slowdown")
        if "enforced.power.limit" in theirs:
            limit = values[f"gpu_{index}_power_usage_watts"] / values[f"gpu_{index}_power_usage_percentage"] * 100
            assert limit == pytest.approx(float(theirs["enforced.power.limit"]), rel=0.01)
        reason = theirs.get("clocks_throttle_reasons.hw_slowdown")
        if reason is not None:
            assert values[f"gpu_{index}_throttled_hardware"] == (reason == "Active")


def test_names_uuids_and_the_driver_are_nvidia_smis(found: list[Source]) -> None:
    tags = found[0].tags()
    for index, uuid in gpus(found).items():
        theirs = smi(uuid, "name", "uuid", "driver_version")
        assert tags[f"gpu_{index}_name"] == theirs["name"]
        assert uuid == theirs["uuid"]
        assert tags["gpu_driver_version"] == theirs["driver_version"]


def test_energy_is_power_times_time(found: list[Source]) -> None:
    index = next(iter(gpus(found)), None)
    if index is None:
        pytest.skip("only MIG instances here")
    begun, watts = time.monotonic(), []
    while time.monotonic() - begun < 5:
        watts.append(measure(found)[f"gpu_{index}_power_usage_watts"])
        time.sleep(0.2)
    joules = found[1].totals()[f"gpu_{index}_energy_joules"]
    expected = sum(watts) / len(watts) * (time.monotonic() - begun)
    print(f"gpu {index} energy: {joules:.0f} J, power times time: {expected:.0f} J")
    assert joules == pytest.approx(expected, rel=0.3)


def test_what_the_calls_cost(found: list[Source]) -> None:
    for source in found:
        walls = []
        for _ in range(20):
            begun = time.perf_counter()
            source.sample(time.monotonic())
            walls.append(time.perf_counter() - begun)
        print(f"{source.name}: median {sorted(walls)[10] * 1e3:.3f} ms, longest {max(walls) * 1e3:.3f} ms")


def test_memory_and_processes_of_this_process_show_an_allocation(found: list[Source]) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    before = measure(found)["gpu_0_memory_usage_megabytes"]
    block = torch.ones(2**30, dtype=torch.uint8, device="cuda:0")
    torch.cuda.synchronize()
    values: dict[str, float] = {}
    for _ in range(2 * len(found[0].tags())):
        values.update(measure(found))
    print(f"after a GiB: {values['gpu_0_memory_usage_megabytes'] - before:.0f} MB more")
    assert values["gpu_0_memory_usage_megabytes"] - before >= 1000
    ours = values.get("gpu_0_process_memory_usage_megabytes")
    print(f"of this process: {ours} MB (None where the driver lists pids of another namespace)")
    assert ours is None or ours >= 1000
    del block
