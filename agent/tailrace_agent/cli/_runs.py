"""Which run a person means, and what this machine knows of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

from tailrace_agent.cli._app import App, Code, Fail, quieten_mlflow
from tailrace_agent.cli._look import look, reading
from tailrace_agent.cli._move import moved
from tailrace_agent.cli._views import RunView
from tailrace_agent.errors import TailraceError
from tailrace_agent.ipc.session import Session
from tailrace_agent.reading.candidates import Candidate, fits_several, newest_first, newest_taken
from tailrace_agent.reading.reader import Choose
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.store_keys import default_uri, store_key
from tailrace_agent.settings.uris import mask_uri, resolve_uri

__all__ = ["LocalRun", "delivered_keys", "find_local", "find_named", "known_runs", "meant"]

_PATIENCE: Final = 5.0  # seconds
_STORES: Final = 3  # each that is away costs `_PATIENCE`
T = TypeVar("T")


class LocalRun(NamedTuple):
    """A run of a session that is still here."""

    session: Session
    run: RunView

    @property
    def identity(self) -> str:
        """MLflow's id, or tailrace's while MLflow does not have the run: two sessions may log to one run."""
        return self.run.run_id or self.run.run

    @property
    def store(self) -> str:
        """Where it goes, absolute, and MLflow's default spelled out."""
        cwd = self.session.info.cwd
        return resolve_uri(self.run.store, cwd) if self.run.store else default_uri(cwd)


def known_runs(settings: Settings) -> list[LocalRun]:
    """Every run of every session that is still here, the oldest session first."""
    return [LocalRun(session, run) for session in Session.all(settings) for run in look(session).runs]


def find_local(
    settings: Settings, known: Sequence[LocalRun], text: str, choose: Choose | None, *, uri: str | None = None
) -> list[LocalRun]:
    """What this machine knows of the run: one entry for each session that has logged to it; none when it is unknown.

    Args:
        settings: The settings in force.
        known: As `known_runs` gives them.
        text: What a person calls it.
        choose: As for `Reader.find_all`.
        uri: Only among the runs of this store.

    Raises:
        Fail: `text` fits several runs.
    """
    if uri is not None:
        wanted = store_key(uri, "/")
        known = [entry for entry in known if store_key(entry.store, "/") == wanted]
    found = meant(settings, text, known, lambda entry: entry, choose)
    identities = {entry.identity for entry in found}
    return [entry for entry in known if entry.identity in identities]


def find_named(app: App, text: str, tracking_uri: str | None) -> list[LocalRun]:
    """What this machine knows of a run that a command was given; of a store that was given, only its runs.

    Raises:
        Fail: `text` fits several runs.
    """
    from tailrace_agent.cli._reading import newest

    settings = app.settings(tracking_uri)
    uri = app.store(settings) if tracking_uri is not None else None
    return find_local(settings, known_runs(settings), text, newest, uri=uri)


def meant(
    settings: Settings, text: str, entries: Iterable[T], run_of: Callable[[T], LocalRun], choose: Choose | None
) -> list[T]:
    """The entries of the one run that a person means by an id, a name, or the beginning of an id; none fit, none come.

    Args:
        settings: The settings in force.
        text: What a person calls the run.
        entries: Anything that belongs to a run.
        run_of: Maps each to its run.
        choose: As for `Reader.find_all`: where several runs have the name, the newest is taken, and this is called.

    Raises:
        Fail: It fits several runs: without `choose` by their name, in any case by the beginning of an id.
    """
    found, by_name = _fitting(text, list(entries), run_of)
    runs: dict[str, list[LocalRun]] = {}
    for entry in found:
        local = run_of(entry)
        runs.setdefault(local.identity, []).append(local)
    if len(runs) < 2:
        return found
    candidates = _candidates(settings, runs)
    stores = {each.store for each in candidates}
    where = stores.pop() if len(stores) == 1 else "this machine"
    if choose is None or not by_name:
        raise Fail(fits_several(text, candidates, where), Code.UNKNOWN)
    newest = newest_first(candidates)[0].id
    choose(newest_taken(text, candidates, where), newest)
    return [entry for entry in found if run_of(entry).identity == newest]


def delivered_keys(entry: LocalRun) -> dict[str, int]:
    """Rows by metric key that were delivered to the store where the run is now.

    Raises:
        Busy: The session is live: only its agent may open the spool.
    """
    number = int(entry.run.run, 16)
    with reading(entry.session) as spool:
        keys = spool.counts.delivered_keys(number) if spool is not None else {}
    before = moved(entry.session, number)
    # A move that was cut short has left the note alone: the run is still where the note says.
    if before is not None and (before.run_id is None or before.run_id != entry.run.run_id):
        # What went to the first store is counted in the same spool, and is not in the second.
        keys = {key: n for key, total in keys.items() if (n := total - before.keys.get(key, 0))}
    return keys


def _fitting(text: str, entries: Sequence[T], run_of: Callable[[T], LocalRun]) -> tuple[list[T], bool]:
    """The entries that fit in the surest way in which any does, and whether that is by a whole name."""
    start = text.lower()

    def ids(entry: T) -> list[str]:
        run = run_of(entry).run
        return [each for each in (run.run, run.run_id) if each]

    found = [entry for entry in entries if start in ids(entry)]
    if found or not text:
        return found, False
    # Whole ids, then names, then beginnings: `abc` as a name is not outdone by an id that begins so.
    found = [entry for entry in entries if text == run_of(entry).run.run_name]
    if found:
        return found, True
    return [entry for entry in entries if any(each.startswith(start) for each in ids(entry))], False


def _candidates(settings: Settings, runs: dict[str, list[LocalRun]]) -> list[Candidate]:
    params = _params(settings, [entries[0] for entries in runs.values()])
    return [
        Candidate(
            identity,
            entries[0].run.run_name or "",
            entries[-1].run.state,  # the latest session's word
            max(entry.run.started for entry in entries),
            params.get(identity, {}),
            mask_uri(entries[0].store)[0],
        )
        for identity, entries in runs.items()
    ]


def _params(settings: Settings, entries: Sequence[LocalRun]) -> dict[str, dict[str, str]]:
    """Params of runs as MLflow has them; those of a store that does not answer at once are not worth a wait."""
    from tailrace_agent.cli._credentials import known_credentials, with_credentials
    from tailrace_agent.reading.reader import open_reader

    by_store: dict[str, list[str]] = {}
    for entry in entries:
        if entry.run.run_id:
            by_store.setdefault(entry.store, []).append(entry.run.run_id)
    quieten_mlflow()
    credentials = known_credentials(settings)
    found: dict[str, dict[str, str]] = {}
    for uri, run_ids in list(by_store.items())[:_STORES]:
        with contextlib.suppress(TailraceError):  # then they are distinguished by their age
            whole = with_credentials(uri, credentials)
            reader = open_reader(whole, "/", request_timeout=_PATIENCE, own_process=True)
            found |= {run.info.run_id: dict(run.data.params) for run in reader.find_all(run_ids)}
    return found
