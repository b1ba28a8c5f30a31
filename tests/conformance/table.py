"""How a behaviour is written down: a function that uses a module as `mlflow`, and returns what it has seen."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from mlflow import MlflowClient

__all__ = ["BEHAVIOURS", "NEEDS", "Behaviour", "Place", "differs", "needs", "outcome", "same"]


class Place:
    """Where a behaviour is tried: a store, and an experiment of its own in it.

    Args:
        uri: The store.
        experiment: The name of the experiment, which is set already.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, self.experiment = uri, experiment
        self.client = MlflowClient(uri)

    def runs(self) -> list[Any]:
        """The experiment's runs, the oldest first."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return []
        return sorted(self.client.search_runs([experiment.experiment_id]), key=lambda run: run.info.start_time)

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """`(step, value)` of a metric, by step."""
        return sorted((point.step, point.value) for point in self.client.get_metric_history(run_id, key))

    def artifacts(self, run_id: str, path: str | None = None) -> list[str]:
        """Paths of all files of a run."""
        found = []
        for info in self.client.list_artifacts(run_id, path):
            found += self.artifacts(run_id, info.path) if info.is_dir else [info.path]
        return sorted(found)


Try = Callable[[ModuleType, Place], Any]


class Behaviour(NamedTuple):
    """One row of the table.

    Attributes:
        function: Tries it.
        why: For a documented difference: its heading in docs/migrate/mlflow.md.
        ours: What is seen with tailrace then.
    """

    function: Try
    why: str | None = None
    ours: Any = None


BEHAVIOURS: dict[str, Behaviour] = {}
NEEDS: dict[str, str] = {}
"""By behaviour: a function that an older MLflow does not have."""


def needs(name: str) -> Callable[[Try], Try]:
    """It is tried where MLflow has a function of that name."""

    def note(function: Try) -> Try:
        NEEDS[function.__name__] = name
        return function

    return note


def same(function: Try) -> Try:
    """With tailrace just what is seen with MLflow is seen."""
    BEHAVIOURS[function.__name__] = Behaviour(function)
    return function


def differs(why: str, *, ours: Any) -> Callable[[Try], Try]:
    """With tailrace something else is seen, on purpose.

    Args:
        why: The heading of docs/migrate/mlflow.md that says so.
        ours: What is seen.
    """

    def note(function: Try) -> Try:
        BEHAVIOURS[function.__name__] = Behaviour(function, why, ours)
        return function

    return note


def outcome(call: Callable[[], Any]) -> str:
    """Whether a call is taken; errors are of other classes, and have other words."""
    try:
        call()
    except Exception:  # noqa: BLE001 - that is what is asked for
        return "an error"
    return "taken"
