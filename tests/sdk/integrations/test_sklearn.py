"""`integrations/sklearn`: folds, searches and fits of scikit-learn, in MLflow."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.sdk_tools import Store, named
from tailrace import Tracker

sklearn = pytest.importorskip("sklearn")
from sklearn.datasets import load_iris  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_validate  # noqa: E402

from tailrace.integrations.sklearn import TailraceCallback, TailraceScorer, log_search  # noqa: E402

with_callbacks = pytest.mark.skipif(not hasattr(LogisticRegression, "set_callbacks"), reason="before scikit-learn 1.9")


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any]:
    x, y = load_iris(return_X_y=True)
    return x[::3], y[::3]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_each_fold_is_a_value_also_of_worker_processes(
    sdk: Tracker, sqlite_uri: str, iris: tuple[Any, Any], jobs: int
) -> None:
    with sdk.start_run(run_name="folds"):
        scorer = TailraceScorer("accuracy", tracker=sdk)
        found = cross_validate(LogisticRegression(max_iter=500), *iris, cv=3, scoring=scorer, n_jobs=jobs)
    points = named(sqlite_uri, "folds").history("cv/accuracy")
    assert sorted(step for step, _ in points) == [0, 1, 2]
    assert sorted(value for _, value in points) == pytest.approx(sorted(found["test_score"]))


def test_a_scorer_of_ones_own_has_its_name(sdk: Tracker, sqlite_uri: str, iris: tuple[Any, Any]) -> None:
    def cost(model: Any, x: Any, y: Any) -> float:
        return float((model.predict(x) != y).sum())

    with sdk.start_run(run_name="own"):
        cross_validate(LogisticRegression(), *iris, cv=2, scoring=TailraceScorer(cost, tracker=sdk))
        cross_validate(LogisticRegression(), *iris, cv=2, scoring=TailraceScorer(cost, "errors", tracker=sdk))
    assert {name: len(points) for name, points in named(sqlite_uri, "own").metrics().items()} == {
        "cv/cost": 2,
        "errors": 2,
    }
    with pytest.raises(ValueError, match="acuracy"):
        TailraceScorer("acuracy", tracker=sdk)


def test_a_search_leaves_the_best_and_all_candidates(sdk: Tracker, sqlite_uri: str, iris: tuple[Any, Any]) -> None:
    with sdk.start_run(run_name="search"):
        search = GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0]}, cv=2).fit(*iris)
        log_search(search, sdk)
    store = named(sqlite_uri, "search")
    assert store.history("search/best_score") == [(0, pytest.approx(search.best_score_))]
    assert store.params == {"best.C": str(search.best_params_["C"])}
    assert store.artifacts() == ["search/candidates.csv"]


@with_callbacks
def test_a_fit_leaves_its_parameters_and_the_score_of_each_iteration(
    sdk: Tracker, sqlite_uri: str, iris: tuple[Any, Any]
) -> None:
    model = LogisticRegression(max_iter=5, C=0.5)
    model.set_callbacks(TailraceCallback(scoring="accuracy", tracker=sdk))
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        model.fit(*iris)
    store = named(sqlite_uri, "LogisticRegression")
    assert (store.status, store.params["C"], store.params["estimator"]) == ("FINISHED", "0.5", "LogisticRegression")
    points = store.history("fit/accuracy")
    assert [step for step, _ in points] == list(range(len(points)))
    assert points[-1][1] == pytest.approx(model.score(*iris))


@with_callbacks
def test_a_fit_that_raises_is_failed_with_the_error(sdk: Tracker, sqlite_uri: str, iris: tuple[Any, Any]) -> None:
    def fails(*_: Any) -> float:
        raise ValueError("no score")

    model = LogisticRegression().set_callbacks(TailraceCallback("failing", scoring=fails, tracker=sdk))
    with pytest.raises(ValueError, match="no score"):
        model.fit(*iris)
    store = named(sqlite_uri, "failing")
    assert (store.status, store.tags["error.type"]) == ("FAILED", "ValueError")


@with_callbacks
def test_a_search_with_the_callback_is_one_run_with_its_table(
    sdk: Tracker, sqlite_uri: str, iris: tuple[Any, Any]
) -> None:
    search = GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0]}, cv=2)
    search.set_callbacks(TailraceCallback("grid", tracker=sdk)).fit(*iris)
    store: Store = named(sqlite_uri, "grid")
    assert store.artifacts() == ["search/candidates.csv"]
    assert store.params["best.C"] == str(search.best_params_["C"])
