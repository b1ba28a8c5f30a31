"""Runs that begin while the tracking server is away: `install(offline=True)`.

MLflow's server makes a run's id, and MLflow's callers need one at once. So such a run gets an id of this process's own.
The agent creates the run as soon as the server is back; what is logged goes to it by tailrace's number, as in a run of
`tailrace.start_run`. This process goes on calling it by its first id, and whoever finds the run in MLflow finds that id
in its tags.

Experiments are found by the server, too: one that is asked for by name meanwhile gets an id of the same kind, and is
looked for, or created, by that name.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec
from mlflow.entities import Experiment, LifecycleStage, Run, RunData, RunInfo, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.rest_utils import http_request

import tailrace
from tailrace._api.tracker_core import module_core
from tailrace._runs.launch import describe
from tailrace.store.overlay import changed
from tailrace.store.runs import StoreRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace.store.runs import StoreRuns

__all__ = ["LocalRun", "Offline", "run_is_not_there"]

_ID_TAG: Final = "tailrace.offline_run_id"
_PATIENCE: Final = 5.0
"""Seconds in which a server has to say that it is there."""
_GATEWAY_ERRORS: Final = (502, 503, 504)


class LocalRun(StoreRun):
    """A run that this process has begun without MLflow.

    Args:
        uri: The store that it is for.
        run: What it is, with an id of this process's own.
        begin: Makes it known to tailrace's agent.
    """

    def __init__(self, uri: str, run: Run, begin: Callable[[], tailrace.Run]) -> None:
        self._begin: Callable[[], tailrace.Run] | None = begin
        self._run = run
        super().__init__(run.info.run_id, uri, run, created=True)

    def _attached(self, *, created: bool, info: Any) -> tailrace.Run:
        del info  # MLflow has answered nothing yet
        if self._begin is None:  # it has ended; it is resumed, or something is added to it
            return tailrace.attach_run(self.mlflow_id, self._uri, created=created)
        begin, self._begin = self._begin, None
        return begin()

    @property
    def is_in_mlflow(self) -> bool:
        """Whether MLflow has it by now."""
        return bool(self.core.run_id_now)

    @property
    def mlflow_id(self) -> str:
        """By which MLflow knows it.

        Raises:
            MlflowException: It does not, yet.
        """
        if not self.is_in_mlflow:
            raise run_is_not_there(self.run_id)
        return str(self.core.run_id_now)

    def stored(self, fetch: Callable[[str], Any]) -> Any:
        """What the store has of it, under the id of this process's own; what it began with, if there is nothing yet."""
        if not self.is_in_mlflow:
            return self._run
        found = fetch(self.mlflow_id)
        self._info = RunInfo(**{**dict(found.info), "run_id": self.run_id})
        return Run(self._info, found.data, found.inputs, found.outputs)

    def remembered(self) -> Run:
        """The same; its experiment as soon as it has one in MLflow."""
        found = super().remembered()
        status = self.core.status()
        if status is None or not status.experiment_id:
            return found
        return Run(changed(found.info, experiment_id=status.experiment_id), found.data)


