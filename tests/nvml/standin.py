"""Builds the stand-in for `libnvidia-ml.so.1` (see `standin.c`) and steers it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pynvml
import pytest

SOURCE = Path(__file__).with_name("standin.c")

FUNCTIONS = [
    "nvmlInitWithFlags",
    "nvmlShutdown",
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetFanSpeed",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetTotalEccErrors",
    "nvmlDeviceGetPcieThroughput",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetComputeRunningProcesses_v2",
]
"""What it has: what tailrace calls, by the names in the library."""


def build(directory: Path, *flags: str) -> Path:
    """Compiles it into `directory`, for `LD_LIBRARY_PATH`; skips where there is no C compiler.

    It has no soname, so that loading it by path does not make it this process's answer to `libnvidia-ml.so.1`.
    """
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("gcc is needed to build the stand-in for libnvidia-ml.so.1")
    library = directory / "libnvidia-ml.so.1"
    command = [gcc, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", *flags]
    subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True, timeout=60)
    return library


class Standin:
    """What the stand-in of this process, or of those that inherit `environ`, does and did."""

    def __init__(self, directory: Path) -> None:
        self._script, self._trace = directory / "nvml.script", directory / "nvml.trace"
        self.environ = {"NVML_STANDIN": str(self._script)}
        self._versions = 0
        self.script()

    def script(self, *lines: str) -> None:
        """From now on this, and only this; the whole file at once."""
        self._versions += 1
        # Each version stays, so that no two have one inode: that is what the stand-in knows them by.
        version, link = (self._script.with_suffix(f".{self._versions}{end}") for end in ("", ".link"))
        version.write_text("".join(f"{line}\n" for line in lines))
        link.symlink_to(version)
        link.replace(self._script)

    def trace(self) -> None:
        """From now on the calls are written down."""
        self.environ["NVML_STANDIN_TRACE"] = os.environ["NVML_STANDIN_TRACE"] = str(self._trace)

    def calls(self) -> list[tuple[int, str, int]]:
        """Pid, function and device of each call since the last time this was asked."""
        if not self._trace.exists():
            return []
        lines = [line.split() for line in self._trace.read_text().splitlines()]
        self._trace.unlink()
        return [(int(pid), function, int(device)) for pid, function, device in lines]


@contextmanager
def loaded(library: Path) -> Iterator[None]:
    """The real pynvml, with the stand-in where it keeps the library that it has loaded."""
    _forget(pynvml)
    stand_in = ctypes.CDLL(str(library))
    pynvml.nvmlLib = stand_in
    try:
        yield
    finally:
        while stand_in.nvmlShutdown() == 0:
            pass
        _forget(pynvml)


def _forget(module: Any) -> None:
    module.nvmlLib = None
    module._nvmlLib_refcount = 0
    module._nvmlGetFunctionPointer_cache.clear()
