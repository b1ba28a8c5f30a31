"""MLflow imported without pandas, where that can be done, and without a trace where it cannot."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.entry_points import lay_entry_points
from tailrace_agent.mlflow import lean_import


def _in_a_process(code: str, *places: str) -> list[str]:
    path = os.pathsep.join([*places, *sys.path])
    environ = {**os.environ, "PYTHONPATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_mlflow_is_imported_without_pandas_and_whoever_wants_it_later_gets_it() -> None:
    code = """
import sys
from tailrace_agent.mlflow.lean_import import import_lean
import_lean()
print("mlflow" in sys.modules, "pandas" in sys.modules, "numpy" in sys.modules)
import pandas
print(pandas.DataFrame({"a": [1]}).size)
"""
    assert _in_a_process(code) == ["True", "False", "False", "1"]


def test_nothing_is_left_out_where_a_plug_in_may_need_it_or_mlflow_is_there_already() -> None:
    code = """
import sys
from tailrace_agent.mlflow import lean_import
lean_import.has_plug_ins = lambda: True
lean_import.import_lean()
print("mlflow" in sys.modules)
lean_import.has_plug_ins = lambda: False
sys.modules["mlflow"] = None
lean_import.import_lean()
print("pandas" in sys.modules)
"""
    assert _in_a_process(code) == ["False", "False"]


@pytest.mark.slow
def test_the_plug_in_of_our_own_needs_nothing_of_what_is_left_out_and_the_agent_does_not_get_the_sdk(
    tmp_path: Path,
) -> None:
    code = """
import sys
from tailrace_agent.mlflow.lean_import import import_lean
import_lean()
from mlflow.tracking._tracking_service.utils import _tracking_store_registry as registry
print(registry.get_store_builder("tailrace+https://host").__module__)
print(*("tailrace_mlflow" in sys.modules, "tailrace" in sys.modules, "pandas" in sys.modules))
"""
    assert _in_a_process(code, lay_entry_points(tmp_path)) == ["tailrace_mlflow", "True", "False", "False"]


def test_an_import_that_cannot_do_without_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_import, "has_plug_ins", lambda: False)
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    seen: list[object] = []

    def fails(name: str) -> None:
        seen.append("surely_absent" in sys.modules)
        raise ImportError("numpy is needed")

    monkeypatch.setattr(lean_import, "_LEFT_OUT", ("surely_absent",))
    monkeypatch.setattr(lean_import.importlib, "import_module", fails)
    lean_import.import_lean()
    assert (seen, "surely_absent" in sys.modules) == ([True], False)


def test_garbage_is_collected_again_afterwards_and_stays_off_where_it_was_off() -> None:
    during = []
    with pytest.raises(ZeroDivisionError), lean_import.uncollected():
        during.append(gc.isenabled() / 0)
    with lean_import.uncollected():
        during.append(gc.isenabled())
    assert during == [False]
    assert gc.isenabled()
    gc.disable()
    try:
        with lean_import.uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
