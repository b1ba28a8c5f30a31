"""Runs read back from MLflow: searched, found by what a person calls them, with their whole metric history.

What this module promises:

* Nothing is created or changed: an SQLite file that is not there is an error, not a new store.
* A run is found by MLflow's id, tailrace's id, the beginning of one of them, its name, or the beginning of its name.
  Where several runs have that name, the caller may have the newest; a beginning that fits several is an error.
* Names in a filter or an order need no quotes; see `filters`.
* What MLflow has is what is returned: what is still on its way is not there.
* Foreign errors come out as those of `errors`, without a password.

Loading this module is cheap. `open_reader` imports MLflow, unless it may do without (`own_process`). Thread safety: a
reader may be used from any thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from tailrace_agent.errors import CallError, NotFound, Refused, RunGone
from tailrace_agent.ipc.tags import RUN_TAG
from tailrace_agent.mlflow.errors import opening_failed, translate
from tailrace_agent.mlflow.links import is_server, run_page
from tailrace_agent.mlflow.pages import pages
from tailrace_agent.reading.candidates import MOST, Candidate, fits_several, nearest, newest_first, newest_taken
from tailrace_agent.reading.filters import quoted_filter, quoted_order
from tailrace_agent.reading.opening import check_store, without_mlflow
from tailrace_agent.reading.own_reads import OwnReads
from tailrace_agent.reading.read_store import ACTIVE_ONLY, ALL, Peaks, Point, ReadStore, Thinned
from tailrace_agent.reading.record import RunRecord
from tailrace_agent.settings.uris import mask_uri, resolve_uri
from tailrace_agent.spool.extremes import known, unbounded

if TYPE_CHECKING:
    from tailrace_agent.mlflow.stores import Store
    from tailrace_agent.reading.history import Columns

__all__ = ["Choose", "Reader", "RunRecord", "open_reader"]

_REQUEST_TIMEOUT: Final = 120.0
"""Seconds for one answer: somebody waits for it, and a page of a long history takes its time."""
_PAGE: Final = 10_000  # runs or experiments; MLflow takes no more than 50,000 at once
_IDS_AT_ONCE: Final = 200  # in one `IN (…)`, which goes into a URL or an SQL statement
_ID: Final = re.compile(r"[0-9a-f]{32}")
Choose: TypeAlias = Callable[[str, str], object]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_000
"""Milliseconds at which Python's calendar begins and ends."""
_NEWEST: Final = ["attributes.start_time DESC"]
_NOT_IN_A_PATTERN: Final = re.compile(r"[\[\]\\\"]")
"""What escapes, means a set, or ends the literal in one database's LIKE or another's."""


def open_reader(
    tracking_uri: str | None,
    cwd: str,
    *,
    create: bool = False,
    request_timeout: float = _REQUEST_TIMEOUT,
    own_process: bool = False,
) -> Reader:
    """Opens a store for reading.

    Args:
        tracking_uri: None means what MLflow would take in `cwd`.
        cwd: Directory from which relative paths are meant.
        create: An SQLite file that is not there is made, and no error: for an import.
        request_timeout: Seconds that one request may take.
        own_process: Whether nobody but tailrace runs code here, so that MLflow is as it is installed: it is imported
            only where it is needed.

    Raises:
        StoreRefused: MLflow can make no use of this URI, or there is no such store yet.
        Unavailable: The database cannot be reached now.
    """
    uri = tracking_uri or "MLflow's default store"
    try:
        reads = None
        if own_process and tracking_uri:
            uri = resolve_uri(tracking_uri, cwd)
            check_store(uri, create=create)  # before MLflow is imported: who mistyped it need not wait for that
            reads = without_mlflow(uri, cwd, request_timeout)
        if reads is None:
            from tailrace_agent.mlflow import stores

            uri = stores.store_uri(tracking_uri, cwd)
            check_store(uri, create=create)
            reads = OwnReads(stores.open_store(uri, cwd, request_timeout))
    except Exception as error:  # noqa: BLE001  # whatever a database driver or a plug-in raises
        raise opening_failed(error, uri) from None
    return Reader(uri, reads)


