"""Experiments by their names: found, or made where they are missing.

Loading this module is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace_agent.errors import Refused
from tailrace_agent.mlflow.errors import refused_code

if TYPE_CHECKING:
    from tailrace_agent.mlflow.stores import Store

__all__ = ["bring_back", "experiment_named"]


def experiment_named(store: Store, name: str) -> str:
    """The id of an experiment; created when missing.

    Args:
        store: From `mlflow.stores.open_store`, or whatever else has MLflow's two calls for it.
        name: Its name.

    Raises:
        Refused: It was deleted.
        Exception: Anything that MLflow and the database driver come up with.
    """
    experiment = store.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(store.create_experiment(name, None, []))
        except Exception as error:
            if not refused_code(error, "RESOURCE_ALREADY_EXISTS"):
                raise
        # Somebody else was faster.
        experiment = store.get_experiment_by_name(name)
    if experiment.lifecycle_stage == "deleted":
        raise Refused(bring_back(f"{name!r}", experiment.experiment_id))
    return str(experiment.experiment_id)


def bring_back(name: str, experiment_id: str) -> str:
    """What to do about an experiment that was deleted."""
    return (
        f"the experiment {name} was deleted: bring it back with `mlflow experiments restore -x {experiment_id}`, "
        "or choose another name"
    )
