"""A function or an argument that there is not is told with the one that was meant."""

from __future__ import annotations

import pytest

import tailrace
from tailrace import SettingsError, Tracker


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("finish", "here it is end_run\\(\\)"),
        ("init", "here it is start_run\\("),
        ("log_metrix", "did you mean log_metric\\?"),
        ("nonsense", "has no attribute 'nonsense'$"),
    ],
)
def test_a_function_that_there_is_not_is_told_with_what_does_the_same(name: str, said: str) -> None:
    for owner in (tailrace, Tracker(agent="off"), Tracker(agent="off").start_run()):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'.*{said}" if name != "nonsense" else said):
            getattr(owner, name)
    assert not hasattr(tailrace, "__wrapped__")


@pytest.mark.parametrize("name", ["sklearn", "tracking", "evaluate", "get_artifact_uri", "autolog"])
def test_what_is_mlflows_is_in_the_module(name: str) -> None:
    for owner in (Tracker(agent="off"), Tracker(agent="off").start_run()):
        with pytest.raises(AttributeError, match=f"it is MLflow's own, and for the active run: tailrace.{name}$"):
            getattr(owner, name)
    assert getattr(tailrace, name)


def test_an_import_of_what_there_is_not_is_told_with_what_does_the_same() -> None:
    with pytest.raises(ImportError, match="'finish'; here it is end_run"):
        exec("from tailrace import log, finish")
    with pytest.raises(ImportError, match="_private"):
        exec("from tailrace import _private")
    assert not hasattr(tailrace, "pytorch_autolog")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run_nam", "did you mean run_name\\?"),
        ("name", "here it is called run_name"),
        ("config", "here it is called params"),
        ("project", "here it is called experiment_name"),
        ("flush_intervall", "did you mean flush_interval\\?"),
        ("nonsense", "docs/settings.md"),
    ],
)
def test_an_argument_that_there_is_not_is_told_with_the_one_that_was_meant(name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"start_run takes no argument '{name}'; .*{said}"):
        Tracker(agent="off").start_run(**{name: "x"})
    refused = (
        "config is what .* a TrackingConfig, not str" if name == "config" else f"Tracker takes no argument '{name}'"
    )
    with pytest.raises(SettingsError, match=refused):
        Tracker(agent="off", **{name: "x"})
