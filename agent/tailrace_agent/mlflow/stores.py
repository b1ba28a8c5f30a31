"""MLflow's own stores, opened so that no call waits longer than its time-out.

What this module promises:

* The store is the one that MLflow's registry gives for the URI, so authentication, TLS, request headers and store
  plug-ins work as they do in `MlflowClient`.
* A request over HTTP is sent once, and gives up after the time-out. Neither environment variables nor MLflow's module
  state are changed: all this holds inside a training process too.
* A SQLite database that is locked is waited for no longer than the time-out.
* Relative paths, MLflow's default store and its artifact root are those of `cwd`, not of this process.

What it cannot promise: a store plug-in that sends its requests without MLflow's `RestStore` keeps its own patience, and
so do the clients of object stores. A database server that accepts a connection and then falls silent is bounded by its
driver. In a process of our own, `MLFLOW_HTTP_REQUEST_TIMEOUT` and `MLFLOW_HTTP_REQUEST_MAX_RETRIES` cover some of that.

Importing this module imports MLflow, which takes a second.
"""

from __future__ import annotations

import contextvars
import inspect
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import requests
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.protos.service_pb2 import GetMetricHistory, LogBatch
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.model_registry.rest_store import RestStore as RegistryRestStore
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH, DEFAULT_TRACKING_URI
from mlflow.store.tracking.rest_store import RestStore
from mlflow.tracking import get_tracking_uri, is_tracking_uri_set
from mlflow.tracking._model_registry.utils import _get_store_registry as _get_registry_builder
from mlflow.tracking._tracking_service.utils import _tracking_store_registry
from mlflow.utils.proto_json_utils import parse_dict
from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri, get_uri_scheme

from tailrace_agent.mlflow.answers import believing, check_answer
from tailrace_agent.mlflow.bulk_route import BulkRoute
from tailrace_agent.mlflow.databases import prepare_database
from tailrace_agent.mlflow.errors import refused_code
from tailrace_agent.mlflow.places import check_place
from tailrace_agent.mlflow.requests import PromptUploads, answered, origin, send_once
from tailrace_agent.settings.uris import resolve_uri

__all__ = [
    "batch_poster",
    "bulk_fetcher",
    "bulk_route",
    "HISTORY_AT_MOST",
    "in_flight",
    "INTERVAL_AT_MOST",
    "interval_fetcher",
    "is_remote",
    "open_registry",
    "open_repository",
    "open_store",
    "page_fetcher",
    "past_plug_in",
    "Store",
    "store_uri",
]

HISTORY_AT_MOST: Final = 25_000
"""Points in one answer of a server that has no pages."""
INTERVAL_AT_MOST: Final = 2_500
"""Points of one run that a server gives when it thins by itself."""
_IN_FLIGHT: Final = 4
"""Requests that wait for a server at once: `mlflow server` has four workers by default."""
_EMPTY_ANSWERS: Final = ("SetLoggedModelTags",)
"""Requests whose answer has a field that MLflow's server leaves out."""
# `mlflow server` sets it for its workers: where tailrace runs in one, that root is meant.
_ARTIFACT_ROOT_OF_A_SERVER: Final = "_MLFLOW_SERVER_ARTIFACT_ROOT"
_OPENING_TAKES: Final = 60.0
"""Seconds that MLflow may take to create or migrate a database on a slow disk."""
_opening = threading.Lock()
_CONNECT_TIMEOUT: Final = {"postgresql": "connect_timeout", "mysql": "connect_timeout"}


Store: TypeAlias = Any
"""An `AbstractStore` of MLflow, which is untyped."""
_Job = TypeVar("_Job")
_Answer = TypeVar("_Answer")


def store_uri(tracking_uri: str | None, cwd: str) -> str:
    """The URI that `MlflowClient(tracking_uri)` would use if it were called in `cwd`, made absolute."""
    if tracking_uri:
        return _absolute(tracking_uri, cwd)
    if is_tracking_uri_set():  # MLFLOW_TRACKING_URI, or mlflow.set_tracking_uri in the user's own process
        return _absolute(get_tracking_uri(), cwd)
    default = DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH if _holds_runs(Path(cwd, "mlruns")) else DEFAULT_TRACKING_URI
    return _absolute(default, cwd)


