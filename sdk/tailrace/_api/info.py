"""What scripts read of MLflow's own objects, so that they carry over: `run.info`, and what `set_experiment` returns.

And how runs and these show themselves: by what is known now; nothing is waited for, and nothing printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace._runs.core import RunPart
from tailrace_agent.text.cards import brief, card

if TYPE_CHECKING:
    from tailrace._runs.active import Active
    from tailrace._runs.core import RunCore

__all__ = ["ExperimentInfo", "RunInfo", "Shown"]


class Shown(RunPart):
    """How a run shows itself. A base of `Run`."""

    def __repr__(self) -> str:
        name, facts = self._core.facts()
        run_id = facts["run_id"]
        where = facts["link"] or (f"run_id={run_id}" if run_id else f"id={self._core.id}")
        return brief("Run", name, facts["status"], where, "tracking is off" if self._core.connection is None else None)

    def _repr_html_(self) -> str:
        """What is known of it now, for a notebook."""
        name, facts = self._core.facts()
        return card("Run", (("name", name), *facts.items()))


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
            if run is None or run.spec.experiment_name != self._name:
                raise LookupError(f"the id of experiment {self._name!r} is known once a run of it has been started")
            self._id = RunInfo(run).experiment_id
        return self._id


class RunInfo:
    """The attributes of MLflow's `RunInfo` that scripts read. Those that MLflow gives are waited for.

    Example:
        >>> tailrace.active_run().info.run_id
        '0f6a…'
    """

    def __init__(self, run: RunCore) -> None:
        self._run = run

    def __repr__(self) -> str:
        name, facts = self._run.facts()
        shown = (f"{key}={facts[key]}" for key in ("run_id", "experiment_id") if facts[key])
        return brief("RunInfo", name, facts["status"], *shown)

    def _repr_html_(self) -> str:
        """What is known of the run now, for a notebook."""
        name, facts = self._run.facts()
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
