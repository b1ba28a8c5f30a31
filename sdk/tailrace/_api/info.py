"""What scripts read of MLflow's own objects, so that they carry over: `run.info`, and what `set_experiment` returns.

And how runs and these show themselves: by what is known now; nothing is waited for, and nothing told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.text.cards import brief, card

if TYPE_CHECKING:
    from tailrace._api.run import Run
    from tailrace._runs.active import Active
    from tailrace._session.connection import Connection
    from tailrace_agent.ipc.records import RunSpec

__all__ = ["ExperimentInfo", "RunInfo", "Shown"]


class Shown:
    """How a run shows itself. A base of `Run`."""

    _connection: Connection | None
    _outcome: str | None
    _seen: RunStatus | None
    _spec: RunSpec

    def __repr__(self) -> str:
        name, facts = self._about()
        run_id = facts["run_id"]
        where = facts["link"] or (f"run_id={run_id}" if run_id else f"id={self._spec.run:016x}")
        return brief("Run", name, facts["status"], where, "tracking is off" if self._connection is None else None)

    def _repr_html_(self) -> str:
        """What is known of it now, for a notebook."""
        name, facts = self._about()
        return card("Run", (("name", name), *facts.items()))

    def _about(self) -> tuple[str | None, dict[str, str | None]]:
        """Its name, and what else is known."""
        spec, connection = self._spec, self._connection
        told = connection.status(spec.run) if connection is not None else None
        known = told or self._seen or RunStatus(run=spec.run)
        facts = {
            "status": self._outcome or known.status,
            "experiment": spec.experiment_name,
            "experiment_id": known.experiment_id or spec.experiment_id,
            "run_id": known.run_id or spec.run_id,
            "link": known.url,
        }
        return spec.run_name or known.run_name, facts


class ExperimentInfo:
    """An experiment, by name or by MLflow's id; the other one is known once a run of it has been created."""

    def __init__(self, name: str | None, experiment_id: str | None, active: Active) -> None:
        self._name, self._id, self._active = name, experiment_id, active

    def __repr__(self) -> str:
        return brief("ExperimentInfo", self._name, f"experiment_id={self._id}" if self._id is not None else None)

    def _repr_html_(self) -> str:
        """What is known of it now, for a notebook."""
        return card("ExperimentInfo", (("name", self._name), ("experiment_id", self._id)))

    @property
    def name(self) -> str | None:
        """Its name; None when it was given by id."""
        return self._name

    @property
    def experiment_id(self) -> str:
        """MLflow's id. Waits for the active run's creation when it is not known.

        Raises:
            LookupError: It is not known, and no run of the experiment is active.
            TimeoutError: MLflow could not be reached in time.
        """
        if self._id is None:
            run = self._active.current()
            if run is None or run._spec.experiment_name != self._name:
                raise LookupError(f"the id of experiment {self._name!r} is known once a run of it has been started")
            self._id = run.info.experiment_id
        return self._id


class RunInfo:
    """The attributes of MLflow's `RunInfo` that scripts read. Those that MLflow gives are waited for.

    Example:
        >>> tailrace.active_run().info.run_id
        '0f6a…'
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def __repr__(self) -> str:
        name, facts = self._run._about()
        shown = (f"{key}={facts[key]}" for key in ("run_id", "experiment_id") if facts[key])
        return brief("RunInfo", name, facts["status"], *shown)

    def _repr_html_(self) -> str:
        """What is known of the run now, for a notebook."""
        name, facts = self._run._about()
        return card("RunInfo", (("name", name), *facts.items()))

    @property
    def run_id(self) -> str:
        """MLflow's id."""
        return self._run.run_id

    @property
    def run_name(self) -> str | None:
        """Its name."""
        return self._run.run_name

    @property
    def experiment_id(self) -> str:
        """MLflow's id of its experiment."""
        return self._run._known().experiment_id or ""

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        return self._run.status

    @property
    def start_time(self) -> int:
        """Milliseconds since the epoch."""
        return self._run._spec.start_time
