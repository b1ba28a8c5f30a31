"""`import tailrace` stays light: a training script pays for it at every start, used or not."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.entry_points import lay_entry_points
from tailrace_agent.mlflow.lean_import import uncollected

HEAVY = {
    "asyncio",
    "click",
    "importlib.metadata",
    "matplotlib",
    "mlflow",
    "multiprocessing",
    "numpy",
    "pandas",
    "PIL",
    "platformdirs",
    "psutil",
    "pynvml",
    "requests",
    "rich",
    "sklearn",
    "sqlalchemy",
    "structlog",
    "tomllib",
    "tomli",
    "torch",
}


def _modules_after(statement: str, *places: str) -> set[str]:
    script = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    # -I keeps the user's site and PYTHON* variables out, so the paths are handed over.
    head = f"import sys; sys.path[:] = {[*places, *sys.path]!r}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", head + script], capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """What an interpreter holds before (a site's .pth files may load the strangest things)."""
    return _modules_after("pass")


def _heavy(modules: set[str]) -> set[str]:
    return {name for name in modules if name in HEAVY or name.split(".")[0] in HEAVY}


LIGHT = ["tailrace", "tailrace_agent.ipc.records", "tailrace_agent.ipc.ring_writer", "tailrace_agent.settings.sources"]


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_loads_no_heavy_module(module: str, bare: set[str]) -> None:
    assert _heavy(_modules_after(f"import {module}") - bare) == set()


def test_resolving_the_settings_loads_no_heavy_module_where_there_is_no_file(bare: set[str], tmp_path: object) -> None:
    statement = (
        "import os\nfrom pathlib import Path\n"
        "from tailrace_agent.settings.sources import load_settings\n"
        f"load_settings({{'dir': '/x'}}, environ={{}}, start_dir=Path({str(tmp_path)!r}))"
    )
    assert _heavy(_modules_after(statement) - bare) == set()


def test_mlflow_loads_the_bare_entry_points_alone_in_a_program_that_does_not_use_tailrace(tmp_path: Path) -> None:
    loaded = _modules_after("import mlflow", *lay_entry_points(tmp_path).split(os.pathsep))
    assert {name for name in loaded if name.startswith("tailrace")} == {"tailrace_mlflow"}


def test_no_garbage_is_looked_for_while_the_agent_imports_mlflow_nor_in_what_has_come_with_it() -> None:
    before = gc.get_freeze_count()
    try:
        with uncollected():
            assert not gc.isenabled()
            come = [[] for _ in range(1000)]  # type: ignore[var-annotated]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(come)
        gc.disable()
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.unfreeze()
        gc.enable()