def open_store(uri: str, cwd: str, request_timeout: float) -> Store:
    """Opens the store of a URI that `store_uri` has made absolute.

    Raises:
        Exception: Anything that MLflow and the database driver come up with.
    """
    _let_warnings_pass()
    build = past_plug_in(_tracking_store_registry.get_store_builder(uri))
    if get_uri_scheme(uri) in DATABASE_ENGINES:
        with _one_at_a_time(request_timeout):
            return _open_database(build, _with_connect_timeout(uri, request_timeout), cwd, request_timeout)
    # None: a server has an artifact root of its own.
    store: Any = build(store_uri=uri, artifact_uri=None)
    if isinstance(store, RestStore):
        _make_prompt(store, RestStore, _PromptStore, request_timeout)
    return store


def past_plug_in(build: Callable[..., Any]) -> Callable[..., Any]:
    """MLflow's own builder of a store, where the store plug-in stands before it in this process."""
    return getattr(build, "tailrace_before", build)


def open_registry(uri: str, tracking_uri: str, request_timeout: float) -> Store:
    """Opens the model registry of a URI that `store_uri` has made absolute; made as prompt as the tracking store.

    Raises:
        Exception: Anything that MLflow and the database driver come up with.
    """
    _let_warnings_pass()
    build = _get_registry_builder().get_store_builder(uri)
    if get_uri_scheme(uri) in DATABASE_ENGINES:
        with _one_at_a_time(request_timeout):
            prepare_database(uri)
            store: Any = build(store_uri=uri)
        _bound_waiting(store, request_timeout)
        return store
    knows_both = "tracking_uri" in inspect.signature(build).parameters  # older plug-ins do not
    store = build(store_uri=uri, tracking_uri=tracking_uri) if knows_both else build(store_uri=uri)
    if isinstance(store, RegistryRestStore):
        _make_prompt(store, RegistryRestStore, _PromptRegistry, request_timeout)
    return store


def _let_warnings_pass() -> None:
    """A program that makes warnings errors means its own: those of MLflow's stores would keep its runs from them."""
    warnings.filterwarnings("ignore", module=r"mlflow\.store\.")  # each time: tests put the filters back


def is_remote(store: Store) -> bool:
    """Whether the store is behind HTTP, so that only an answer can be a refusal."""
    # By class, not by URI: plug-ins and Databricks go over HTTP under schemes of their own.
    return isinstance(store, (RestStore, RegistryRestStore))


def in_flight(store: Store, work: Callable[[_Job], _Answer], jobs: Sequence[_Job]) -> Iterator[_Answer]:
    """What `work` makes of each job, in their order. A server has some of them at once, another store one by one.

    Raises:
        Exception: What `work` raised for the first of them that failed. Those that have not begun by then never do.
    """
    if not is_remote(store) or len(jobs) < 2:
        yield from map(work, jobs)
        return
    here = contextvars.copy_context()  # MLflow keeps the workspace of a request in it
    with ThreadPoolExecutor(min(_IN_FLIGHT, len(jobs)), "tailrace-read") as pool:
        # Each job in a copy of its own: two threads cannot enter one context at once.
        yield from pool.map(lambda job: here.copy().run(work, job), jobs)


def batch_poster(store: Store) -> Callable[[bytes], None] | None:
    """Sends a `log_batch` body that is already encoded; None where the store must do it.

    Only for MLflow's plain `RestStore`: Databricks and plug-ins may do more than post.
    """
    if type(store) is not _PromptStore:  # `isinstance` would take a plug-in's subclass, too
        return None
    path, method = store._METHOD_TO_INFO[LogBatch]
    headers = {"Content-Type": "application/json"}

    def post(body: bytes) -> None:
        response, fields = store.exchange(path, method, data=body, extra_headers=headers)
        with believing(response):
            _check_answer(fields, LogBatch.Response())

    return post


def bulk_route(store: Store) -> BulkRoute | None:
    """The bulk route of a plain MLflow server; None for any other store."""
    return BulkRoute(store.receive, answered) if type(store) is _PromptStore else None


def page_fetcher(store: Store) -> Callable[[dict[str, Any]], bytes] | None:
    """Fetches a page of a metric's history, as the server's JSON; None where the store must do it."""
    if type(store) is not _PromptStore:
        return None
    path, method = store._METHOD_TO_INFO[GetMetricHistory]

    def fetch(params: dict[str, Any]) -> bytes:
        response = store.receive(path, method, params=params)
        body: bytes = response.content
        # It is decoded once, and not here: a page has megabytes.
        if response.status_code != HTTPStatus.OK or b'"metrics"' not in body:
            fields, page = answered(response, path), GetMetricHistory.Response()
            with believing(response):
                parse_dict(fields, page)
                _check_answer(fields, page)
        return body

    return fetch


