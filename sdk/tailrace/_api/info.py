"""What scripts read of MLflow's own objects, so that they carry over: `run.info`, and what `set_experiment` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tailrace._api.readers import experiment_id_of, reader_at, stored_run
from tailrace._api.shown import known_facts
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.text.cards import brief, card

if TYPE_CHECKING:
    from tailrace._api.tracker_core import TrackerCore
    from tailrace._runs.core import RunCore

__all__ = ["ExperimentInfo", "RunData", "RunInfo"]


class ExperimentInfo:
    """An experiment, by name or by MLflow's id, with the attributes of MLflow's `Experiment`.

    What was not given is asked for: a run of the experiment that is active knows its id; for all else MLflow's store
    is asked, which makes an experiment that is not there yet, as MLflow's `set_experiment` does. With tracking off
    nobody is asked.

    Args:
        name: Its name.
        experiment_id: Or its id.
        core: The tracker's.
    """

    def __init__(self, name: str | None, experiment_id: str | None, core: TrackerCore) -> None:
        self._name, self._id, self._core = name, experiment_id, core

    def __repr__(self) -> str:
        return brief("ExperimentInfo", self._name, f"experiment_id={self._id}" if self._id is not None else None)

    def _repr_html_(self) -> str:
        """What is known of it now, for a notebook."""
        return card("ExperimentInfo", (("name", self._name), ("experiment_id", self._id)))

    @property
    def name(self) -> str | None:
        """Its name; None where it was given by id, and tracking is off."""
        if self._name is None and not self._off:
            self._name = self._stored().name
        return self._name

    @property
    def experiment_id(self) -> str:
        """MLflow's id.

        Raises:
            LookupError: It is not known, and tracking is off.
            TimeoutError, SinkError, StoreRefused: MLflow could not be reached in time, or cannot be used.
        """
        if self._id is None:
            run = self._core.runs.active.current()
            # Another experiment's run would answer with its own id.
            if run is not None and run.spec.experiment_name == self._name:
                self._id = RunInfo(run).experiment_id
            elif self._off or self._name is None:
                raise LookupError(f"the id of experiment {self._name!r} is known once a run of it has been started")
            else:
                settings = self._core.settings({})
                self._id = experiment_id_of(self._name, settings.tracking_uri, working_directory())
        return self._id

    @property
    def artifact_location(self) -> str:
        """Where artifacts of its runs are."""
        return str(self._stored().artifact_location)

    @property
    def lifecycle_stage(self) -> str:
        """`active` or `deleted`."""
        return str(self._stored().lifecycle_stage)

    @property
    def tags(self) -> dict[str, str]:
        """Its tags."""
        return dict(self._stored().tags)

    @property
    def creation_time(self) -> int | None:
        """When it was made, in milliseconds since the epoch."""
        return cast("int | None", self._stored().creation_time)

    @property
    def last_update_time(self) -> int | None:
        """When it was changed last, in milliseconds since the epoch."""
        return cast("int | None", self._stored().last_update_time)

    @property
    def _off(self) -> bool:
        return self._core.settings({}).agent == "off"

    def _stored(self) -> Any:
        """MLflow's `Experiment`, as its store has it now."""
        reader = reader_at(self._core.settings({}).tracking_uri, working_directory())
        with reader.translated_errors(about_run=False):
            return reader.store.get_experiment(self.experiment_id)


class RunData(NamedTuple):
    """What MLflow has of a run: the last value of each metric, params and tags, by name."""

    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]


class RunInfo:
    """The attributes of MLflow's `RunInfo` that scripts read. Those that MLflow gives are waited for.

    Example:
        >>> tailrace.active_run().info.run_id
        '0f6a…'
    """

    def __init__(self, run: RunCore) -> None:
        self._run = run

    def __repr__(self) -> str:
        name, facts = known_facts(self._run)
        shown = (f"{key}={facts[key]}" for key in ("run_id", "experiment_id") if facts[key])
        return brief("RunInfo", name, facts["status"], *shown)

    def _repr_html_(self) -> str:
        """What is known of the run now, for a notebook."""
        name, facts = known_facts(self._run)
        return card("RunInfo", (("name", name), *facts.items()))

    @property
    def run_id(self) -> str:
        """MLflow's id."""
        run_id: str = self._run.handle.run_id
        return run_id

    @property
    def run_name(self) -> str | None:
        """Its name."""
        run_name: str | None = self._run.handle.run_name
        return run_name

    @property
    def experiment_id(self) -> str:
        """MLflow's id of its experiment."""
        return self._run.known().experiment_id or ""

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        status: str = self._run.handle.status
        return status

    @property
    def start_time(self) -> int:
        """Milliseconds since the epoch."""
        return self._run.spec.start_time

    @property
    def end_time(self) -> int | None:
        """When it ended, in milliseconds since the epoch; None while it runs."""
        return cast("int | None", self._stored().end_time) if self._run.ended or not self._run.ours else None

    @property
    def artifact_uri(self) -> str:
        """Where its artifacts are."""
        return str(self._stored().artifact_uri)

    @property
    def lifecycle_stage(self) -> str:
        """`active`, or `deleted` where somebody has deleted it."""
        return str(self._stored().lifecycle_stage)

    @property
    def user_id(self) -> str:
        """Who has begun it."""
        return str(self._stored().user_id)

    def _stored(self) -> Any:
        """MLflow's `RunInfo`, as its store has it now."""
        return stored_run(self._run, settled=self._run.ended).info
