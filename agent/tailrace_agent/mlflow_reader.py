"""Runs read back from MLflow: searched, found by what a person calls them, with their whole metric history.

What this module promises:

* Nothing is created or changed: an SQLite file that is not there is an error, not a new store.
* A run is found by MLflow's id, tailrace's id, the beginning of one of them, its name, or the beginning of its name;
  one that fits several is an error that names them.
* What MLflow has is what is returned: what is still on its way is not there.
* Foreign errors come out as those of `errors`, without a password.

Loading this module is cheap; `open_reader` imports MLflow. Thread safety: a reader may be used from any thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace_agent.cards import brief, card
from tailrace_agent.errors import CallError, NotFound, Refused, RunGone, StoreRefused
from tailrace_agent.extremes import known, unbounded
from tailrace_agent.mlflow_errors import mask, opening_failed, public_uri, translate
from tailrace_agent.uris import check_uri, mask_uri, missing_file

if TYPE_CHECKING:
    from tailrace_agent.mlflow_history import Columns
    from tailrace_agent.mlflow_store import Store

__all__ = ["Reader", "RunRecord", "open_reader"]

_REQUEST_TIMEOUT: Final = 120.0
"""Seconds for one answer: somebody waits for it, and a page of a long history takes its time."""
_PAGE: Final = 10_000
_IDS_AT_ONCE: Final = 200
_ID: Final = re.compile(r"[0-9a-f]{32}")
_RUN_TAG: Final = "tailrace.run"


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run as MLflow has it.

    Attributes:
        run_id: MLflow's id.
        run_name: Its name.
        experiment_id: MLflow's id of its experiment.
        status: RUNNING, SCHEDULED, FINISHED, FAILED or KILLED.
        start_time: When it began.
        end_time: When it ended, or None.
        params: All params.
        metrics: The last value of each metric.
        tags: All tags.
        artifact_uri: Where its artifacts are.
        url: Its page in MLflow's UI, where the store is a server.
        deleted: Whether it lies in MLflow's bin.
    """

    run_id: str
    run_name: str
    experiment_id: str
    status: str
    start_time: datetime
    end_time: datetime | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    artifact_uri: str
    url: str | None
    deleted: bool

    @property
    def duration(self) -> float | None:
        """Seconds from its start to its end; None while it runs."""
        return (self.end_time - self.start_time).total_seconds() if self.end_time else None

    def __repr__(self) -> str:
        counted = [f"{n:,} {noun}{'' if n == 1 else 's'}" for noun, n in self._sizes().items()]
        return brief("RunRecord", self.run_name or None, self.status, *counted, self.url or f"run_id={self.run_id}")

    def _repr_html_(self) -> str:
        """What it is, for a notebook."""
        facts = {
            "name": self.run_name,
            "status": f"{self.status}, deleted" if self.deleted else self.status,
            "started": f"{self.start_time:%Y-%m-%d %H:%M:%S} UTC",
            "duration": None if self.duration is None else f"{self.duration:,.1f} s",
            **{f"{noun}s": n for noun, n in self._sizes().items()},
            "run_id": self.run_id,
            "link": self.url,
        }
        return card("RunRecord", facts.items())

    def _sizes(self) -> dict[str, int]:
        return {"param": len(self.params), "metric": len(self.metrics)}


def open_reader(tracking_uri: str | None, cwd: str, *, create: bool = False) -> Reader:
    """Opens a store for reading.

    Args:
        tracking_uri: None means what MLflow would take in `cwd`.
        cwd: Directory from which relative paths are meant.
        create: An SQLite file that is not there is made, and no error: for an import.

    Raises:
        StoreRefused: MLflow can make no use of this URI, or there is no such store yet.
        Unavailable: The database cannot be reached now.
    """
    from tailrace_agent import mlflow_store

    uri = tracking_uri or "MLflow's default store"
    try:
        uri = mlflow_store.store_uri(tracking_uri, cwd)
        fault = check_uri(uri, os.environ)
        if fault is not None:
            raise StoreRefused(f"MLflow cannot use {mask(uri)}: {fault}")
        absent = missing_file(uri)
        if absent is not None and not create:
            raise StoreRefused(
                f"there is no store {absent} yet: nothing was logged to it, or the tracking URI is another"
            )
        store = mlflow_store.open_store(uri, cwd, _REQUEST_TIMEOUT)
    except Exception as error:  # noqa: BLE001  # whatever a database driver or a plug-in raises
        raise opening_failed(error, uri) from None
    return Reader(uri, store)


