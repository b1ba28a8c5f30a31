"""MLflow, as a `Sink`.

What this module promises:

* A method that returns has MLflow's own word that the data is there. One that does not raises one of our errors, with
  a message that a person can act on and that holds no password.
* No method retries or sleeps, and none waits longer than the request time-out for one answer (uploads to object stores
  excepted). Nothing of the process is changed: no environment variable, no state of MLflow's modules.
* A plain MLflow server is spoken to without importing MLflow, where the process is tailrace's own (see `rest`), and so
  is a SQLite database of a known version about runs that are there (see `mlflow.sqlite_runs`). All else goes through
  MLflow's own stores, which know what a program has changed about them.

Loading this module is cheap. MLflow's import takes a second. Its telemetry is left as the process has it; a host that
owns its process sets `MLFLOW_DISABLE_TELEMETRY=true` before the first call.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from posixpath import dirname, join
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.errors import Refused, RunGone, StoreRefused, Unavailable
from tailrace_agent.ipc.records import Kind, ModelOutcome, ModelSpec, Point, RunSpec, run_hex
from tailrace_agent.ipc.tags import NOTE_TAG, RUN_NAME_TAG, RUN_TAG, end_tags
from tailrace_agent.mlflow.clocks import ahead_of
from tailrace_agent.mlflow.errors import mask, opening_failed, refused_code, stored_already, translate
from tailrace_agent.mlflow.experiments import bring_back
from tailrace_agent.mlflow.job_runs import attempt_of, is_of_job, is_over, tags_of_restart
from tailrace_agent.mlflow.lean_import import import_lean
from tailrace_agent.mlflow.links import is_server, run_page
from tailrace_agent.mlflow.logged_tables import with_stored_tables
from tailrace_agent.mlflow.pages import PAGES_AT_MOST, pages
from tailrace_agent.mlflow.places import fault_of_the_path
from tailrace_agent.mlflow.proxied_files import ARTIFACTS, is_proxied, list_directory
from tailrace_agent.mlflow.run_store import Run, RunStore, just_created
from tailrace_agent.mlflow.sqlite_runs import SqliteRuns, known_database
from tailrace_agent.mlflow.stored_names import Texts
from tailrace_agent.mlflow.tags import delete_tags, send_cut
from tailrace_agent.rest.plain_server import plain_server
from tailrace_agent.settings.uris import check_uri, public_uri
from tailrace_agent.sinks.base import Limits, Renamed, RunRef, Sink, StoredRun, refuse_long
from tailrace_agent.text.quoting import plain, quoted

if TYPE_CHECKING:
    from tailrace_agent.mlflow.models import Placed
    from tailrace_agent.mlflow.registry import Registry
    from tailrace_agent.mlflow.stores import Store

__all__ = ["MlflowSink", "open_sink", "sink_over"]

_PARENT_TAG: Final = "mlflow.parentRunId"
_CONTEXT_TAGS: Final = ("mlflow.user", "mlflow.source.", RUN_TAG)  # record how a run was created; resuming keeps them
_REPOSITORIES: Final = 64  # runs whose artifact repository is kept: each costs a request, and may hold threads
_OPENED_RUNS: Final = 1000  # of which the place of their artifacts is kept, until somebody asks for it
_AT_ONCE: Final = 4  # `mlflow server` has four workers by default
_SEVERAL_WRITE: Final = ("postgresql", "mysql", "mssql")  # databases that take several writers at a time
_ID: Final = re.compile(r"[A-Za-z0-9][\w-]{0,255}", re.ASCII)  # MLflow's own rule for ids


def open_sink(tracking_uri: str | None, cwd: str, *, request_timeout: float, own_process: bool = False) -> Sink:
    """Opens the store behind a tracking URI.

    Args:
        tracking_uri: None means what MLflow would take in `cwd`: `MLFLOW_TRACKING_URI`, or its default store.
        cwd: Directory from which relative paths are meant.
        request_timeout: Seconds that one request may take.
        own_process: Whether nobody but tailrace runs code here, so that MLflow is as it is installed: it is imported
            without pandas, and only where it is needed.

    Raises:
        StoreRefused: MLflow can make no use of this URI. The message says what to do.
        Unavailable: The database cannot be reached now.
    """
    uri = tracking_uri or "MLflow's default store"
    try:
        runs: RunStore
        server = plain_server(tracking_uri) if own_process else None
        if server is not None:
            from tailrace_agent.rest.server_runs import ServerRuns

            uri = server
            runs = ServerRuns(uri, cwd, request_timeout)
        elif own_process and (database := known_database(tracking_uri, cwd)) is not None:
            uri = database
            runs = SqliteRuns(uri, cwd, request_timeout)
        else:
            if own_process:
                import_lean()
            from tailrace_agent.mlflow import stores
            from tailrace_agent.mlflow.own_runs import MlflowRuns

            uri = stores.store_uri(tracking_uri, cwd)
            fault = check_uri(uri, os.environ)
            if fault is not None:
                raise StoreRefused(f"MLflow cannot use {mask(uri)}: {fault}")
            runs = MlflowRuns(uri, stores.open_store(uri, cwd, request_timeout), request_timeout)
    except Exception as error:  # noqa: BLE001  # whatever a database driver or a plug-in raises
        raise opening_failed(error, uri) from None
    return MlflowSink(uri, runs, request_timeout)


def sink_over(uri: str, store: Store, request_timeout: float) -> MlflowSink:
    """The sink over a store of MLflow's that is open already.

    Args:
        uri: The absolute tracking URI, with its credentials.
        store: From `mlflow.stores.open_store`.
        request_timeout: Seconds that one request may take.
    """
    from tailrace_agent.mlflow.own_runs import MlflowRuns

    return MlflowSink(uri, MlflowRuns(uri, store, request_timeout), request_timeout)


class MlflowSink:
    """One tracking store of MLflow. May be used from several threads at once.

    Args:
        uri: The absolute tracking URI, with its credentials.
        runs: The store behind it.
        request_timeout: Seconds that one request may take.
    """

    def __init__(self, uri: str, runs: RunStore, request_timeout: float) -> None:
        self._uri = uri
        self._runs = runs
        self._timeout = request_timeout
        # A database that is a file has one writer; before a server's stands the server.
        self._limits = Limits(at_once=_AT_ONCE if runs.remote or uri.startswith(_SEVERAL_WRITE) else 1)
        self._lock = threading.Lock()
        self._experiments: dict[str, str] = {}
        self._artifact_uris: OrderedDict[str, str] = OrderedDict()
        self._keeping: set[str] = set()  # servers that have kept artifacts
        self._repositories: OrderedDict[str, Any] = OrderedDict()
        self._registries: dict[str, Registry] = {}

    @property
    def limits(self) -> Limits:
        """MLflow's REST limits; its databases keep the same ones."""
        return self._limits

    def metrics_at_once(self, waiting: int) -> int:
        """MLflow's limit, or as many as the bulk way takes, where there is one: see `mlflow.run_store.Bulk`."""
        return max(self.limits.metrics, self._runs.bulk.at_once(waiting))

    def check(self, kind: Kind, key: str, value: object = None) -> str | None:
        """MLflow's own validation of a name: the reason for a refusal, or None. The value is not looked at."""
        del value
        return self._runs.name_fault(kind, key)

    def open_run(self, spec: RunSpec, parent_run_id: str | None, *, find_first: bool) -> RunRef:
        """Creates the run that `spec` describes (its experiment too), or resumes `spec.run_id`."""
        if spec.run_id is not None:
            with self._translated_errors(about_run=True):
                return self._ref(self._resume(spec, spec.run_id))
        with self._translated_errors(about_run=False):
            found = self._found(spec) if find_first else None
            if found is not None:
                return self._ref(found)._replace(running=not is_over(found.status))
            return self._ref(self._created(spec, parent_run_id))

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Point] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes one batch. Values longer than the limits are refused, where MLflow would cut them."""
        refuse_long("param", params, self.limits)  # first, since MLflow cuts some of them without a word
        refuse_long("tag", tags, self.limits)
        with self._translated_errors(about_run=True, run_id=run_id):
            if metrics and not (params or tags) and self._runs.bulk.send(run_id, metrics):
                return
            if len(metrics) > self.limits.metrics:  # the bulk way was there when the caller asked
                raise Refused(f"{len(metrics):,} metrics are too many for one log_batch", too_large=True)
            tags = with_stored_tables(tags, lambda: self._runs.run(run_id).tags, self.limits.tag_chars)
            try:
                self._runs.log_batch(run_id, metrics, params, tags)
            except Exception as error:
                # In company it is a refusal, so that the caller isolates the point; MySQL takes `Loss` for a `loss`.
                if len(metrics) != 1 or not stored_already(error) or metrics[0].key not in self._runs.run(run_id).steps:
                    raise

    def delete_tags(self, run_id: str, keys: Sequence[str]) -> None:
        """Deletes those of these tags that the run has."""
        with self._translated_errors(about_run=True, run_id=run_id):
            delete_tags(self._runs, self._uri, self._runs.run(run_id), keys)

    def running_with_tag(self, experiment_ids: Sequence[str], key: str) -> dict[str, str]:
        """The running ones of some experiments that have a tag."""
        with self._translated_errors(about_run=False):
            return self._runs.running_with_tag(experiment_ids, key)

    def log_artifact(self, run_id: str, path: Path, artifact_path: str | None) -> Renamed:
        """Uploads a file, or a directory under its own name."""
        if path.is_dir():
            return self.log_artifacts(run_id, path, f"{artifact_path}/{path.name}" if artifact_path else path.name)
        if not path.exists():
            raise Refused(f"the file to upload is gone: {path}")
        with self._artifacts(run_id) as repository:
            if is_proxied(repository):
                return dict(repository.upload([(path, join(artifact_path or "", path.name))]))
            # Older MLflow would copy the file into that directory, and report success.
            if Path(getattr(repository, "artifact_dir", "/nowhere"), artifact_path or "", path.name).is_dir():
                raise IsADirectoryError(errno.EISDIR, "there is a directory of this name", path.name)
            repository.log_artifact(str(path), artifact_path)
        return {}

    def log_artifacts(
        self, run_id: str, directory: Path, artifact_path: str | None, *, confirmed: bool = True
    ) -> Renamed:
        """Uploads everything in a directory."""
        if not directory.is_dir():
            raise Refused(f"the directory to upload is gone: {directory}")
        with self._artifacts(run_id) as repository:
            if is_proxied(repository):
                files = sorted(file for file in directory.rglob("*") if file.is_file())
                under = artifact_path or ""
                wanted = [(file, join(under, file.relative_to(directory))) for file in files]
                server = repository.artifact_uri.partition(ARTIFACTS)[0]
                renamed = dict(repository.upload(wanted, confirmed=confirmed or server not in self._keeping))
                self._keeping.add(server)
                return renamed
            repository.log_artifacts(str(directory), artifact_path)
        return {}

    def fetch_artifact(self, run_id: str, artifact_file: str, directory: Path) -> Path | None:
        """Downloads one file of the run's artifacts into a directory; None when the run has none of that name."""
        with self._artifacts(run_id) as repository:
            listed = list_directory(repository, dirname(artifact_file) or None)
            sizes = [info.file_size for info in listed if info.path == artifact_file]
            if not sizes:
                return None
            if is_proxied(repository):
                file: Path = repository.fetch(artifact_file, directory, sizes[0])
            else:
                file = Path(repository.download_artifacts(artifact_file, dst_path=str(directory)))
            if sizes[0] not in (None, file.stat().st_size):
                raise Unavailable(f"{public_uri(self._uri)} sent a part of {quoted(artifact_file)}, or another file")
            return file

    def log_model(self, run_id: str, directory: Path, spec: ModelSpec) -> ModelOutcome:
        """Makes a model of the run from a directory, and then, if that is wanted, a version of a registered model."""
        if not directory.is_dir():
            raise Refused(f"the model to upload is gone: {directory}")
        with self._translated_errors(about_run=False):
            store = self._runs.mlflows_own()  # first: it imports MLflow, and so do the modules of models
            from tailrace_agent.mlflow.models import place_model
            from tailrace_agent.mlflow.stores import open_repository

            def repository(location: str) -> Any:
                return open_repository(location, self._uri, self._timeout)

            placed = place_model(store, repository, run_id, directory, spec)
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
        source = placed.uri if beside_the_runs and self._runs.remote else placed.location
        try:
            version = registry.register(spec, source, run_id, placed.model_id, directory)
            if placed.model_id is not None and beside_the_runs:
                link_version(self._runs.mlflows_own(), placed.model_id, spec.registered_name or "", version)
        except Exception as error:  # noqa: BLE001  # as in `_translated_errors`
            uri = spec.registry_uri or self._uri
            raise translate(error, uri, remote=is_remote(registry.store), about_run=False) from None
        return version

    def _registry(self, spec: ModelSpec) -> Registry:
        from tailrace_agent.mlflow.registry import Registry
        from tailrace_agent.mlflow.stores import open_registry

        uri = spec.registry_uri or self._uri
        registry = self._registries.get(uri)  # no lock: two at once would open it twice, and one stays
        if registry is None:
            try:
                registry = self._registries[uri] = Registry(open_registry(uri, self._uri, self._timeout))
            except Exception as error:  # noqa: BLE001  # whatever a database driver or a plug-in raises
                raise opening_failed(error, uri) from None
        return registry

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """Sets the run's status and its end time (milliseconds)."""
        with self._translated_errors(about_run=True, run_id=run_id):
            self._runs.update_run(run_id, status, end_time, None)  # None: the name stays

    def discard_twins(self, spec: RunSpec, run_id: str) -> int:
        """Deletes other runs that carry this spec's `tailrace.run` tag; how many."""
        if spec.run_id is not None:  # it was there before, so no lost answer has made another
            return 0
        with self._translated_errors(about_run=True):
            experiment_id = self._runs.run(run_id).experiment_id
            twins = [run.run_id for run in self._runs_of(spec, experiment_id) if run.run_id != run_id]
            for twin in twins:
                self._runs.delete_run(twin)
        return len(twins)

    def count_metrics(self, run_id: str, keys: Sequence[str] | None = None) -> dict[str, int]:
        """Rows in the metric history of each key of the run (of all its keys, if None), read back page by page."""
        with self._translated_errors(about_run=True):
            if keys is None:
                keys = list(self._runs.run(run_id).steps)
            return {key: self._count(run_id, key) for key in keys}

    def texts_of(self, run_id: str) -> Texts:
        """All tags and params of a run."""
        with self._translated_errors(about_run=True):
            run = self._runs.run(run_id)
            return Texts(run.tags, run.params)

    def clock_ahead(self) -> float:
        """As the dates of a server's answers say."""
        return ahead_of(self._uri)

    def find_runs(self, text: str) -> list[StoredRun]:
        """Runs by the start of MLflow's id or of the tag `tailrace.run`, or else by their whole name; 1000 at most."""
        quote = '"' if "'" in text else "'"  # MLflow's filters escape neither
        filters = [f"attributes.run_name = {quote}{text}{quote}"]
        if text.isalnum():  # no wildcard of LIKE in it
            filters[:0] = [f"attributes.run_id LIKE '{text}%'", f"tags.`{RUN_TAG}` LIKE '{text}%'"]
        with self._translated_errors(about_run=False):
            ids = self._runs.active_experiments()
            for query in filters:
                found = self._runs.search_runs(ids, query) if ids else []
                if found:
                    return [StoredRun(self._ref(run), run.status, dict(run.tags), run.end_time) for run in found]
        return []

    @contextmanager
    def _artifacts(self, run_id: str) -> Iterator[Any]:
        """Where the run's artifacts go. An object store's refusal is not the MLflow server's."""
        with self._translated_errors(about_run=True):
            repository = self._repository(run_id)
        with self._translated_errors(about_run=True, repository=repository):
            yield repository

    @contextmanager
    def _translated_errors(
        self, *, about_run: bool, repository: Any = None, run_id: str | None = None
    ) -> Iterator[None]:
        """Nothing foreign gets past this. The cause is left out, since its message may hold a password."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # MLflow, its plug-ins and drivers raise anything
            if repository is not None and (fault := fault_of_the_path(error, repository)) is not None:
                raise Refused(fault) from None
            remote = self._runs.remote and (repository is None or is_proxied(repository))
            upload = repository is not None
            translated = translate(error, self._uri, remote=remote, about_run=about_run, upload=upload)
            if isinstance(translated, RunGone) and run_id is not None:
                with self._lock:
                    self._artifact_uris.pop(run_id, None)  # an upload is not to go there either
            raise translated from None

    def _found(self, spec: RunSpec) -> Run | None:
        for run in self._runs_of(spec, self._experiment(spec)):
            if is_of_job(spec, run.status, run.end_time):
                if spec.job is not None and attempt_of(run.tags) <= spec.job.attempt:
                    self._go_on(spec, run)
                return run
        return None

    def _created(self, spec: RunSpec, parent_run_id: str | None) -> Run:
        name = spec.experiment_name
        known = name is not None and name in self._experiments
        experiment_id = self._experiment(spec)
        try:
            return self._create(spec, experiment_id, parent_run_id)
        except Exception as error:
            gone = isinstance(error, Refused) or refused_code(error, "RESOURCE_DOES_NOT_EXIST")
            if not (known and gone):
                raise
        # It was deleted since it was looked up; another one may have its name by now.
        self._experiments.pop(str(name), None)  # another thread may have met it too
        return self._create(spec, self._experiment(spec), parent_run_id)

    def _experiment(self, spec: RunSpec) -> str:
        """The experiment of a run; one with a name is looked up once, as under MLflow's `set_experiment`."""
        name = spec.experiment_name
        if name is not None:
            if name not in self._experiments:
                self._experiments[name] = self._runs.experiment_named(name)
            return self._experiments[name]
        return self._runs.default_experiment() if spec.experiment_id is None else spec.experiment_id

    def experiment_named(self, name: str) -> str:
        """The id of an experiment; created when missing."""
        return self._runs.experiment_named(name)

    def _create(self, spec: RunSpec, experiment_id: str, parent_run_id: str | None) -> Run:
        tags = {**spec.tags, RUN_TAG: run_hex(spec.run)}
        if spec.run_name:
            tags[RUN_NAME_TAG] = spec.run_name
        if spec.description:
            tags[NOTE_TAG] = spec.description
        if parent_run_id or spec.parent_run_id:
            tags[_PARENT_TAG] = str(parent_run_id or spec.parent_run_id)
        user = tags.get("mlflow.user", "unknown")

        def create(cut: list[tuple[str, str]]) -> Run:
            return self._runs.create_run(experiment_id, user, spec.start_time, cut, spec.run_name)

        try:
            run = send_cut(tags, self.limits.tag_chars, create)
        except Exception as error:
            if refused_code(error, "INVALID_PARAMETER_VALUE") and "'active'" in str(error):
                raise Refused(bring_back(experiment_id, experiment_id)) from None
            raise
        self._keep_place(run)
        return run

    def _keep_place(self, run: Run) -> None:
        """Where its artifacts go need not be asked for."""
        with self._lock:
            self._artifact_uris[run.run_id] = run.artifact_uri
            if len(self._artifact_uris) > _OPENED_RUNS:
                self._artifact_uris.popitem(last=False)

    def _go_on(self, spec: RunSpec, run: Run) -> None:
        """A job that was started anew goes on in its run."""
        if is_over(run.status):
            self._runs.update_run(run.run_id, "RUNNING", run.end_time, None)
        delete_tags(
            self._runs, self._uri, run, end_tags(run.tags)
        )  # an earlier attempt's, of which the end was not told yet
        if tags := tags_of_restart(spec, run.tags):
            self._runs.log_batch(run.run_id, tags=tags)

    def _resume(self, spec: RunSpec, run_id: str) -> Run:
        """Does as `mlflow.start_run(run_id=…)` does, and leaves the status of somebody else's run alone."""
        run = just_created(spec) or self._runs.run(run_id)
        if run.lifecycle_stage == "deleted":
            raise RunGone(f"run {run_id} was deleted; `mlflow runs restore --run-id {run_id}` brings it back")
        self._keep_place(run)
        if spec.owned and not spec.created:
            self._runs.update_run(run_id, "RUNNING", run.end_time, spec.run_name)
            delete_tags(self._runs, self._uri, run, end_tags(run.tags))
        tags = {key: value for key, value in spec.tags.items() if not key.startswith(_CONTEXT_TAGS)}
        if spec.description:
            tags[NOTE_TAG] = spec.description
        if tags:
            send_cut(tags, self.limits.tag_chars, lambda cut: self._runs.log_batch(run_id, tags=cut))
        return run

    def _runs_of(self, spec: RunSpec, experiment_id: str) -> list[Run]:
        """All runs of this experiment that were created for this spec, deleted ones left out."""
        return self._runs.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{run_hex(spec.run)}'")

    def _ref(self, run: Run) -> RunRef:
        if self._runs.remote and not (_ID.fullmatch(run.run_id) and _ID.fullmatch(run.experiment_id)):
            where = public_uri(self._uri)
            raise Unavailable(f"{where} answered, but not as an MLflow server does (a run without an id)")
        url = run_page(self._uri, run.experiment_id, run.run_id) if is_server(self._uri) else None
        here = self._runs.place_here(run.artifact_uri)
        shown = "" if here is None else plain(str(here))
        ref = RunRef(run.run_id, run.experiment_id, plain(run.name), url, shown, run.next_steps)
        return ref._replace(bests=run.bests, best_steps=run.best_steps, measured=bool(run.values))

    def _count(self, run_id: str, key: str) -> int:
        def fetch(token: str | None) -> Any:
            return self._runs.metric_page(run_id, key, token)

        return sum(map(len, pages(fetch, PAGES_AT_MOST)))

    def _repository(self, run_id: str) -> Any:
        with self._lock:
            repository = self._repositories.get(run_id)
            artifact_uri = self._artifact_uris.pop(run_id, None)
        if repository is None:
            if artifact_uri is None:
                run = self._runs.run(run_id)
                if run.lifecycle_stage == "deleted":
                    raise RunGone(f"run {run_id} was deleted")
                artifact_uri = run.artifact_uri
            repository = self._runs.repository(artifact_uri)  # no lock held: it may be slow
            with self._lock:
                self._repositories[run_id] = repository
                if len(self._repositories) > _REPOSITORIES:
                    self._repositories.popitem(last=False)  # the oldest, whose run has most likely ended
        return repository
