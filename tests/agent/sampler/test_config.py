"""What a monitor may be configured with, and how its metrics are called."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from helpers.sampler_bench import Bench, Fake
from tailrace_agent.errors import CallError
from tailrace_agent.sampler.config import MonitorConfig, key


def test_the_configuration_is_light_enough_for_the_training_process() -> None:
    code = "import sys, tailrace_agent.sampler.config; print('psutil' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("prefix", "node", "expected"),
    [("system", None, "system/value"), ("system", "n-1", "system/n-1/value"), ("hw", "a b", "hw/a b/value")],
)
def test_names_are_made_as_mlflow_makes_them(prefix: str, node: str | None, expected: str) -> None:
    bench = Bench(Fake(), prefix=prefix, node=node)
    bench.sampler.step(1000.0)
    assert list(bench.samples[0].values) == [expected] == [key(prefix, node, "value")]
    assert bench.samples[0].tags == {key(prefix, node, "fake_name"): "fake"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"interval": 0}, "interval must be seconds from 0.1 to 3600, not 0"),
        ({"interval": math.nan}, "interval must be"),
        ({"interval": True}, "interval must be"),
        ({"interval": "1"}, "interval must be seconds from 0.1 to 3600, not '1'"),
        ({"cpu": 1}, "cpu must be True or False, not 1"),
        ({"cores": None}, "cores must be"),
        ({"prefix": ""}, "prefix must be at most 80 of MLflow's characters"),
        ({"prefix": "/system"}, "prefix must be"),
        ({"prefix": "system/"}, "prefix must be"),
        ({"prefix": "a//b"}, "prefix must be"),
        ({"prefix": ".."}, "prefix must be"),
        ({"prefix": "sys(tem)"}, "prefix must be"),
        ({"prefix": None}, "prefix must be"),
        ({"node": "x" * 81}, "node must be"),
        ({"node": "a\n"}, "node must be"),
        ({"pid": 0}, "pid must be a process id, or None, not 0"),
        ({"pid": True}, "pid must be"),
        ({"cwd": 7}, "cwd must be a string, or None, not 7"),
        ({"visible_devices": [0]}, "visible_devices must be"),
    ],
)
def test_what_can_never_work_is_said_in_words(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError) as caught:
        MonitorConfig(**wrong)
    assert str(caught.value).startswith(f"system_monitor: {message}")


def test_a_configuration_survives_the_way_to_the_agent() -> None:
    config = MonitorConfig(interval=2.5, node="a/b", pid=7, cwd="/tmp", visible_devices="", cores=True)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=MonitorConfig) == config