class Reader:
    """Reads one tracking store of MLflow.

    Args:
        uri: The absolute tracking URI, with its credentials.
        store: MLflow's store for it, from `mlflow_store.open_store`.
    """

    def __init__(self, uri: str, store: Store) -> None:
        from tailrace_agent.mlflow_store import is_remote

        self.uri, self.store = uri, store
        self._remote = is_remote(store)

    @property
    def name(self) -> str:
        """The store as it may be shown."""
        return mask_uri(self.uri)[0]

    # -- experiments and searches ------------------------------------------------------------------------------------

    def experiments(self) -> dict[str, str]:
        """Names of all experiments that are not deleted, by id."""
        from mlflow.entities import ViewType

        found, token = {}, None
        with self.edge(about_run=False):
            while True:
                page = self.store.search_experiments(ViewType.ACTIVE_ONLY, _PAGE, None, None, token)
                found.update({str(each.experiment_id): str(each.name) for each in page})
                token = page.token
                if not token:
                    return found

    def experiment_ids(self, names: Sequence[str]) -> list[str]:
        """Ids of experiments that are named, by name or by id.

        Raises:
            NotFound: There is no such experiment; the nearest name is in the message.
        """
        known = self.experiments()
        by_name = {name: experiment_id for experiment_id, name in known.items()}
        missing = [name for name in names if name not in by_name and name not in known]
        if missing:
            raise NotFound(f"{self.name} has no experiment {missing[0]!r}{_nearest(missing[0], list(by_name))}")
        return [by_name.get(name, name) for name in names]

    def search(
        self,
        experiment_ids: Sequence[str] | None = None,
        filter_string: str = "",
        order_by: Sequence[str] | None = None,
        max_results: int | None = None,
        *,
        view: int | None = None,
    ) -> list[Any]:
        """Runs as MLflow's own search gives them, page by page.

        Args:
            experiment_ids: Where to look; all experiments when None.
            filter_string: In MLflow's filter language.
            order_by: Columns, with `ASC` or `DESC`.
            max_results: All when None.
            view: MLflow's `ViewType`; what is not deleted when None.

        Returns:
            MLflow's `Run` entities.

        Raises:
            Refused: The filter or the order is none.
        """
        from mlflow.entities import ViewType

        ids = list(self.experiments()) if experiment_ids is None else list(experiment_ids)
        view = ViewType.ACTIVE_ONLY if view is None else view
        found: list[Any] = []
        token = None
        with self.edge(about_run=False):
            while ids and (max_results is None or len(found) < max_results):
                room = _PAGE if max_results is None else min(_PAGE, max_results - len(found))
                page = self.store.search_runs(ids, filter_string, view, room, list(order_by or []), token)
                found += page
                token = page.token
                if not token:
                    break
        return found

    # -- one run -----------------------------------------------------------------------------------------------------

    def find(self, text: str) -> Any:
        """The one run that a person means.

        Raises:
            NotFound: No run fits, or several do.
        """
        return self.find_all([text])[0]

    def find_all(self, texts: Sequence[str]) -> list[Any]:
        """The runs that are meant, in this order. Whole ids take one search for all of them, other names one each.

        Raises:
            NotFound: One of them fits no run, or several.
            CallError: One of them is no text.
        """
        for text in texts:
            if not isinstance(text, str):
                raise CallError(f"a run is named by its name or id, a text, not by a value of {type(text).__name__}")
        experiments = list(self.experiments())
        by_id = self._by_ids([text for text in texts if _ID.fullmatch(text)], experiments)
        return [by_id[text] if text in by_id else self._named(text, experiments) for text in texts]

    def record(self, run: Any) -> RunRecord:
        """MLflow's `Run` as plain data."""
        info, data = run.info, run.data
        url = None
        if self.uri.startswith(("http:", "https:")):
            url = f"{public_uri(self.uri)}/#/experiments/{info.experiment_id}/runs/{info.run_id}"
        return RunRecord(
            run_id=info.run_id,
            run_name=info.run_name or "",
            experiment_id=str(info.experiment_id),
            status=info.status,
            start_time=_moment(info.start_time),
            end_time=_moment(info.end_time) if info.end_time else None,
            params=dict(data.params),
            metrics={key: unbounded(value) for key, value in data.metrics.items()},
            tags=dict(data.tags),
            artifact_uri=info.artifact_uri,
            url=url,
            deleted=info.lifecycle_stage == "deleted",
        )

    def history(self, run_id: str, key: str) -> Iterator[Columns]:
        """Every point of one metric, in pieces; see `mlflow_history`."""
        from tailrace_agent.mlflow_history import read

        with self.edge(about_run=True):
            yield from read(self.store, run_id, key)

    def extremes(self, runs: Iterable[Any], keys: Sequence[str]) -> dict[tuple[str, str], tuple[float, float]]:
        """Smallest and largest value of each metric of each run, NaN aside; by `(run_id, key)`.

        Over HTTP, of a run that tailrace has logged they are noted with it (see `extremes`); the others are read.

        Args:
            runs: As `find_all` gives them.
            keys: Metrics; a run may lack some.
        """
        from tailrace_agent.mlflow_history import extremes

        found: dict[tuple[str, str], tuple[float, float]] = {}
        unknown: dict[str, list[str]] = {}
        for run_id, run in {run.info.run_id: run for run in runs}.items():
            noted = _noted(run) if self._remote else {}
            for key in keys:
                if key not in noted:
                    if key in run.data.metrics:
                        unknown.setdefault(key, []).append(run_id)
                elif (bounds := noted[key]) is not None:
                    found[run_id, key] = bounds
        if unknown:
            with self.edge(about_run=True):
                found |= extremes(self.store, unknown)
        return found

    @contextmanager
    def edge(self, *, about_run: bool) -> Iterator[None]:
        """Nothing foreign gets past this. The cause is left out, since its message may hold a password."""
        try:
            yield
        except GeneratorExit:
            raise
        except Exception as error:  # noqa: BLE001  # MLflow, its plug-ins and drivers raise anything
            raise translate(error, self.uri, remote=self._remote, about_run=about_run) from None

    def _by_ids(self, ids: Sequence[str], experiments: Sequence[str]) -> dict[str, Any]:
        from mlflow.entities import ViewType

        found = {}
        for start in range(0, len(ids), _IDS_AT_ONCE):
            named = ", ".join(f"'{run_id}'" for run_id in ids[start : start + _IDS_AT_ONCE])
            for run in self.search(experiments, f"attributes.run_id IN ({named})", view=ViewType.ALL):
                found[run.info.run_id] = run
        for run_id in ids:
            if run_id not in found:
                found[run_id] = self._get(run_id)
        return found

    def _get(self, run_id: str) -> Any:
        """A run of an experiment that is deleted, too."""
        try:
            with self.edge(about_run=True):
                return self.store.get_run(run_id)
        except (RunGone, Refused) as error:
            raise NotFound(f"{self.name} has no run {run_id!r}") from error

    def _named(self, text: str, experiments: Sequence[str]) -> Any:
        for query in _queries(text):
            found = self.search(experiments, query, max_results=20)
            if len(found) > 1:
                names = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in found[:5])
                raise NotFound(f"{text!r} fits {len(found)} runs of {self.name}: {names}; give more of an id")
            if found:
                return found[0]
        raise NotFound(f"{self.name} has no run {text!r}; `tailrace runs` lists what it has")


def _queries(text: str) -> Iterator[str]:
    """MLflow's filters for what `text` may mean, the surest first."""
    quote = '"' if "'" in text else "'"
    if quote in text or not text:
        return
    yield f"attributes.run_name = {quote}{text}{quote}"
    if text.isalnum():  # no wildcard of LIKE in it
        yield f"attributes.run_id LIKE '{text}%'"
        yield f"tags.`{_RUN_TAG}` LIKE '{text}%'"
    if "%" not in text and "_" not in text:
        yield f"attributes.run_name LIKE {quote}{text}%{quote}"


def _nearest(name: str, names: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, timezone.utc)


def _noted(run: Any) -> dict[str, tuple[float, float] | None]:
    metrics = getattr(run.data, "_metric_objs", ())
    last = {metric.key: (metric.step, metric.timestamp, metric.value) for metric in metrics}
    return known(run.data.tags, last)
