"""`tailrace hpo` as far as nothing has begun yet."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tailrace.hpo.__main__ import main


@pytest.fixture
def configured(tmp_path: Path, sqlite_uri: str) -> Path:
    """A directory with a configuration that is right."""
    (tmp_path / "found_as_a_module.py").write_text("def objective(trial, params):\n    return 1\n")
    (tmp_path / "train.py").write_text("def objective(trial, params):\n    return params['x']\n")
    hpo = {
        "study_name": "digits",
        "objective": "train.py:objective",
        "n_trials": 1,
        "search_space": {"x": {"type": "float", "low": 0, "high": 1}},
    }
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump({"mlflow": {"tracking_uri": sqlite_uri}, "hpo": hpo}))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["metrc=acc"], 2, "metrc is no key"),
        (["hpo.metrc=acc"], 2, "hpo.metrc is no key of a search; did you mean 'metric'"),
        (["objective=train.py:objectiv"], 2, "has no function 'objectiv'; did you mean 'objective'"),
        (["objective=tran.py:objective"], 2, "tran.py cannot be read: No such file"),
        (["objective=train:objective:x"], 2, "there is no module 'train:objective'|objective is"),
        (["objective=nosuch.module:objective"], 2, "there is no module 'nosuch.module'"),
        (["search_space.x.type=flot"], 2, "search_space: x: type is 'flot'; did you mean 'float'"),
        (["n_trials="], 2, "neither n_trials nor timeout is given"),
        (["n_trials=many"], 2, "n_trials"),
        (["n_trials=0"], 2, "n_trials is 0; allowed: a whole number from 1 on"),
        (["timeout=-1"], 2, "timeout is -1.0; allowed: seconds, more than 0"),
        (["prune_direction=minimize"], 2, "prune_direction is given, and prune_on is not"),
        (["prune_direction=smaller", "prune_on=loss"], 2, "prune_direction is 'smaller'; "),
        (["mlflw.experiment_name=x"], 2, "mlflw is no table of a search; did you mean 'mlflow'"),
        (["objective=found_as_a_module:objectiv"], 2, "has no function 'objectiv'; did you mean 'objective'"),
        (["--storage", "sqlite:////no/such/study.db"], 3, "storage sqlite:////no/such/study.db cannot be used"),
        (["--workers", "2", "metrc=acc"], 2, "metrc is no key"),
        (["storage=${NO_SUCH_VARIABLE}"], 2, "names a variable that the environment does not have"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_begins(
    arguments: list[str],
    code: int,
    message: str,
    configured: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["digits.yaml", *arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tailrace: ")
    assert any(part in line for part in message.split("|")), line
    assert not list(configured.glob("*.journal"))
