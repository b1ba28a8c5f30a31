"""Which sources a monitor has, and under which names."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.sampler.config import MonitorConfig
from tailrace_agent.sampler.health import Health
from tailrace_agent.sampler.sampler import Sample, Sampler
from tailrace_agent.sampler.sources import all_sources, host_sources, process_family


class Silent:
    def info(self, event: str, **fields: object) -> None:
        pass

    def warning(self, event: str, **fields: object) -> None:
        raise AssertionError((event, fields))


@pytest.fixture
def sampled() -> Callable[..., list[Sample]]:
    def run(**config: Any) -> list[Sample]:
        samples: list[Sample] = []
        settings = MonitorConfig(gpu=False, interval=0.2, **config)
        sampler = Sampler(host_sources(settings), settings, samples.append, Silent())
        sampler.step(time.monotonic())
        time.sleep(0.2)
        sampler.step(time.monotonic())
        sampler.finish(time.monotonic())
        return samples

    return run


def test_mlflows_names_are_all_there(sampled: Callable[..., list[Sample]]) -> None:
    names = set(sampled()[1].values) | set(sampled()[0].values)
    assert {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
        "system/disk_usage_percentage",
        "system/disk_usage_megabytes",
        "system/disk_available_megabytes",
        "system/network_receive_megabytes",
        "system/network_transmit_megabytes",
    } <= names


def test_every_source_can_be_switched_off(sampled: Callable[..., list[Sample]]) -> None:
    switches = ("cpu", "memory", "disk", "network", "process")
    assert sampled(**dict.fromkeys(switches, False)) == []
    beginnings = {"cpu": ("cpu_", "dram_"), "memory": ("system_memory_", "swap_"), "disk": ("disk_",)}
    for switch in switches:
        others = dict.fromkeys((other for other in switches if other != switch), False)
        values = [name for sample in sampled(**others) for name in sample.values]
        assert values
        assert all(name.removeprefix("system/").startswith(beginnings.get(switch, (f"{switch}_",))) for name in values)


def test_every_name_is_in_the_docs(sampled: Callable[..., list[Sample]]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "system-metrics.md").read_text()
    for sample in sampled():
        for name in [*sample.values, *sample.tags]:
            assert f"`{name.removeprefix('system/')}`" in page


def test_the_family_of_a_process_is_itself_and_all_below_it() -> None:
    command = ["sh", "-c", "sh -c 'sleep 60 & echo $$ $!; wait' & wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child, grandchild = map(int, process.stdout.readline().split())
        assert process_family(process.pid) == {process.pid, child, grandchild}
        for pid in (process.pid, child, grandchild):
            os.kill(pid, signal.SIGKILL)
    assert process_family(process.pid) == set()


@pytest.mark.parametrize(("gpu", "pid", "torch"), [(True, 7, 1), (True, None, 0), (False, 7, 0)])
def test_what_pytorch_holds_is_measured_where_gpus_are_and_the_training_process_is_known(
    tmp_path: Path, gpu: bool, pid: int | None, torch: int
) -> None:
    config = MonitorConfig(gpu=gpu, pid=pid, cpu=False, memory=False, disk=False, network=False, process=False)
    names = [source.name for source in all_sources(config, KeptLog(), lambda: Health(0.0, 0, 0), tmp_path)]
    assert names[0] == "tailrace"
    assert names.count("torch") == torch
    assert ("gpu" in names) == gpu