class Offline:
    """What a store answers while its server is away.

    Args:
        store: With the plug-in in its place.
        runs: Its runs.

    Thread safety: every method from any thread.
    """

    def __init__(self, store: Any, runs: StoreRuns) -> None:
        self._store, self._runs = store, runs
        self._experiments: dict[str, str] = {}

    def is_away(self) -> bool:
        """Whether the server does not answer. A database or a directory has been opened by now, and is there."""
        credentials = getattr(self._store, "get_host_creds", None)
        if credentials is None:
            return False
        try:
            answer = http_request(
                credentials(), "/health", "GET", max_retries=0, timeout=_PATIENCE, raise_on_status=False
            )
        except MlflowException:  # what MLflow makes of every failure to connect
            return True
        return answer.status_code in _GATEWAY_ERRORS

    # -- experiments -------------------------------------------------------------------------------------------------

    def experiment_named(self, name: str) -> Experiment:
        """An experiment that nobody can be asked about."""
        for known, its_name in list(self._experiments.items()):
            if its_name == name:
                return _experiment(known, name)
        made = uuid.uuid4().hex
        self._experiments[made] = name
        return _experiment(made, name)

    def experiment(self, experiment_id: str) -> Experiment:
        """The same, of one that is asked for by its id."""
        return _experiment(experiment_id, self._experiments.get(experiment_id))

    def name_of(self, experiment_id: str) -> str | None:
        """The name of an experiment that has an id of this process's own."""
        return self._experiments.get(experiment_id)

    # -- runs --------------------------------------------------------------------------------------------------------

    def local(self, run_id: str | None) -> LocalRun | None:
        """A run that MLflow does not have yet."""
        run = None if run_id is None else self._runs.known(run_id)
        return run if isinstance(run, LocalRun) and not run.is_in_mlflow else None

    def refuse_while_away(self) -> None:
        """For what asks the server about all runs: with some that it does not have yet, it would be waited for twice.

        Raises:
            MlflowException: There are such runs, and the server is still away.
        """
        local = [run.run_id for run in self._runs.all() if isinstance(run, LocalRun) and not run.is_in_mlflow]
        if local and self.is_away():
            raise run_is_not_there(local[0])

    def begin(
        self, experiment_id: str, user_id: str, start_time: int, tags: Sequence[RunTag], run_name: str | None
    ) -> Run | None:
        """Begins a run here, if it cannot be created by MLflow; None if it can, or tailrace cannot track.

        Args:
            experiment_id: MLflow's, or one of this process's own.
            user_id: As MLflow's stores have it, like all that follows.
            start_time: Milliseconds since the epoch.
            tags: The parent's id among them.
            run_name: One is made up if there is none.
        """
        texts = {tag.key: tag.value for tag in tags}
        parent = self.local(texts.get(MLFLOW_PARENT_RUN_ID))
        if parent is None and not self.is_away():
            return None
        made = uuid.uuid4().hex
        name = run_name or texts.get(MLFLOW_RUN_NAME) or _generate_random_name()
        run = Run(
            RunInfo(
                run_id=made,
                experiment_id=experiment_id,
                user_id=user_id,
                status=RunStatus.to_string(RunStatus.RUNNING),
                start_time=start_time,
                end_time=None,
                lifecycle_stage=LifecycleStage.ACTIVE,
                artifact_uri=f"tailrace-run:/{made}/artifacts",
                run_name=name,
            ),
            RunData(tags=[*tags, RunTag(MLFLOW_RUN_NAME, name), RunTag(_ID_TAG, made)]),
        )
        local = LocalRun(self._runs.uri, run, lambda: self._begun(run, parent))
        if not local.usable:
            return None
        self._runs.begun(local)
        local.core.voice.warn(
            f"the tracking server at {self._runs.shown_uri} is away: run {name!r} has begun here, and MLflow gets it "
            "when the server is back",
            once=("begun offline", made),
        )
        return run

    def _begun(self, run: Run, parent: LocalRun | None) -> tailrace.Run:
        core, info = module_core(), run.info
        name = self.name_of(info.experiment_id)
        experiment = {} if name is None else {"experiment_name": name}
        config = core.settings({"tracking_uri": self._runs.uri, "metadata": False, "quiet": True, **experiment})
        # MLflow's own tag of the parent would have an id that MLflow does not know.
        tags = {key: value for key, value in run.data.tags.items() if parent is None or key != MLFLOW_PARENT_RUN_ID}
        spec, credentials = describe(
            config,
            experiment_id=info.experiment_id if name is None else None,
            run_name=info.run_name,
            tags=tags,
            parent=None if parent is None else int(parent.core.id, 16),
            created=True,
        )
        spec = msgspec.structs.replace(spec, start_time=info.start_time)
        begun: tailrace.Run = core.runs.begin_apart(info.run_id, spec, config, credentials).handle
        return begun


def run_is_not_there(run_id: str) -> MlflowException:
    """The error of a call that needs a run in MLflow which is not there yet."""
    return MlflowException(
        f"run {run_id} has begun without the tracking server, which does not have it yet. Its metrics, params, tags, "
        "artifacts and end reach it later; for all else the server has to be there",
        TEMPORARILY_UNAVAILABLE,
    )


def _experiment(experiment_id: str, name: str | None) -> Experiment:
    return Experiment(experiment_id, name, None, LifecycleStage.ACTIVE)
