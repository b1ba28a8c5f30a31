"""The table and the pictures of a search."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from tailrace.hpo.reports import log_reports, trials_table
from tailrace.hpo.trials import ATTRIBUTE


class Artifacts:
    """A run that takes files."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def log_artifact(self, path: Path) -> None:
        self.files[path.name] = path.read_text(encoding="utf-8")


def _study(*values: float) -> optuna.Study:
    study = optuna.create_study()
    for number, value in enumerate(values):
        trial = study.ask()
        trial.set_user_attr(ATTRIBUTE, {"run": "a"})
        trial.suggest_float("x", 0, 1)
        study.tell(number, value)
    return study


def _logged(study: optuna.Study) -> Artifacts:
    run: Any = Artifacts()
    log_reports(study, run)
    artifacts: Artifacts = run
    return artifacts


def test_the_table_has_what_users_know_and_nothing_of_ours() -> None:
    assert not [name for name in trials_table(_study(1.0)).columns if "tailrace" in name]


def test_without_a_completed_trial_there_is_the_table_alone() -> None:
    run = _logged(_study())
    assert list(run.files) == ["hpo_trials_history.csv"]


def test_what_needs_two_trials_is_left_out_of_one() -> None:
    assert list(_logged(_study(1.0)).files) == ["hpo_trials_history.csv", "hpo_optimization_history.html"]


def test_a_picture_needs_no_network() -> None:
    page = _logged(_study(1.0)).files["hpo_optimization_history.html"]
    assert not re.search(r"<(?:script|link)[^>]+(?:src|href)=", page)
    assert "Plotly.newPlot" in page


def test_what_optuna_cannot_draw_is_left_out() -> None:
    """Importances of values that are all the same are none, or all alike: never an error."""
    run = _logged(_study(1.0, 1.0, 1.0))
    assert {"hpo_optimization_history.html", "hpo_parallel_coordinate.html"} <= run.files.keys()


def test_without_plotly_a_word_and_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.warns(UserWarning, match="no pictures of the search without plotly"):
        run = _logged(_study(1.0))
    assert list(run.files) == ["hpo_trials_history.csv"]
