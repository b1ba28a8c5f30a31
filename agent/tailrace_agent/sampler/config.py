"""What a system monitor is to measure, and how its metrics are called. Light enough for the training process."""

from __future__ import annotations

import math
import posixpath
import re
from typing import Final

import msgspec

from tailrace_agent.errors import CallError

__all__ = ["SWITCHES", "MonitorConfig", "key", "node_part"]

SWITCHES: Final = ("cpu", "memory", "disk", "network", "gpu", "process", "cores")
"""The fields of `MonitorConfig` that are switched on and off."""

_SHORTEST: Final = 0.1
_LONGEST: Final = 3600.0
_LONGEST_NAME: Final = 80
"""Of a prefix or node: MLflow allows 250 characters in a key, and the longest name of a metric has some 60."""
_NAME: Final = re.compile(r"[\w\-./: ]+", re.ASCII)
_NOT_A_NODE: Final = re.compile(r"[^\w.-]+", re.ASCII)


class MonitorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One system monitor.

    Attributes:
        interval: Seconds between two samples, from 0.1 to 3600.
        cpu: Utilisation, load, context switches, package energy.
        memory: Memory and swap.
        disk: The file system of `cwd`, and the disks' throughput.
        network: Totals and throughput.
        gpu: The GPUs that `visible_devices` shows.
        process: The process `pid` and its children.
        cores: Each core's utilisation, too.
        prefix: First part of every metric's name. MLflow's UI shows what starts with `system/`.
        node: Name of this machine among several that log to one run: `system/<node>/…`.
        pid: Root process of the training program; None means the process that samples.
        cwd: Directory whose file system is measured; None means the working directory of the process that samples.
        visible_devices: `CUDA_VISIBLE_DEVICES` as the training process has it; None when it is not set.
        family: Root process of a job's processes on this machine, of which `pid` is one: all of them are measured, and
            GPUs have the machine's own index. None: `pid` is alone.

    Raises:
        CallError: A value can never work.

    Example:
        >>> MonitorConfig(interval=0.5, gpu=False, node="worker-3").node
        'worker-3'
    """

    interval: float = 1.0
    cpu: bool = True
    memory: bool = True
    disk: bool = True
    network: bool = True
    gpu: bool = True
    process: bool = True
    cores: bool = False
    prefix: str = "system"
    node: str | None = None
    pid: int | None = None
    cwd: str | None = None
    visible_devices: str | None = None
    family: int | None = None

    def __post_init__(self) -> None:
        _check_interval(self.interval)
        for name in SWITCHES:
            _require(type(getattr(self, name)) is bool, name, getattr(self, name), "True or False")
        _check_name("prefix", self.prefix)
        if self.node is not None:
            _check_name("node", self.node)
        for name in ("pid", "family"):
            pid: object = getattr(self, name)
            _require(pid is None or (type(pid) is int and pid > 0), name, pid, "a process id, or None")
        for name in ("cwd", "visible_devices"):
            value: object = getattr(self, name)
            _require(value is None or isinstance(value, str), name, value, "a string, or None")


def key(prefix: str, node: str | None, name: str) -> str:
    """A metric's full name: `key("system", None, "swap_usage_megabytes")` is `system/swap_usage_megabytes`."""
    return f"{prefix}/{name}" if node is None else f"{prefix}/{node}/{name}"


def node_part(name: str) -> str:
    """What a machine is called in a metric's name: what that may not have becomes a dash.

    Example:
        >>> node_part("gpu box #3"), node_part("../knoten-ä"), node_part("###")
        ('gpu-box-3', 'knoten', 'node')
    """
    return _NOT_A_NODE.sub("-", name)[:_LONGEST_NAME].strip("-.") or "node"


def _check_interval(value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    _require(
        number and _SHORTEST <= value <= _LONGEST,  # type: ignore[operator]  # it is a number by then
        "interval",
        value,
        f"seconds from {_SHORTEST:g} to {_LONGEST:g}",
    )


def _check_name(field: str, value: object) -> None:
    fits = (
        isinstance(value, str)
        and len(value) <= _LONGEST_NAME
        and _NAME.fullmatch(value) is not None
        # MLflow refuses a key that is no clean path.
        and posixpath.normpath(value) == value
        and value.strip("./") == value
    )
    allowed = f"at most {_LONGEST_NAME} of MLflow's characters (letters, digits, _ - . / : and space), such as 'system'"
    _require(fits, field, value, allowed)


def _require(condition: bool, field: str, value: object, allowed: str) -> None:
    if not condition:
        raise CallError(f"system_monitor: {field} must be {allowed}, not {value!r:.100}")
