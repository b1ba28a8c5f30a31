"""Search spaces: what YAML has is read, and what is wrong with it is found before a trial begins."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import yaml

from tailrace.hpo.search_space import read_space
from tailrace_agent.errors import SettingsError


def _suggested(space: Any) -> dict[str, Any]:
    return read_space(space)(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask())


def test_each_kind_is_suggested_within_its_range() -> None:
    space = yaml.safe_load("""
        lr: {type: float, low: 1e-5, high: 1e-1, log: true}
        dropout: {type: float, low: 0, high: 0.5, step: 0.25}
        layers: {type: int, low: 1, high: 4}
        width: {type: int, low: 16, high: 64, step: 16}
        optimizer: {type: categorical, choices: [adam, sgd, null]}
    """)
    params = _suggested(space)
    assert 1e-5 <= params["lr"] <= 0.1
    assert params["dropout"] in (0.0, 0.25, 0.5)
    assert params["layers"] in (1, 2, 3, 4)
    assert type(params["layers"]) is int
    assert params["width"] in (16, 32, 48, 64)
    assert params["optimizer"] in ("adam", "sgd", None)


def test_a_function_of_the_trial_is_a_space() -> None:
    assert _suggested(lambda trial: {"x": trial.suggest_int("x", 3, 3)}) == {"x": 3}


def test_a_function_that_returns_no_parameters_is_an_error_that_says_so() -> None:
    with pytest.raises(SettingsError, match="returned None, and not a mapping"):
        _suggested(lambda trial: None)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lr": {"type": "flaot", "low": 0, "high": 1}}, "search_space: lr: type is 'flaot'; did you mean 'float'"),
        ({"lr": {"type": "float", "lwo": 0, "high": 1}}, "'lwo' is no key of type float; did you mean 'low'"),
        ({"lr": {"type": "float", "high": 1}}, "lr has no `low`"),
        ({"lr": {"low": 0, "high": 1}}, "lr has no `type`: one of int, float, categorical"),
        ({"lr": {"type": "float", "low": "tiny", "high": 1}}, "low is 'tiny'; allowed: a number"),
        ({"lr": {"type": "float", "low": 0, "high": "inf"}}, "high is 'inf'; allowed: a number"),
        ({"n": {"type": "int", "low": 1.5, "high": 4}}, "low is 1.5; allowed: a whole number"),
        ({"n": {"type": "int", "low": True, "high": 4}}, "low is True; allowed: a whole number"),
        ({"n": {"type": "int", "low": 5, "high": 4}}, "low 5 is above high 4"),
        ({"n": {"type": "int", "low": 1, "high": 4, "step": 0}}, "step is 0; allowed: a number above 0"),
        ({"lr": {"type": "float", "low": 0, "high": 1, "log": True}}, "with `log` it has to be above 0"),
        ({"lr": {"type": "float", "low": 1, "high": 2, "log": True, "step": 1}}, "has `log` and `step`"),
        ({"lr": {"type": "float", "low": 1, "high": 2, "log": "yess"}}, "log is 'yess'; allowed: true, false"),
        ({"o": {"type": "categorical", "choices": []}}, "choices is \\[\\]; allowed: a list that is not empty"),
        ({"o": {"type": "categorical", "choices": [{}]}}, "choices holds {}; allowed: texts, numbers"),
        ({"o": {"type": "categorical", "choice": [1]}}, "did you mean 'choices'"),
        ({"o": [1, 2]}, "o is \\[1, 2\\]; allowed: a table with `type`"),
        ({}, "search_space is empty"),
        (None, "search_space is None; allowed: a table of parameters, or a function"),
    ],
)
def test_what_is_wrong_is_one_error_that_says_what_is_allowed(space: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_space(space)
