"""`train_from_config`: what a file says is trained, and each mistake in it is one clear error beforehand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_breast_cancer, load_diabetes

from helpers.least_tracker import LeastTracker
from helpers.sdk_tools import Store, tracking
from tailrace import SettingsError, Tracker
from tailrace.training import train_from_config

DATA = load_breast_cancer(as_frame=True).frame.iloc[:120, -7:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with data in both formats."""
    DATA.to_csv(tmp_path / "cancer.csv", index=False)
    DATA.to_parquet(tmp_path / "cancer.parquet")
    return tmp_path


def document(**training: Any) -> dict[str, Any]:
    model = {"framework": "sklearn", "model_type": "decision_tree", "task_type": "classification"}
    return {"training": {"model": model, "data": "cancer.csv", "target_column": "target", **training}}


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "training.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("_trackers_end")
def test_a_file_says_what_is_trained_and_where_it_is_tracked(
    folder: Path, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = {
        "mlflow": {"tracking_uri": sqlite_uri, "experiment_name": "cancer"},
        "seed": 3,
        **document(cv=2, metrics=["accuracy"], run_name="tree", validation=0.25),
    }
    content["training"]["model"]["parameters"] = {"max_depth": 3}
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    result = train_from_config(written(folder, content))
    run = Store(sqlite_uri, str(result.run_id))
    assert run.status == "FINISHED"
    assert run.run.info.run_name == "tree"
    assert run.client.get_experiment(run.run.info.experiment_id).name == "cancer"
    assert (run.params["estimator"], run.params["max_depth"], run.params["random_state"]) == (
        "DecisionTreeClassifier",
        "3",
        "3",
    )
    assert run.params["training.model.parameters.max_depth"] == "3"
    assert run.params["data.validation_rows"] == "30"
    assert "config/config.yaml" in run.artifacts("config")
    assert {"cv/accuracy", "val/accuracy"} <= run.metrics().keys()


@pytest.mark.parametrize(
    ("framework", "model_type", "task", "expected"),
    [
        ("sklearn", "random_forest_classifier", None, "RandomForestClassifier"),
        ("sklearn", "RandomForestClassifier", "classification", "RandomForestClassifier"),
        ("sklearn", "random_forest", "classification", "RandomForestClassifier"),
        ("sklearn", "svc", None, "SVC"),
        ("sklearn", "k_neighbors", "classification", "KNeighborsClassifier"),
        ("sklearn", "sklearn.naive_bayes.GaussianNB", None, "GaussianNB"),
        ("xgboost", "xgb_classifier", None, "XGBClassifier"),
        ("xgboost", "xgboost", "classification", "XGBClassifier"),
        ("lightgbm", "lgbm", "classification", "LGBMClassifier"),
        ("lightgbm", "lightgbm_classifier", None, "LGBMClassifier"),
    ],
)
def test_models_are_known_by_their_names_in_snake_case_or_by_a_dotted_path(
    folder: Path, framework: str, model_type: str, task: str | None, expected: str
) -> None:
    few = {"n_estimators": 2} if "est" in model_type or framework != "sklearn" else {}
    quiet = {"verbose": -1} if framework == "lightgbm" else {}
    model = {"framework": framework, "model_type": model_type, "task_type": task, "parameters": {**few, **quiet}}
    noted = LeastTracker()
    train_from_config(written(folder, document(model=model)), tracker=noted)
    assert noted.params["estimator"] == expected


def test_parquet_columns_and_a_file_to_validate_with(folder: Path) -> None:
    DATA.iloc[:40].to_csv(folder / "held.csv", index=False)
    noted = LeastTracker()
    features = list(DATA.columns[:3])
    content = document(data="cancer.parquet", features=features, leave_out=features[:1], validation="held.csv")
    result = train_from_config(written(folder, content), tracker=noted)
    assert noted.params["data"] == {"rows": 120, "features": 2, "validation_rows": 40}
    assert result["val_accuracy"] > 0.9


def test_regression_by_a_dictionary_relative_to_here(tmp_path: Path) -> None:
    load_diabetes(as_frame=True).frame.to_csv("diabetes.csv", index=False)
    model = {"framework": "sklearn", "model_type": "ridge", "task_type": "regression"}
    result = train_from_config(document(model=model, data="diabetes.csv"), tracker=LeastTracker())
    assert result["val_r2"] > 0.2


def test_overrides_are_stronger_than_the_file(folder: Path) -> None:
    noted = LeastTracker()
    train_from_config(
        written(folder, document()),
        overrides={"training.model.parameters.max_depth": 2, "training.run_name": "shallow"},
        tracker=noted,
    )
    assert noted.params["max_depth"] == 2
    assert noted.started == ["shallow"]


def test_a_class_of_ones_own_may_lie_beside_the_file_and_hides_nothing(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from sklearn.tree import DecisionTreeClassifier\n\n\nclass Mine(DecisionTreeClassifier):\n    pass\n"
    )
    (folder / "sklearn.py").write_text("raise SystemExit('not this one')\n")
    noted = LeastTracker()
    model = {"framework": "sklearn", "model_type": "mine.Mine", "parameters": {"max_depth": 1}}
    train_from_config(written(folder, document(model=model)), tracker=noted)
    assert noted.params["estimator"] == "Mine"


def test_within_an_active_run_it_is_that_one(folder: Path, shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    with tracker.start_run() as run:
        result = train_from_config(written(folder, document(metrics="accuracy")), tracker=tracker)
    assert result.run_id == run.run_id
    assert "val/accuracy" in Store(uri, run.run_id).metrics()


def test_a_model_is_registered_as_the_tracking_says(folder: Path, sqlite_uri: str) -> None:
    content = document(metrics="accuracy")
    with tracking(sqlite_uri, register_model=True, model_name="trees") as tracker:
        assert train_from_config(written(folder, content), tracker=tracker).model_version == "1"


NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, hidden, outputs=2):
        super().__init__(nn.BatchNorm1d(6), nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
"""


def net(task: str, **training: Any) -> dict[str, Any]:
    parameters = {"hidden": 8} if task == "classification" else {"hidden": 8, "outputs": 1}
    own = {"framework": "torch", "model_type": "my_net.Net", "task_type": task, "parameters": parameters}
    return document(model=own, torch={"epochs": 2, "learning_rate": 0.01}, **training)


def test_a_module_of_pytorch_is_trained_by_the_trainer(folder: Path, shared: tuple[Tracker, str]) -> None:
    tracker, uri = shared
    (folder / "my_net.py").write_text(NET)
    words = DATA.assign(target=np.where(DATA["target"] == 1, "benign", "malignant"))
    words.to_csv(folder / "words.csv", index=False)
    content = net("classification", data="words.csv", validation=0.25, run_name="net", metrics=["accuracy"])
    result = train_from_config(written(folder, content), tracker=tracker)
    run = Store(uri, str(result.run_id))
    assert run.run.info.run_name == "net"
    assert run.params["classes"] == "benign, malignant"
    assert [step for step, _ in run.history("epoch/val_accuracy")] == [1, 2]
    assert "config/config.yaml" in run.artifacts("config")
    noted = LeastTracker()
    train_from_config(written(folder, net("regression", metrics="rmse")), tracker=noted)
    assert [step for metrics, step in noted.logged if "epoch/val_rmse" in metrics] == [1, 2]
    assert len(noted.started) == 1
    for changed, message in (
        ({"training.torch.epoch": 3}, "training.torch.epoch is no key there; did you mean 'epochs'?"),
        ({"training.torch.optimizer": "Adm"}, "training.torch.optimizer is 'Adm'; did you mean 'Adam'?"),
        ({"training.cv": 3}, "training.cv is not for torch"),
        ({"training.model.model_type": "mlp"}, "name a module's class"),
        ({"training.model.model_type": "my_net.nn.Linear"}, "there is no module"),
        ({"training.model.parameters": {"hiden": 3}}, "hiden is no parameter of Net; did you mean 'hidden'?"),
    ):
        with pytest.raises(SettingsError, match=re.escape(message)):
            train_from_config(written(folder, net("classification")), overrides=changed, tracker=noted)
    assert len(noted.started) == 1


def model(**changed: Any) -> dict[str, Any]:
    return {"model": {"framework": "sklearn", "model_type": "decision_tree_classifier", **changed}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has no table `training`"),
        ({"trainig": {}}, "trainig is no key of a training; did you mean 'training'?"),
        (
            {**document(), "mlflow": {"tracking_url": "x"}},
            r"\[mlflow\] tracking_url is no key of tailrace; did you mean",
        ),
        (document(target_colum="x"), "training.target_colum is no key there; did you mean .target_column.?"),
        ({"training": {"data": "cancer.csv"}}, "training.model is missing"),
        (document(model={"framework": "sklearn"}), "training.model.model_type is missing"),
        (document(model="tree"), "training.model is 'tree'; allowed: a table"),
        (
            document(**model(modeltype="x")),
            "training.model.modeltype is no key there; did you mean 'model_type'?",
        ),
        (document(**model(framework="sklaern")), "framework is 'sklaern'; did you mean 'sklearn'?"),
        (document(**model(model_type="randm_forest_classifier")), "did you mean 'random_forest_classifier'?"),
        (document(**model(framework="xgboost", model_type="xgb_clasifier")), "did you mean 'xgb_classifier'?"),
        (document(**model(model_type="sklearn.tree.DecisionTre")), "has no 'DecisionTre'; did you mean"),
        (document(**model(model_type="no.such.Model")), "there is no module 'no'"),
        (
            document(**model(parameters={"max_deph": 1})),
            "max_deph is no parameter of DecisionTreeClassifier; did you mean",
        ),
        (document(**model(task_type="regression")), "sklearn has no such model for regression"),
        (document(**model(task_type="ranking")), "task_type"),
        (document(cv="five"), "cv"),
        (document(data="cancr.csv"), "there is no file .*cancr.csv; did you mean 'cancer.csv'?"),
        (document(data="nowhere/cancer.csv"), "nor a directory .*nowhere"),
        (document(data="cancer.xlsx"), r"is no .csv, .tsv or .parquet file"),
        (document(data="broken.parquet"), "broken.parquet cannot be read: "),
        (document(data="empty.csv"), "empty.csv cannot be read: No columns"),
        (document(data="head.csv"), "training: X and y have no rows"),
        (document(target_column="targte"), "the data have no column 'targte'; did you mean 'target'?"),
        (document(features=["worst symmetry", "worst symetry"]), "features: the data have no column 'worst symetry'"),
        (document(features=["target"]), "the data have no column to learn from but 'target'"),
        (document(metrics=["acuracy"]), "there is no metric 'acuracy'"),
        (document(validation=3), "validation=3.* is no share of the rows"),
        (document(data="words.csv"), "column 'name' holds 'x' and the like"),
        (document(data="gaps.csv"), "2 of 4 targets are missing"),
    ],
)
def test_a_mistake_is_one_clear_error_before_anything_starts(
    folder: Path, content: dict[str, Any], message: str
) -> None:
    (folder / "broken.parquet").write_bytes(b"PAR1")
    (folder / "empty.csv").touch()
    (folder / "head.csv").write_text("a,target\n")
    (folder / "words.csv").write_text("a,name,target\n1,x,0\n2,y,1\n3,z,0\n4,z,1\n")
    (folder / "gaps.csv").write_text("a,target\n1,0\n2,\n3,\n4,1\n")
    noted = LeastTracker()
    with pytest.raises(SettingsError, match=message) as caught:
        train_from_config(written(folder, content), tracker=noted)
    assert str(folder) in str(caught.value), "the file is named"
    assert noted.started == []