class Reader:
    """Reads one tracking store of MLflow.

    Args:
        uri: The absolute tracking URI, with its credentials.
        reads: The store behind it.
    """

    def __init__(self, uri: str, reads: ReadStore) -> None:
        self.uri, self._reads = uri, reads
        self._remote = reads.remote

    @property
    def store(self) -> Store:
        """MLflow's own store, for what only it can do; MLflow is imported for it at the first call."""
        return self._reads.mlflows_own()

    @property
    def name(self) -> str:
        """The store as it may be shown."""
        return mask_uri(self.uri)[0]

    # -- experiments and searches ------------------------------------------------------------------------------------

    def experiments(self) -> dict[str, str]:
        """Names of all experiments that are not deleted, by id."""
        with self.translated_errors(about_run=False):
            found = pages(lambda token: self._reads.experiment_page(_PAGE, token))
            return {str(each.experiment_id): str(each.name) for page in found for each in page}

    def experiment_ids(self, names: Sequence[str], *, sure: bool = False) -> list[str]:
        """Ids of experiments that are named, by name or by id.

        Args:
            names: What a person calls each of them. A name comes before an id that reads the same.
            sure: For whoever deletes something: what is one's name and another's id is an error.

        Raises:
            NotFound: There is no such experiment, and the nearest name is in the message; or it fits two.
        """
        known = self.experiments()
        by_name = {name: experiment_id for experiment_id, name in known.items()}
        missing = [name for name in names if name not in by_name and name not in known]
        if missing:
            raise NotFound(f"{self.name} has no experiment {missing[0]!r}{nearest(missing[0], by_name)}")
        for name in names if sure else ():
            if name in known and by_name.get(name, name) != name:
                raise NotFound(
                    f"{name!r} is the name of experiment {by_name[name]} of {self.name}, and the id of "
                    f"{known[name]!r}: write {by_name[name]} for the one, {known[name]!r} for the other"
                )
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
            filter_string: In MLflow's filter language; names need no quotes.
            order_by: Columns, with `ASC` or `DESC`; names need no quotes.
            max_results: All when None.
            view: MLflow's `ViewType`; what is not deleted when None.

        Returns:
            MLflow's `Run` entities.

        Raises:
            Refused: The filter or the order is none.
        """
        ids = list(self.experiments()) if experiment_ids is None else list(experiment_ids)
        size = _PAGE if max_results is None else min(_PAGE, max_results)  # not more than will be taken
        # Cut here, too: a store may give more on a page than `size`.
        return list(islice(self._found(ids, filter_string, order_by, size, view), max_results))

    def _found(
        self, ids: Sequence[str], filter_string: str, order_by: Sequence[str] | None, size: int, view: int | None
    ) -> Iterator[Any]:
        """Runs one by one; the next page of `size` is requested when it is needed."""
        view = ACTIVE_ONLY if view is None else view
        query, order = quoted_filter(filter_string or ""), [quoted_order(each) for each in order_by or ()]

        def fetch(token: str | None) -> Any:
            with self.translated_errors(about_run=False):
                return self._reads.run_page(ids, query, view, size, order, token)

        if ids and size > 0:
            for page in pages(fetch):
                yield from page

    # -- one run -----------------------------------------------------------------------------------------------------

    def find(self, text: str, choose: Choose | None = None) -> Any:
        """The one run that a person means; arguments and errors as in `find_all`."""
        return self.find_all([text], choose)[0]

    def find_all(self, texts: Sequence[str], choose: Choose | None = None) -> list[Any]:
        """The runs that are meant, in this order. Whole ids take one search for all of them, other names one each.

        Args:
            texts: What a person calls each of them.
            choose: Where several runs have the very name, the newest is taken, and this is called with a line on it and
                the others, and its id. Without it that is an error: for whoever changes or deletes something.

        Raises:
            NotFound: One of them fits no run, or several; the message names those, and in what they differ.
            CallError: One of them is no text.
        """
        for text in texts:
            if not isinstance(text, str):
                raise CallError(f"a run is named by its name or id, a text, not by a value of {type(text).__name__}")
        experiments = list(self.experiments())
        by_id = self._by_ids([text for text in texts if _ID.fullmatch(text)], experiments)
        return [by_id[text] if text in by_id else self._named(text, experiments, choose) for text in texts]

    def get(self, run_id: str) -> Any:
        """The run of an id, in one request; out of the bin, too.

        Raises:
            RunGone: There is none.
        """
        with self.translated_errors(about_run=True):
            return self._reads.read_run(run_id)

    def record(self, run: Any) -> RunRecord:
        """MLflow's `Run` as plain data."""
        info, data = run.info, run.data
        return RunRecord(
            run_id=info.run_id,
            run_name=info.run_name or "",
            experiment_id=str(info.experiment_id),
            status=info.status,
            start_time=_moment(info.start_time),
            end_time=_moment(info.end_time) if info.end_time else None,
            params=dict(data.params),
            # MLflow's databases keep an infinity as the largest double.
            metrics={key: unbounded(value) for key, value in data.metrics.items()},
            tags=dict(data.tags),
            artifact_uri=info.artifact_uri,
            url=run_page(self.uri, str(info.experiment_id), info.run_id) if is_server(self.uri) else None,
            deleted=info.lifecycle_stage == "deleted",
        )

    def history(self, run_id: str, key: str, *, by_step: bool = False) -> Iterator[Columns]:
        """Every point of one metric, in pieces; see `history`."""
        with self.translated_errors(about_run=True):
            yield from self._reads.history(run_id, key, by_step=by_step)

    def points(self, run_id: str, key: str) -> Iterator[Sequence[Point]]:
        """The same as step, milliseconds and value, without NumPy; from a database by step."""
        with self.translated_errors(about_run=True):
            yield from self._reads.read_points(run_id, key)

    def thinned(self, run_id: str, key: str, most: int, first: int | None = None, last: int | None = None) -> Thinned:
        """About `most` points of one metric, evenly spread over its steps.

        All of them where there are few; see `thinned`.

        Args:
            run_id: MLflow's id.
            key: The metric.
            most: How many are wanted.
            first: None of an earlier step.
            last: None of a later step.
        """
        with self.translated_errors(about_run=True):
            return self._reads.thinned(run_id, key, most, first, last)

    def peaks(self, run_id: str, key: str, width: int, first: int, last: int) -> Peaks | None:
        """The smallest and the largest value of every `width` steps of one metric, as far as a moment's work gets.

        None where a store does not find them quickly: it would have to give all points.

        Args:
            run_id: MLflow's id.
            key: The metric.
            width: Steps, 1 or more.
            first: The first of them.
            last: The last of them.
        """
        with self.translated_errors(about_run=True):
            return self._reads.peaks(run_id, key, width, first, last)

    def extremes(self, runs: Iterable[Any], keys: Sequence[str]) -> dict[tuple[str, str], tuple[float, float]]:
        """Smallest and largest value of each metric of each run, NaN aside; by `(run_id, key)`.

        Over HTTP, of a run that tailrace has logged they are noted with it (see `extremes`); the others are read.

        Args:
            runs: As `find_all` gives them.
            keys: Metrics; a run may lack some.
        """
        from tailrace_agent.reading.history import extremes

        found: dict[tuple[str, str], tuple[float, float]] = {}
        unknown: dict[str, list[str]] = {}
        for run_id, run in {run.info.run_id: run for run in runs}.items():  # each once, however often it is named
            # In a database one grouped query is quicker, and never out of date.
            noted = _noted(run) if self._remote else {}
            for key in keys:
                if key not in noted:
                    if key in run.data.metrics:
                        unknown.setdefault(key, []).append(run_id)
                elif (bounds := noted[key]) is not None:  # None: nothing but NaN
                    found[run_id, key] = bounds
        if unknown:
            with self.translated_errors(about_run=True):
                found |= extremes(self.store, unknown)
        return found

    @contextmanager
    def translated_errors(self, *, about_run: bool) -> Iterator[None]:
        """Nothing foreign gets past this. The cause is left out, since its message may hold a password."""
        try:
            yield
        except GeneratorExit:  # whoever reads may stop in the middle: that is no error of the store
            raise
        except Exception as error:  # noqa: BLE001  # MLflow, its plug-ins and drivers raise anything
            raise translate(error, self.uri, remote=self._remote, about_run=about_run) from None

    def _by_ids(self, ids: Sequence[str], experiments: Sequence[str]) -> dict[str, Any]:
        found = {}
        for start in range(0, len(ids), _IDS_AT_ONCE):
            named = ", ".join(f"'{run_id}'" for run_id in ids[start : start + _IDS_AT_ONCE])
            # ALL: who writes a whole id means that run, even out of the bin.
            for run in self.search(experiments, f"attributes.run_id IN ({named})", view=ALL):
                found[run.info.run_id] = run
        for run_id in ids:
            # A search sees no experiment that is deleted; to get a run by its id does.
            if run_id not in found and (run := self._get(run_id)) is not None:
                found[run_id] = run
        return found

    def _get(self, run_id: str) -> Any | None:
        """A run of an experiment that is deleted, too."""
        try:
            return self.get(run_id)
        except (RunGone, Refused):
            return None

    def _named(self, text: str, experiments: Sequence[str], choose: Choose | None) -> Any:
        for way in _ways(text):
            runs = self._found(experiments, way.query, _NEWEST, MOST, None)
            found = list(islice((run for run in runs if way.fits(run)), MOST + 1))  # one more: to report "more than"
            if found:
                return found[0] if len(found) == 1 else self._one_of(text, way, found, choose)
        raise NotFound(f"{self.name} has no run {text!r}; `tailrace runs` lists what it has")

    def _one_of(self, text: str, way: _Way, found: Sequence[Any], choose: Choose | None) -> Any:
        candidates = [_candidate(run) for run in found]
        values = {way.value(run) for run in found}
        # Several values: the text is the beginning of different names or ids, of which none was meant for sure.
        if choose is None or len(values) > 1:
            raise NotFound(fits_several(text, candidates, self.name))
        newest = newest_first(candidates)[0].id
        choose(newest_taken(values.pop(), candidates, self.name), newest)
        return next(run for run in found if run.info.run_id == newest)


