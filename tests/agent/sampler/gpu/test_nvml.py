"""NVML is found, opened once in each process, and shut down by who has opened it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helpers.gpu_monitor import Monitor
from nvml.standin import Standin

# --------------------------------------------------------------------------------------------------------------- cost


def test_close_shuts_nvml_down_once_and_a_later_sample_opens_it_again(nvml: Standin) -> None:
    monitor = Monitor()
    monitor.sample(0)
    nvml.trace()
    monitor.close()
    monitor.close()
    assert [function for _, function, _ in nvml.calls()] == ["nvmlShutdown"]
    assert "gpu_0_utilization_percentage" in monitor.sample(1)


# ------------------------------------------------------------------- processes of their own, and the library's search


PROGRAM = """
import json, os, sys
from tailrace_agent.sampler.gpu.sources import gpu_sources
from tailrace_agent.sampler.guard import Guarded
from tailrace_agent.sampler.source import SourceGone

class Log:
    def info(self, event, **fields): print(json.dumps([event, fields]), file=sys.stderr)
    warning = info

sources = gpu_sources(os.environ.get("CUDA_VISIBLE_DEVICES"), Log())

def sample(now):
    try:
        return sources[0].sample(now)
    except SourceGone as gone:
        return str(gone)

def say(value):
    print(json.dumps(value), flush=True)
"""


def run(body: str, path: Path, environ: dict[str, str]) -> list[Any]:
    environment = {**os.environ, **environ, "LD_LIBRARY_PATH": str(path)}
    command = [sys.executable, "-c", PROGRAM + body]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_library_is_found_by_the_dynamic_linker_and_pynvml_is_imported_no_earlier(
    library: Path, tmp_path: Path
) -> None:
    body = "say('pynvml' in sys.modules); say(sample(0)); say('pynvml' in sys.modules)"
    before, values, after = run(body, library.parent, {**Standin(tmp_path).environ, "CUDA_VISIBLE_DEVICES": "1"})
    assert (before, after) == (False, True)
    assert values["gpu_0_utilization_percentage"] == 41


def test_a_library_that_is_missing_is_found_when_it_appears(library: Path, tmp_path: Path) -> None:
    # A file that is no library ends the dynamic linker's search, so that a machine with a driver has none either.
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    body = f"""
say(sample(0)); say(sample(1))
os.remove({str(tmp_path / "libnvidia-ml.so.1")!r})
os.symlink({str(library)!r}, {str(tmp_path / "libnvidia-ml.so.1")!r})
say(sample(2))
"""
    first, second, third = run(body, tmp_path, Standin(tmp_path).environ)
    assert first == second == "nvmlInit: LibraryNotFound"
    assert third["gpu_0_utilization_percentage"] == 40


def test_a_version_mismatch_at_the_start(library: Path, tmp_path: Path) -> None:
    standin = Standin(tmp_path)
    standin.script("fail nvmlInitWithFlags * 18")
    assert run("say(sample(0))", library.parent, standin.environ) == ["nvmlInit: LibRmVersionMismatch"]


def test_a_forked_child_opens_nvml_for_itself_and_leaves_the_parents_open(library: Path, tmp_path: Path) -> None:
    body = """
sample(0)
child = os.fork()
if not child:
    say([source.sample(1) for source in sources[1:]])
    say(sample(2))
    for source in sources: source.close()
    os._exit(0)
os.waitpid(child, 0)
say(sample(3))
say([os.getpid(), child])
"""
    standin = Standin(tmp_path)
    standin.trace()
    try:
        others, forked, parents, (parent, child) = run(body, library.parent, standin.environ)
    finally:
        os.environ.pop("NVML_STANDIN_TRACE")
    assert others == [{}, {}, {}]
    assert forked == parents
    assert forked["gpu_1_utilization_percentage"] == 41
    calls = Counter((pid, function) for pid, function, _ in standin.calls())
    assert calls[parent, "nvmlInitWithFlags"] == calls[child, "nvmlInitWithFlags"] == 1
    assert (calls[parent, "nvmlShutdown"], calls[child, "nvmlShutdown"]) == (0, 1)


def test_a_forked_child_that_only_closes_shuts_nothing_down(library: Path, tmp_path: Path) -> None:
    body = """
sample(0)
child = os.fork()
if not child:
    for source in sources: source.close()
    os._exit(0)
os.waitpid(child, 0)
say(sample(1) != {})
"""
    standin = Standin(tmp_path)
    standin.trace()
    try:
        assert run(body, library.parent, standin.environ) == [True]
    finally:
        os.environ.pop("NVML_STANDIN_TRACE")
    assert "nvmlShutdown" not in {function for _, function, _ in standin.calls()}


def test_without_nvidia_ml_py_the_source_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monitor = Monitor()
    assert monitor.sample(0) == {}
    assert "nvidia-ml-py" in monitor.gone
