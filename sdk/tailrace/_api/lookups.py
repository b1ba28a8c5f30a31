"""What a call names by its id is looked up in MLflow under `strict=True`, so that a wrong one is raised at the call.

By default nothing is asked there: the warnings of the run, and `run.run_id`, say later what was wrong. A store that
is away, or cannot be used, is no mistake of the call, and left to them here, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace._api.readers import reader_at
from tailrace._runs.strictness import mistake
from tailrace_agent.errors import NotFound, Refused, RunGone, SinkError, StoreRefused
from tailrace_agent.runtime.places import working_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._runs.core import RunCore
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.settings.settings import Settings

__all__ = ["require_experiment", "require_named"]

_PATIENCE = 20.0
"""Seconds that an answer may take: training is about to begin."""
_DELETED = "deleted"
"""MLflow's `LifecycleStage.DELETED`."""


def require_experiment(config: Settings, name: str | None, experiment_id: str | None) -> None:
    """Looks up the experiment that `set_experiment` was given.

    Args:
        config: The settings; without `strict` nothing is looked up.
        name: Its name: one that there is not will be made.
        experiment_id: Or its id.

    Raises:
        CallError: It is deleted, or its id is none.
        NotFound: There is none with this id.
    """

    def ask(store: Any) -> None:
        found = store.get_experiment(experiment_id) if name is None else store.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == _DELETED:
            raise mistake(
                f"Cannot set a deleted experiment {found.name!r} as the active experiment. Bring it back with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or choose another"
            )

    _ask(config, ask)


def require_named(config: Settings, spec: RunSpec, running: RunCore | None) -> None:
    """Looks up the run to resume, the parent and the experiment that `start_run` was given by id.

    Args:
        config: The run's settings; without `strict` nothing is looked up.
        spec: The run to begin.
        running: The active run of this thread or task, if there is one.

    Raises:
        CallError: One of them is deleted, its id is none, or the parent is not the active run.
        NotFound: There is no such run or experiment.
    """

    def ask(store: Any) -> None:
        if spec.run_id and store.get_run(spec.run_id).info.lifecycle_stage == _DELETED:
            raise mistake(f"Cannot start run with ID {spec.run_id} because it is in the deleted state.")
        parent = spec.parent_run_id
        active = running.known().run_id if parent and running is not None else None
        if active and parent != active:
            raise mistake(
                f"Current run with UUID {active} does not match the specified parent_run_id {parent}. To start a run "
                "under another parent, end the current one first"
            )
        if parent and store.get_run(parent).info.lifecycle_stage == _DELETED:
            raise mistake(f"Cannot start run under parent run with ID {parent} because it is in the deleted state.")
        if spec.experiment_id and store.get_experiment(spec.experiment_id).lifecycle_stage == _DELETED:
            raise mistake(f"The experiment {spec.experiment_id} must be in the 'active' state, and it is deleted")

    if spec.run_id or spec.parent_run_id or spec.experiment_id:
        _ask(config, ask)


def _ask(config: Settings, ask: Callable[[Any], None]) -> None:
    """Asks MLflow's store, if that is wanted; what it says of the call is raised, and nothing else."""
    if not config.strict or config.agent == "off":
        return
    try:
        reader = reader_at(config.tracking_uri, working_directory(), _PATIENCE)
        with reader.translated_errors(about_run=True):
            ask(reader.store)
    except RunGone as error:
        raise NotFound(str(error)) from None
    except Refused as error:
        raise mistake(str(error)) from None
    except (SinkError, StoreRefused):
        pass