class _Way(NamedTuple):
    """One way in which a text may mean a run: a filter that finds it among others, and what in the run has to fit."""

    query: str
    value: Callable[[Any], str]
    text: str
    whole: bool = False

    def fits(self, run: Any) -> bool:
        value = self.value(run)
        return value == self.text if self.whole else value.startswith(self.text)


def _ways(text: str) -> Iterator[_Way]:
    """What `text` may mean, the surest first. No filter can escape a wildcard, so some find more than what fits."""
    if not text:
        return
    quote = '"' if "'" in text else "'"
    pattern = _NOT_IN_A_PATTERN.sub("_", text)  # `_` matches any one character
    # A name with both kinds of quotes fits into no literal; `fits` checks what the pattern has found.
    exact = f"LIKE {quote}{pattern}{quote}" if quote in text else f"= {quote}{text}{quote}"
    yield _Way(f"attributes.run_name {exact}", _name_of, text, whole=True)
    if _ID.fullmatch(text):  # a whole id was looked for already
        return
    if text.isalnum():
        start = text.lower()  # ids are written in small letters, and a person may paste capitals
        yield _Way(f"attributes.run_id LIKE '{start}%'", lambda run: str(run.info.run_id), start)
        yield _Way(f"tags.`{RUN_TAG}` LIKE '{start}%'", lambda run: str(run.data.tags.get(RUN_TAG, "")), start)
    yield _Way(f"attributes.run_name LIKE {quote}{pattern}%{quote}", _name_of, text)


def _name_of(run: Any) -> str:
    return run.info.run_name or ""


def _candidate(run: Any) -> Candidate:
    info = run.info
    return Candidate(info.run_id, info.run_name or "", info.status, info.start_time / 1000, dict(run.data.params))


def _moment(ms: int) -> datetime:
    """A time that no calendar has is the first or the last that one has: one run must not hide the others."""
    return _EPOCH + timedelta(milliseconds=min(max(ms, _FIRST), _LAST))


def _noted(run: Any) -> dict[str, tuple[float, float] | None]:
    metrics = getattr(run.data, "_metric_objs", ())  # MLflow's public `metrics` has no steps and times
    last = {metric.key: (metric.step, metric.timestamp, metric.value) for metric in metrics}
    return known(run.data.tags, last)