def bulk_fetcher(store: Store) -> Callable[[Sequence[str], str], list[dict[str, Any]]] | None:
    """Fetches one metric of several runs at once, as MLflow's UI does: `HISTORY_AT_MOST` points, without pages."""
    if type(store) is not _PromptStore:
        return None

    def fetch(run_ids: Sequence[str], key: str) -> list[dict[str, Any]]:
        params = [*(("run_id", run_id) for run_id in run_ids), ("metric_key", key), ("max_results", HISTORY_AT_MOST)]
        response, fields = store.exchange("/ajax-api/2.0/mlflow/metrics/get-history-bulk", "GET", params=params)
        with believing(response):
            found: list[dict[str, Any]] = fields["metrics"]
        return found

    return fetch


def interval_fetcher(
    store: Store,
) -> Callable[[str, str, int, tuple[int, int] | None], list[dict[str, Any]]] | None:
    """Fetches some points of one metric of a run, at most so many and of some steps, as the server thins them."""
    if type(store) is not _PromptStore:
        return None

    def fetch(run_id: str, key: str, most: int, steps: tuple[int, int] | None) -> list[dict[str, Any]]:
        params = [("run_ids", run_id), ("metric_key", key), ("max_results", most)]
        if steps is not None:
            params += [("start_step", steps[0]), ("end_step", steps[1])]
        response, fields = store.exchange(
            "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval", "GET", params=params
        )
        with believing(response):
            found: list[dict[str, Any]] = fields.get("metrics", [])  # left out where there are none
        return found

    return fetch


def open_repository(artifact_uri: str, tracking_uri: str, request_timeout: float) -> Any:
    """The artifact repository of a run. What goes through the MLflow server is sent once, like all the rest."""
    check_place(artifact_uri, tracking_uri)
    uri = add_databricks_profile_info_to_artifact_uri(artifact_uri, tracking_uri)
    repository: Any = get_artifact_repository(uri, tracking_uri=tracking_uri)
    if isinstance(repository, HttpArtifactRepository):
        _make_prompt(repository, HttpArtifactRepository, PromptUploads, request_timeout)
        repository.tailrace_origin = origin(tracking_uri)
    return repository


class _Prompt:
    """What a REST store needs in order to send its requests once. Stands before MLflow's classes."""

    tailrace_timeout: float
    get_host_creds: Callable[[], Any]

    def exchange(self, path: str, method: str, **content: Any) -> tuple[requests.Response, Any]:
        """One request, one answer, and the JSON object in it."""
        response = self.receive(path, method, **content)
        return response, answered(response, path)

    def receive(self, path: str, method: str, **content: Any) -> requests.Response:
        """One request, one answer, whatever it holds."""
        check_workspace = getattr(self, "_validate_workspace_support_if_specified", None)  # not in MLflow 3.7
        if check_workspace is not None:
            check_workspace()
        return send_once(self.get_host_creds(), path, method, self.tailrace_timeout, **content)

    def send_message(self, path: str, method: str, json_body: str | None, message: Any) -> Any:
        """Sends a message of MLflow's, and fills in the one that is the answer."""
        body = json.loads(json_body) if json_body else None
        content = {"params" if method == "GET" else "json": body}
        response, fields = self.exchange(path, method, **content)
        with believing(response):
            # Fields that this version of MLflow does not know are passed over, as MLflow does.
            parse_dict(js_dict=fields, message=message)
            _check_answer(fields, message)
        return message


def _check_answer(fields: dict[str, Any], message: Any) -> None:
    """Whether a JSON object is MLflow's answer, by the message that was filled from it; see `answers.check_answer`."""
    kind, known = message.DESCRIPTOR, message.DESCRIPTOR.fields
    what = kind.containing_type.name
    may_be_empty = what in _EMPTY_ANSWERS or any(map(_is_repeated, known))
    check_answer(bool(message.ListFields()), known, fields, what, may_be_empty=may_be_empty)


def _is_repeated(field: Any) -> bool:
    repeated = getattr(field, "is_repeated", None)  # a label in older protocol buffers
    return bool(field.label == field.LABEL_REPEATED if repeated is None else repeated)


class _PromptStore(_Prompt, RestStore):  # type: ignore[misc]  # MLflow is untyped
    """Stands right before `RestStore` among the classes of a REST store, and sends its requests once."""

    def _call_endpoint(
        self,
        api: Any,
        json_body: str | None = None,
        endpoint: str | None = None,
        retry_timeout_seconds: float | None = None,  # noqa: ARG002  # MLflow's signature
        response_proto: Any = None,
    ) -> Any:
        path, method = self._METHOD_TO_INFO[api]
        return self.send_message(endpoint or path, method, json_body, response_proto or api.Response())


