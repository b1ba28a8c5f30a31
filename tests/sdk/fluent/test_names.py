"""What `tailrace` has of MLflow's names: found lazily, and a slip is still one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types

import mlflow
import pytest

import tailrace
import tailrace.config
from tailrace._fluent.names import known_names, mlflow_may_have


@pytest.mark.parametrize(
    "name", sorted({*mlflow.__all__, "artifacts", "entities", "exceptions", "tracking", "sklearn"})
)
def test_every_public_name_of_mlflows_is_there(name: str) -> None:
    found, theirs = getattr(tailrace, name), getattr(mlflow, name)
    assert callable(found) == callable(theirs)
    if isinstance(theirs, type):
        assert found is theirs, "or `isinstance` would not hold"


def test_a_module_is_mlflows_with_its_classes_and_functions() -> None:
    assert isinstance(tailrace.pyfunc, types.ModuleType)
    assert tailrace.pyfunc.PythonModel is mlflow.pyfunc.PythonModel
    assert tailrace.pyfunc.log_model.__wrapped__ is mlflow.pyfunc.log_model
    assert set(dir(tailrace.artifacts)) == set(dir(mlflow.artifacts))
    assert tailrace.entities is mlflow.entities
    with pytest.raises(AttributeError, match="nonsense"):
        tailrace.artifacts.nonsense  # noqa: B018
    assert tailrace.sklearn.autolog.__wrapped__ is mlflow.sklearn.autolog
    assert not hasattr(tailrace.artifacts, "__nonsense__")


def test_functions_of_tracing_are_as_they_are() -> None:
    assert tailrace.trace is mlflow.trace
    assert tailrace.start_span is mlflow.start_span


def test_the_configuration_module_has_mlflows_names_too() -> None:
    for name in mlflow.config.__all__:
        assert callable(getattr(tailrace.config, name)), name
    assert tailrace.config.set_tracking_uri == tailrace.set_tracking_uri
    with pytest.raises(AttributeError, match=r"module 'tailrace\.config' has no attribute 'nonsense'"):
        tailrace.config.nonsense  # noqa: B018


def test_a_name_that_nobody_has_is_one_clear_error() -> None:
    for name, text in {"log_metrix": "did you mean log_metric", "nonsense": "has no attribute 'nonsense'$"}.items():
        with pytest.raises(AttributeError, match=text):
            getattr(tailrace, name)
    # Words that stand in MLflow's source, and are no names of its package.
    for word in ("lazily", "deprecated"):
        assert not hasattr(tailrace, word)
    assert mlflow_may_have("search_runs")
    assert not mlflow_may_have("log_metrix")


def test_a_name_can_be_imported() -> None:
    exec("from tailrace import MlflowClient, get_run, sklearn")
    with pytest.raises(ImportError, match="log_metrix"):
        exec("from tailrace import log_metrix")


@pytest.mark.slow
def test_what_is_not_mlflows_imports_no_mlflow() -> None:
    """A slip, `dir`, and what is looked for by tools cost no two seconds."""
    code = textwrap.dedent("""
        import sys, tailrace
        for name in ("log_metrix", "__wrapped__", "_ipython_display_", "pytest_plugins"):
            assert not hasattr(tailrace, name), name
        dir(tailrace), tailrace.config.load_config
        assert "mlflow" not in sys.modules
        from tailrace import MlflowClient
        assert "mlflow" in sys.modules and "get_run" in dir(tailrace)
    """)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert set(known_names()) == set(mlflow.__all__)
