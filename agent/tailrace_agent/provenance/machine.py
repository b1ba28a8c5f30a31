"""What this machine and an interpreter on it hold: GPUs, processor, installed packages."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from typing import Any, Final

import msgspec

from tailrace_agent.decoding import decode_json
from tailrace_agent.runtime import interpreter
from tailrace_agent.sampler.gpu.listing import list_cards, text
from tailrace_agent.sampler.gpu.nvml import Nvml, NvmlError
from tailrace_agent.sampler.gpu.visible import hides_all, visible

__all__ = ["gpus", "machine", "packages"]

_DEADLINE: Final = 20.0
_HEAD: Final = re.compile(r"^(Name|Version): *(.+?) *$", re.MULTILINE)
_LIST_PACKAGES: Final = f"""{interpreter.WITHOUT_HERE}
import json
from importlib.metadata import distributions
json.dump([[d.metadata["Name"], d.version] for d in distributions()], sys.stdout)
"""


def packages(executable: str) -> list[str]:
    """`name==version` of every package that an interpreter finds, sorted; empty when it does not answer."""
    if executable in ("", sys.executable):  # as a rule: the agent runs in the trainer's interpreter
        found = [_named(distribution) for distribution in distributions()]
    else:
        found = _packages_of(executable)
    named = {name.lower(): f"{name}=={version}" for name, version in reversed(found) if name}  # the first on the path
    return [named[name] for name in sorted(named)]


def _named(distribution: Distribution) -> tuple[str, str]:
    """Name and version from the head of its metadata; `.metadata` parses all of it, in ten times the time."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head = dict(_HEAD.findall(text.partition("\n\n")[0]))
    return head.get("Name", ""), head.get("Version", "")


def _packages_of(executable: str) -> list[tuple[str, str]]:
    try:
        done = subprocess.run(
            [executable, "-c", _LIST_PACKAGES],
            env=interpreter.environment(),
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE,
        )
        return decode_json(done.stdout, list[tuple[str, str]])
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return []


def gpus(visible_devices: str | None) -> list[str]:
    """Names of the GPUs that a process with this `CUDA_VISIBLE_DEVICES` sees; empty where there is no NVML."""
    if hides_all(visible_devices):
        return []
    nvml = Nvml()  # of its own: a sampler, on its thread, may close the one that it has
    try:
        nvml.open()
        cards = list_cards(nvml)
        places = visible(visible_devices, [listed.card for listed in cards])
        names = [text(nvml, "nvmlDeviceGetName", cards[place.card].at(place)[1]) for place in places]
        return [name for name in names if name]
    except NvmlError:
        return []
    finally:
        nvml.close()


def machine() -> dict[str, Any]:
    """Operating system, processor and memory."""
    found: dict[str, Any] = {"platform": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()}
    try:
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not available on this system
        found["memory_bytes"] = None
    return found
