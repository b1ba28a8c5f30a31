"""The table `hpo` of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tailrace import SettingsError
from tailrace.hpo.config import read_search


def _written(folder: Path, **hpo: Any) -> Path:
    (folder / "train.py").write_text("def objective(trial, params): ...\ndef space(trial): ...\n")
    table = {"study_name": "a/b", "objective": "train.py:objective", "n_trials": 3, "search_space": "train.py:space"}
    path = folder / "digits.yaml"
    path.write_text(yaml.safe_dump({"mlflow": {"experiment_name": "found"}, "hpo": {**table, **hpo}}))
    return path


def test_it_is_read_with_its_tracking_and_its_directory(tmp_path: Path) -> None:
    search, tracking, folder = read_search(_written(tmp_path, seed=4), {})
    assert (search.study_name, search.n_trials, tracking.experiment_name, folder) == ("a/b", 3, "found", tmp_path)
    assert search.kept_in == "a-b.journal"
    assert [search.runner_options(worker)["seed"] for worker in (0, 1)] == [4, 5]


def test_values_are_overridden_by_their_names_those_of_the_search_without_its_table(tmp_path: Path) -> None:
    overrides = {"n_trials": 9, "hpo.metric": "acc", "mlflow.experiment_name": "other"}
    search, tracking, _ = read_search(_written(tmp_path), overrides)
    assert (search.n_trials, search.metric, tracking.experiment_name) == (9, "acc", "other")


def test_a_password_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_STORAGE", "postgresql://ada:s3cr3t@db/studies")
    search, _, _ = read_search(_written(tmp_path, storage="${SECRET_STORAGE}"), {})
    assert search.kept_in == "postgresql://ada:s3cr3t@db/studies"


@pytest.mark.parametrize(
    ("hpo", "message"),
    [
        ({"n_trails": 3}, "hpo.n_trails is no key of a search; did you mean 'n_trials'"),
        ({"n_trials": "many"}, "hpo: Expected `int"),
        ({"n_trials": None}, "neither n_trials nor timeout"),
        ({"search_space": "train.py:spaec"}, "search_space: .*has no function 'spaec'; did you mean 'space'"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, hpo: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=rf"digits\.yaml: .*{message}"):
        read_search(_written(tmp_path, **hpo), {})


def test_a_file_without_the_table_or_what_it_must_have_says_so(tmp_path: Path) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text("mlflow: {}\n")
    with pytest.raises(SettingsError, match="hpo is missing: a table with study_name, objective, search_space"):
        read_search(path, {})
    path.write_text("hpo: {study_name: a}\n")
    with pytest.raises(SettingsError, match=r"hpo\.objective is missing"):
        read_search(path, {})