class _PromptRegistry(_Prompt, RegistryRestStore):  # type: ignore[misc]  # MLflow is untyped
    """The same for the registry's store."""

    def _call_endpoint(
        self,
        api: Any,
        json_body: str | None = None,
        call_all_endpoints: bool = False,
        extra_headers: dict[str, str] | None = None,  # noqa: ARG002  # MLflow's signature
    ) -> Any:
        endpoints = self._get_all_endpoints_from_method(api) if call_all_endpoints else []
        # MLflow's own way with a call that has several addresses: an older server lacks some.
        for path, method in endpoints[:-1]:
            try:
                return self.send_message(path, method, json_body, self._get_response_from_method(api))
            except MlflowException as error:
                if not refused_code(error, "ENDPOINT_NOT_FOUND"):
                    raise
        path, method = endpoints[-1] if endpoints else self._get_endpoint_from_method(api)
        return self.send_message(path, method, json_body, self._get_response_from_method(api))


def _make_prompt(instance: Any, base: type, prompt: type, request_timeout: float) -> None:
    """Slips `prompt` between the class of an instance of our own and MLflow's `base`: what plug-ins override stays."""
    kind = type(instance)
    # Not a new object: its constructor has run with the plug-in's own arguments.
    instance.__class__ = prompt if kind is base else type(f"Prompt{kind.__name__}", (kind, prompt), {})
    instance.tailrace_timeout = request_timeout


@contextmanager
def _one_at_a_time(timeout: float) -> Iterator[None]:
    """Within it no other thread of tailrace's opens a database: Alembic, which migrates it, has one state for all.

    Raises:
        TimeoutError: Another one is being opened all the while.
    """
    if not _opening.acquire(timeout=timeout + _OPENING_TAKES):
        raise TimeoutError("another database is being opened")
    try:
        yield
    finally:
        _opening.release()


def _open_database(build: Callable[..., Any], uri: str, cwd: str, request_timeout: float) -> Store:
    prepare_database(uri)
    # Else MLflow takes `./mlruns` of this process, whose working directory is not the user's.
    root = None if os.environ.get(_ARTIFACT_ROOT_OF_A_SERVER) else str(Path(cwd, "mlruns"))
    store = build(store_uri=uri, artifact_uri=root)
    _bound_waiting(store, request_timeout)
    return store


def _bound_waiting(store: Any, request_timeout: float) -> None:
    """Bounds the wait for SQLite's lock (20 s in MLflow), and keeps the traceback of each failure off stderr."""
    make_session = getattr(store, "ManagedSessionMaker", None)
    if make_session is None:  # a plug-in's store that is not SQLAlchemy's
        return
    wait = sqlalchemy.text(f"PRAGMA busy_timeout = {int(request_timeout * 1000)}")

    @contextmanager
    def bounded(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with make_session(*args, **kwargs) as session:
            try:
                if store.engine.dialect.name == "sqlite":
                    session.execute(wait)  # after MLflow's own PRAGMA, once for each session
                yield session
                # Here, not where MLflow's block ends: a lock that is met only now is reported the same way.
                session.commit()
            except sqlalchemy.exc.OperationalError as error:
                raise MlflowException(str(error.orig), error_code=TEMPORARILY_UNAVAILABLE) from error

    store.ManagedSessionMaker = bounded


def _with_connect_timeout(uri: str, request_timeout: float) -> str:
    """A database server that drops packets would otherwise be waited for until TCP gives up."""
    url = sqlalchemy.engine.make_url(uri)
    name = _CONNECT_TIMEOUT.get(url.get_backend_name())
    if name is None or name in url.query:  # who has set it, meant it
        return uri
    # 2 s at least, as PostgreSQL's library advises; it takes 0 for "without end".
    patient = url.update_query_dict({name: str(max(2, int(request_timeout)))})
    return patient.render_as_string(hide_password=False)


def _absolute(uri: str, cwd: str) -> str:
    absolute = resolve_uri(uri, cwd)
    return Path(absolute).as_uri() if absolute.startswith("/") else absolute


def _holds_runs(directory: Path) -> bool:
    """MLflow stays with plain files where earlier versions have left runs in them."""
    try:
        return any(entry.name.isdigit() and (entry / "meta.yaml").exists() for entry in directory.iterdir())
    except OSError:
        return False
