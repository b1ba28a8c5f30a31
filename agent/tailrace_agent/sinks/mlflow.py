"""MLflow, as a `Sink`.

What this module promises:

* A method that returns has MLflow's own word that the data is there. One that does not raises one of our errors, with
  a message that a person can act on and that holds no password.
* No method retries or sleeps, and none waits longer than the request time-out for one answer (uploads to object stores
  excepted). Nothing of the process is changed: no environment variable, no state of MLflow's modules.
* Metrics for a plain MLflow server take a short way: the body is encoded here and posted through MLflow's own
  `http_request`, with its authentication and headers. Everything else goes through MLflow's stores.

Loading this module is cheap. `open_sink` imports MLflow, which takes a second. MLflow's telemetry is left as the
process has it; a host that owns its process sets `MLFLOW_DISABLE_TELEMETRY=true` before the first call.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from posixpath import dirname, join
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.errors import Refused, RunGone, StoreRefused, Unavailable
from tailrace_agent.ipc.records import Kind, ModelOutcome, ModelSpec, Point, RunSpec, run_hex
from tailrace_agent.ipc.tags import RUN_TAG
from tailrace_agent.mlflow.errors import mask, opening_failed, refused_code, stored_already, translate
from tailrace_agent.mlflow.links import is_server, run_page
from tailrace_agent.mlflow.log_batch_body import batch_body
from tailrace_agent.mlflow.pages import PAGES_AT_MOST, pages
from tailrace_agent.settings.uris import check_uri, public_uri
from tailrace_agent.sinks.base import Limits, Renamed, RunRef, Sink, StoredRun
from tailrace_agent.text.quoting import plain, quoted

if TYPE_CHECKING:
    from tailrace_agent.mlflow.models import Placed
    from tailrace_agent.mlflow.registry import Registry
    from tailrace_agent.mlflow.stores import Store

__all__ = ["MlflowSink", "open_sink"]

_NAME_TAG: Final = "mlflow.runName"
_PARENT_TAG: Final = "mlflow.parentRunId"
_NOTE_TAG: Final = "mlflow.note.content"
_CONTEXT_TAGS: Final = ("mlflow.user", "mlflow.source.", RUN_TAG)  # record how a run was created; resuming keeps them
_REPOSITORIES: Final = 64
_ID: Final = re.compile(r"[A-Za-z0-9][\w-]{0,255}", re.ASCII)
_OF_THE_PATH: Final = frozenset(
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EILSEQ)
)
"""The error numbers of a path that a file system will never take."""


def open_sink(tracking_uri: str | None, cwd: str, *, request_timeout: float) -> Sink:
    """Opens the store behind a tracking URI.

    Args:
        tracking_uri: None means what MLflow would take in `cwd`: `MLFLOW_TRACKING_URI`, or its default store.
        cwd: Directory from which relative paths are meant.
        request_timeout: Seconds that one request may take.

    Raises:
        StoreRefused: MLflow can make no use of this URI. The message says what to do.
        Unavailable: The database cannot be reached now.
    """
    from tailrace_agent.mlflow import stores as mlflow_store

    uri = tracking_uri or "MLflow's default store"
    try:
        uri = mlflow_store.store_uri(tracking_uri, cwd)
        fault = check_uri(uri, os.environ)
        if fault is not None:
            raise StoreRefused(f"MLflow cannot use {mask(uri)}: {fault}")
        store = mlflow_store.open_store(uri, cwd, request_timeout)
    except Exception as error:  # noqa: BLE001  # whatever a database driver or a plug-in raises
        raise opening_failed(error, uri) from None
    return MlflowSink(uri, store, request_timeout)


class MlflowSink:
    """One tracking store of MLflow. May be used from several threads at once.

    Args:
        uri: The absolute tracking URI, with its credentials.
        store: MLflow's store for it, from `mlflow.stores.open_store`.
        request_timeout: Seconds that one request may take.
    """

    def __init__(self, uri: str, store: Store, request_timeout: float) -> None:
        from tailrace_agent.mlflow.stores import batch_poster, is_remote

        self._uri = uri
        self._store = store
        self._timeout = request_timeout
        self._remote = is_remote(store)
        self._post: Callable[[bytes], None] | None = batch_poster(store)
        self._lock = threading.Lock()
        self._repositories: OrderedDict[str, Any] = OrderedDict()
        self._registries: dict[str, Registry] = {}

    @property
    def limits(self) -> Limits:
        """MLflow's REST limits; its databases keep the same ones."""
        return Limits()

    def check(self, kind: Kind, key: str, value: object = None) -> str | None:
        """MLflow's own validation of a name: the reason for a refusal, or None. The value is not looked at."""
        del value
        return _name_fault(kind, key)

    def open_run(self, spec: RunSpec, parent_run_id: str | None, *, find_first: bool) -> RunRef:
        """Creates the run that `spec` describes (its experiment too), or resumes `spec.run_id`."""
        if spec.run_id is not None:
            with self._translated_errors(about_run=True):
                return self._ref(self._resume(spec, spec.run_id))
        with self._translated_errors(about_run=False):
            experiment_id = self._experiment(spec)
            found = self._runs_of(spec, experiment_id) if find_first else []
            return self._ref(found[0] if found else self._create(spec, experiment_id, parent_run_id))

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Point] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes one batch. Values longer than the limits are refused, where MLflow would cut them."""
        _refuse_long("param", params, self.limits.param_chars)
        _refuse_long("tag", tags, self.limits.tag_chars)
        with self._translated_errors(about_run=True):
            try:
                self._send(run_id, metrics, params, tags)
            except Exception as error:
                # In company it is a refusal, so that the caller isolates the point that is there already.
                if len(metrics) != 1 or not stored_already(error):
                    raise

    def log_artifact(self, run_id: str, path: Path, artifact_path: str | None) -> Renamed:
        """Uploads a file, or a directory under its own name."""
        if path.is_dir():
            return self.log_artifacts(run_id, path, f"{artifact_path}/{path.name}" if artifact_path else path.name)
        if not path.exists():
            raise Refused(f"the file to upload is gone: {path}")
        with self._artifacts(run_id) as repository:
            if self._is_proxied(repository):
                return self._put(repository, [(path, join(artifact_path or "", path.name))])
            if Path(getattr(repository, "artifact_dir", "/nowhere"), artifact_path or "", path.name).is_dir():
                raise IsADirectoryError(errno.EISDIR, "there is a directory of this name", path.name)
            repository.log_artifact(str(path), artifact_path)
        return {}

    def log_artifacts(self, run_id: str, directory: Path, artifact_path: str | None) -> Renamed:
        """Uploads everything in a directory."""
        if not directory.is_dir():
            raise Refused(f"the directory to upload is gone: {directory}")
        with self._artifacts(run_id) as repository:
            if self._is_proxied(repository):
                files = sorted(file for file in directory.rglob("*") if file.is_file())
                under = artifact_path or ""
                return self._put(repository, [(file, join(under, file.relative_to(directory))) for file in files])
            repository.log_artifacts(str(directory), artifact_path)
        return {}

    def fetch_artifact(self, run_id: str, artifact_file: str, directory: Path) -> Path | None:
        """Downloads one file of the run's artifacts into a directory; None when the run has none of that name."""
        with self._artifacts(run_id) as repository:
            listed = repository.list_artifacts(dirname(artifact_file) or None)
            sizes = [info.file_size for info in listed if info.path == artifact_file]
            if not sizes:
                return None
            if self._is_proxied(repository):
                file: Path = repository.fetch(artifact_file, directory, sizes[0])
            else:
                file = Path(repository.download_artifacts(artifact_file, dst_path=str(directory)))
            if sizes[0] not in (None, file.stat().st_size):
                raise Unavailable(f"{public_uri(self._uri)} sent a part of {quoted(artifact_file)}, or another file")
            return file

    def log_model(self, run_id: str, directory: Path, spec: ModelSpec) -> ModelOutcome:
        """Makes a model of the run from a directory, and then, if that is wanted, a version of a registered model."""
        from tailrace_agent.mlflow.models import place_model
        from tailrace_agent.mlflow.stores import open_repository

        def repository(location: str) -> Any:
            return open_repository(location, self._uri, self._timeout)

        if not directory.is_dir():
            raise Refused(f"the model to upload is gone: {directory}")
        with self._translated_errors(about_run=False):
            placed = place_model(self._store, repository, run_id, directory, spec)
        if spec.registered_name is None:
            return ModelOutcome(placed.uri)
        try:
            return ModelOutcome(placed.uri, self._register(run_id, directory, spec, placed))
        except Refused as error:
            return ModelOutcome(placed.uri, None, f"not registered as {spec.registered_name!r}: {error}")

    def _register(self, run_id: str, directory: Path, spec: ModelSpec, placed: Placed) -> str:
        from tailrace_agent.mlflow.models import link_version
        from tailrace_agent.mlflow.stores import is_remote

        registry = self._registry(spec)
        beside_the_runs = spec.registry_uri in (None, self._uri)
        # A server resolves `models:/…` itself; a database store would use MLflow's global tracking URI.
        source = placed.uri if beside_the_runs and self._remote else placed.location
        try:
            version = registry.register(spec, source, run_id, placed.model_id, directory)
            if placed.model_id is not None and beside_the_runs:
                link_version(self._store, placed.model_id, spec.registered_name or "", version)
        except Exception as error:  # noqa: BLE001  # as in `_translated_errors`
            uri = spec.registry_uri or self._uri
            raise translate(error, uri, remote=is_remote(registry.store), about_run=False) from None
        return version

    def _registry(self, spec: ModelSpec) -> Registry:
        from tailrace_agent.mlflow.registry import Registry
        from tailrace_agent.mlflow.stores import open_registry

        uri = spec.registry_uri or self._uri
        registry = self._registries.get(uri)
        if registry is None:
            try:
                registry = self._registries[uri] = Registry(open_registry(uri, self._uri, self._timeout))
            except Exception as error:  # noqa: BLE001  # whatever a database driver or a plug-in raises
                raise opening_failed(error, uri) from None
        return registry

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """Sets the run's status and its end time (milliseconds)."""
        from mlflow.entities import RunStatus

        with self._translated_errors(about_run=True):
            self._store.update_run_info(run_id, RunStatus.from_string(status), end_time, None)

    def discard_twins(self, spec: RunSpec, run_id: str) -> int:
        """Deletes other runs that carry this spec's `tailrace.run` tag; how many."""
        if spec.run_id is not None:
            return 0
        with self._translated_errors(about_run=True):
            experiment_id = self._store.get_run(run_id).info.experiment_id
            twins = [run.info.run_id for run in self._runs_of(spec, experiment_id) if run.info.run_id != run_id]
            for twin in twins:
                self._store.delete_run(twin)
        return len(twins)

    def count_metrics(self, run_id: str, keys: Sequence[str] | None = None) -> dict[str, int]:
        """Rows in the metric history of each key of the run (of all its keys, if None), read back page by page."""
        with self._translated_errors(about_run=True):
            if keys is None:
                keys = list(self._store.get_run(run_id).data.metrics)
            return {key: self._count(run_id, key) for key in keys}

    def find_runs(self, text: str) -> list[StoredRun]:
        """Runs by the start of MLflow's id or of the tag `tailrace.run`, or else by their whole name; 1000 at most."""
        from mlflow.entities import ViewType

        quote = '"' if "'" in text else "'"
        filters = [f"attributes.run_name = {quote}{text}{quote}"]
        if text.isalnum():  # no wildcard of LIKE in it
            filters[:0] = [f"attributes.run_id LIKE '{text}%'", f"tags.`{RUN_TAG}` LIKE '{text}%'"]
        with self._translated_errors(about_run=False):
            experiments = self._store.search_experiments(ViewType.ACTIVE_ONLY, 1000, None, None, None)
            ids = [experiment.experiment_id for experiment in experiments]
            for query in filters:
                found = list(self._store.search_runs(ids, query, ViewType.ACTIVE_ONLY, 1000, None)) if ids else []
                if found:
                    return [StoredRun(self._ref(run), run.info.status, dict(run.data.tags)) for run in found]
        return []

    @contextmanager
    def _artifacts(self, run_id: str) -> Iterator[Any]:
        """Where the run's artifacts go. An object store's refusal is not the MLflow server's."""
        with self._translated_errors(about_run=True):
            repository = self._repository(run_id)
        with self._translated_errors(about_run=True, repository=repository):
            yield repository

    @contextmanager
    def _translated_errors(self, *, about_run: bool, repository: Any = None) -> Iterator[None]:
        """Nothing foreign gets past this. The cause is left out, since its message may hold a password."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # MLflow, its plug-ins and drivers raise anything
            if repository is not None and (fault := _fault_of_the_path(error, repository)) is not None:
                raise Refused(fault) from None
            remote = self._remote and (repository is None or self._is_proxied(repository))
            upload = repository is not None
            raise translate(error, self._uri, remote=remote, about_run=about_run, upload=upload) from None

    def _is_proxied(self, repository: Any) -> bool:
        from tailrace_agent.mlflow.stores import is_proxied

        return is_proxied(repository)

    def _put(self, repository: Any, files: Sequence[tuple[Path, str]]) -> Renamed:
        """Uploads files through the server: `(file, where it is to lie)`."""
        from tailrace_agent.mlflow.requests import stored_name

        names = {wanted: stored_name(wanted) for _, wanted in files}
        unconfirmed = [(file, names[wanted]) for file, wanted in files if not repository.put(file, names[wanted])]
        if unconfirmed:
            repository.confirm(unconfirmed)
        return {wanted: name for wanted, name in names.items() if name != wanted}

    def _experiment(self, spec: RunSpec) -> str:
        from mlflow.environment_variables import MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME
        from mlflow.tracking.default_experiment.registry import get_experiment_id

        if spec.experiment_name is not None:
            return self.experiment_named(spec.experiment_name)
        if spec.experiment_id is not None:
            return spec.experiment_id
        name: str | None = MLFLOW_EXPERIMENT_NAME.get()
        if name is not None:
            return self.experiment_named(name)
        return str(MLFLOW_EXPERIMENT_ID.get() or get_experiment_id())

    def experiment_named(self, name: str) -> str:
        """The id of an experiment; created when missing."""
        experiment = self._store.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._store.create_experiment(name, None, []))
            except Exception as error:
                if not refused_code(error, "RESOURCE_ALREADY_EXISTS"):
                    raise
            # Somebody else was faster.
            experiment = self._store.get_experiment_by_name(name)
        if experiment.lifecycle_stage == "deleted":
            raise Refused(_restore(f"{name!r}", experiment.experiment_id))
        return str(experiment.experiment_id)

    def _create(self, spec: RunSpec, experiment_id: str, parent_run_id: str | None) -> Any:
        from tailrace_agent.mlflow.tags import send_cut

        tags = {**spec.tags, RUN_TAG: run_hex(spec.run)}
        if spec.run_name:
            tags[_NAME_TAG] = spec.run_name
        if spec.description:
            tags[_NOTE_TAG] = spec.description
        if parent_run_id or spec.parent_run_id:
            tags[_PARENT_TAG] = str(parent_run_id or spec.parent_run_id)
        user = tags.get("mlflow.user", "unknown")

        def create(cut: list[Any]) -> Any:
            return self._store.create_run(experiment_id, user, spec.start_time, cut, spec.run_name)

        try:
            return send_cut(tags, self.limits.tag_chars, create)
        except Exception as error:
            if refused_code(error, "INVALID_PARAMETER_VALUE") and "'active'" in str(error):
                raise Refused(_restore(experiment_id, experiment_id)) from None
            raise

    def _resume(self, spec: RunSpec, run_id: str) -> Any:
        """Does as `mlflow.start_run(run_id=…)` does, and leaves the status of somebody else's run alone."""
        from mlflow.entities import RunStatus

        from tailrace_agent.mlflow.tags import send_cut

        run = self._store.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise RunGone(f"run {run_id} was deleted; `mlflow runs restore --run-id {run_id}` brings it back")
        if spec.owned:
            self._store.update_run_info(run_id, RunStatus.RUNNING, run.info.end_time, spec.run_name)
        tags = {key: value for key, value in spec.tags.items() if not key.startswith(_CONTEXT_TAGS)}
        if spec.description:
            tags[_NOTE_TAG] = spec.description
        if tags:

            def describe(cut: list[Any]) -> None:
                self._store.log_batch(run_id=run_id, metrics=[], params=[], tags=cut)

            send_cut(tags, self.limits.tag_chars, describe)
        return run

    def _runs_of(self, spec: RunSpec, experiment_id: str) -> list[Any]:
        """All runs of this experiment that were created for this spec, deleted ones left out."""
        from mlflow.entities import ViewType

        tag = f"tags.`{RUN_TAG}` = '{run_hex(spec.run)}'"
        return list(self._store.search_runs([experiment_id], tag, ViewType.ACTIVE_ONLY, 1000, None))

    def _ref(self, run: Any) -> RunRef:
        from tailrace_agent.mlflow.stores import place_here

        info = run.info
        if self._remote and not (_ID.fullmatch(str(info.run_id)) and _ID.fullmatch(str(info.experiment_id))):
            where = public_uri(self._uri)
            raise Unavailable(f"{where} answered, but not as an MLflow server does (a run without an id)")
        url = run_page(self._uri, str(info.experiment_id), info.run_id) if is_server(self._uri) else None
        here = place_here(info.artifact_uri or "", self._uri)
        shown = "" if here is None else plain(str(here))
        return RunRef(info.run_id, info.experiment_id, plain(info.run_name or ""), url, shown)

    def _send(
        self, run_id: str, metrics: Sequence[Point], params: Sequence[tuple[str, str]], tags: Sequence[tuple[str, str]]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        if self._post is not None:
            self._post(batch_body(run_id, metrics, params, tags))
            return
        self._store.log_batch(
            run_id=run_id,
            metrics=[Metric(*point) for point in metrics],
            params=[Param(*param) for param in params],
            tags=[RunTag(*tag) for tag in tags],
        )

    def _count(self, run_id: str, key: str) -> int:
        from mlflow.store.tracking import GET_METRIC_HISTORY_MAX_RESULTS

        def fetch(token: str | None) -> Any:
            return self._store.get_metric_history(run_id, key, GET_METRIC_HISTORY_MAX_RESULTS, token)

        return sum(map(len, pages(fetch, PAGES_AT_MOST)))

    def _repository(self, run_id: str) -> Any:
        from tailrace_agent.mlflow.stores import open_repository

        with self._lock:
            repository = self._repositories.get(run_id)
        if repository is None:
            info = self._store.get_run(run_id).info
            if info.lifecycle_stage == "deleted":
                raise RunGone(f"run {run_id} was deleted")
            repository = open_repository(info.artifact_uri, self._uri, self._timeout)
            with self._lock:
                self._repositories[run_id] = repository
                if len(self._repositories) > _REPOSITORIES:
                    self._repositories.popitem(last=False)
        return repository


@functools.lru_cache(maxsize=65536)
def _name_fault(kind: Kind, key: str) -> str | None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repo import verify_artifact_path
    from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

    try:
        if kind == "metric":
            _validate_metric(key, 0.0, 0, 0)
        elif kind == "param":
            _validate_param(key, "")
        elif kind == "tag":
            _validate_tag(key, "")
        else:
            verify_artifact_path(key)
    except MlflowException as error:
        return plain(str(error.message))
    return None


def _fault_of_the_path(error: Exception, repository: Any) -> str | None:
    """What a file system has against this one path, where it takes others: a file where a directory must be, say."""
    root = getattr(repository, "artifact_dir", None)
    if not isinstance(error, OSError) or error.errno not in _OF_THE_PATH or root is None or not Path(root).is_dir():
        return None
    where = error.filename2 or error.filename
    return f"it cannot be stored in {root}: {error.strerror} ({where})"


def _refuse_long(kind: Kind, entries: Sequence[tuple[str, str]], limit: int) -> None:
    for key, value in entries:
        if len(value) > limit:
            raise Refused(f"the {kind} {quoted(key)} has {len(value)} characters, and MLflow keeps {limit}")


def _restore(name: str, experiment_id: str) -> str:
    return (
        f"the experiment {name} was deleted: bring it back with `mlflow experiments restore -x {experiment_id}`, "
        "or choose another name"
    )
