"""What users find: the names, their order, their documentation, and MLflow's arguments."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from typing import Any

import mlflow
import pytest

import tailrace
from tailrace import Run, Tracker

OURS = {
    "alert",
    "archive_model",
    "attach_run",
    "best_run",
    "compare_runs",
    "define_metric",
    "flush",
    "get_run_info",
    "list_models",
    "load_model",
    "log",
    "log_backtest",
    "log_config",
    "log_dataframe",
    "log_model",
    "log_training_metrics",
    "metric_history",
    "promote_model",
    "register_model",
    "should_stop",
    "system_monitor",
}
"""Functions that MLflow's fluent API does not have."""
OURS |= {name for name in ("log_stream",) if not hasattr(mlflow, name)}  # MLflow 3.7 has none

EXTRA = {
    "end_run": ["timeout"],
    "log_artifact": ["compress"],
    "log_artifacts": ["compress"],
    "start_run": ["experiment_name", "tracking_uri", "params", "agent", "job", "settings"],
}
"""Arguments that MLflow's function of that name does not have; all of them come after MLflow's."""

MISSING = {"set_experiment": ["trace_location"]}
"""Arguments of MLflow's that mean nothing here: traces are not metrics."""

ALONE = {"build_tracker_from_config", "import_reports", "install", "load_config"}
"""Functions that are no tracker's."""

EXPORTS = {name: getattr(tailrace, name) for name in tailrace.__all__}
FUNCTIONS = {name: export for name, export in EXPORTS.items() if not inspect.isclass(export) and name not in ALONE}
CLASSES = {name: export for name, export in EXPORTS.items() if inspect.isclass(export)}


def arguments(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def test_the_exports_are_sorted_and_complete() -> None:
    assert tailrace.__all__ == [*sorted(CLASSES), *sorted({*FUNCTIONS, *ALONE})], "classes first, each part in order"
    public = {
        name
        for name, value in vars(tailrace).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert public == set(tailrace.__all__)


def test_the_functions_are_those_of_mlflow_and_our_own() -> None:
    for name in set(FUNCTIONS) - OURS:
        assert callable(getattr(mlflow, name)), name
    asked_for = (
        "set_tracking_uri set_experiment start_run end_run active_run log_param log_params log_metric log_metrics "
        "set_tag set_tags log_artifact log_artifacts log_text log_dict log_figure log_image log_table log flush"
    )
    assert set(asked_for.split()) <= set(FUNCTIONS)


def test_the_functions_are_those_of_one_tracker() -> None:
    for name, function in FUNCTIONS.items():
        method = getattr(Tracker, name)
        ours = [(p.name, p.kind, p.default) for p in arguments(function)]
        assert ours == [(p.name, p.kind, p.default) for p in arguments(method)[1:]], name


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - OURS))
def test_arguments_have_mlflows_names_order_and_kinds(name: str) -> None:
    theirs, ours = arguments(getattr(mlflow, name)), arguments(FUNCTIONS[name])
    left_out = MISSING.get(name, [])
    expected = [(p.name, p.kind) for p in theirs if p.name not in left_out]
    assert [(p.name, p.kind) for p in ours[: len(expected)]] == expected
    assert [p.name for p in ours[len(expected) :]] == EXTRA.get(name, [])
    for their, our in zip([p for p in theirs if p.name not in left_out], ours, strict=False):
        assert (their.default is inspect.Parameter.empty) == (our.default is inspect.Parameter.empty), our.name


def test_a_run_has_the_methods_of_the_module_with_the_same_first_arguments() -> None:
    for name in sorted(name for name in FUNCTIONS if name.startswith(("log", "set_tag")) or name == "flush"):
        of_run = [(p.name, p.kind, p.default) for p in arguments(getattr(Run, name))[1:]]
        of_module = [(p.name, p.kind, p.default) for p in arguments(FUNCTIONS[name])]
        about_which_run = ("run_id", "synchronous", "model_id", "dataset")
        assert of_run == [entry for entry in of_module if entry[0] not in about_which_run], name
    for name in ("run_id", "run_name", "url", "ledger", "info", "status", "__enter__", "__exit__"):
        assert hasattr(Run, name)


def public(owner: type) -> dict[str, Any]:
    """Public methods and properties of a class, its bases' among them, but not those of a library's base."""
    return {
        name: member
        for base in reversed(owner.__mro__)
        if base.__module__.startswith("tailrace")
        for name, member in vars(base).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, (property, classmethod)))
    }


def summary(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def lacks(function: Any, parameters: list[inspect.Parameter]) -> list[str]:
    """What the documentation of a function does not say."""
    text = inspect.getdoc(function) or ""
    first = summary(function)
    missing = [] if first.endswith(".") and not first.startswith("As `") else ["a summary of its own"]
    stars = {inspect.Parameter.VAR_KEYWORD: r"\*\*", inspect.Parameter.VAR_POSITIONAL: r"\*"}
    names = {parameter.name: stars.get(parameter.kind, "") + parameter.name for parameter in parameters}
    explained = {name for name, shown in names.items() if re.search(rf"^ {{4}}{shown}: \S", text, re.MULTILINE)}
    missing += [f"argument {name}" for name in names if name not in explained]
    returns = inspect.signature(function).return_annotation not in ("None", None, inspect.Signature.empty)
    if returns and not re.search(r"^(Returns|Yields):$", text, re.MULTILINE) and "eturn" not in first:
        missing.append("what it returns")
    if not re.search(r"^Example:\n {4}>>> ", text, re.MULTILINE):
        missing.append("an example")
    return missing


def test_every_export_says_what_it_does() -> None:
    assert tailrace.__doc__
    assert [name for name, export in EXPORTS.items() if not inspect.getdoc(export)] == []
    members = {f"{kind}.{name}": member for kind, owner in CLASSES.items() for name, member in public(owner).items()}
    assert [name for name, member in members.items() if not summary(member) or summary(member).startswith("As `")] == []
    # The hot path's own `log` says how it is called, whoever asks for its help.
    for log in (tailrace.log, Tracker.log, Run.log):
        assert "about a microsecond" in (inspect.getdoc(log) or "")


@pytest.mark.parametrize("name", [*sorted({*FUNCTIONS, *ALONE})])
def test_the_help_of_a_function_is_complete(name: str) -> None:
    function = EXPORTS[name]
    assert lacks(function, arguments(function)) == []


@pytest.mark.parametrize("owner", [Tracker, Run])
def test_the_help_of_every_method_is_complete(owner: type) -> None:
    methods = {name: member for name, member in public(owner).items() if inspect.isfunction(member)}
    assert len(methods) > 20
    missing = {name: lacks(method, arguments(method)[1:]) for name, method in methods.items()}
    assert {name: what for name, what in missing.items() if what} == {}


@pytest.mark.slow
def test_a_module_that_is_not_loaded_yet_is_imported_from_the_package() -> None:
    code = "from tailrace import demo, load_config, reports; print(demo.__name__, reports.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["tailrace.demo", "tailrace.reports"], done.stderr
