"""Which run a person means, and what this machine knows of it."""

from __future__ import annotations

from typing import NamedTuple

from tailrace_agent.cli._app import Code, Fail
from tailrace_agent.cli._look import look, reading
from tailrace_agent.cli._move import moved
from tailrace_agent.cli._views import RunView, SessionView
from tailrace_agent.session import Session
from tailrace_agent.settings import Settings

__all__ = ["LocalRun", "delivered_keys", "find_local", "fits"]


class LocalRun(NamedTuple):
    """A run of a session that is still here."""

    session: Session
    view: SessionView
    run: RunView


def fits(text: str, run: RunView) -> bool:
    """Whether `text` is the run's name, or the beginning of one of its ids."""
    ids = (run.run, run.run_id or "")
    return text == run.run_name or any(id_.startswith(text.lower()) for id_ in ids if id_)


def find_local(settings: Settings, text: str) -> list[LocalRun]:
    """What this machine knows of the run: one entry for each session that has logged to it; none when it is unknown.

    Raises:
        Fail: `text` fits several runs.
    """
    known = [
        LocalRun(session, view, run)
        for session in Session.all(settings)
        for view in (look(session),)
        for run in view.runs
    ]
    exact = [entry for entry in known if text in (entry.run.run_name, entry.run.run, entry.run.run_id)]
    found = exact or [entry for entry in known if fits(text, entry.run)]
    if len({entry.run.run_id or entry.run.run for entry in found}) > 1:
        names = ", ".join(f"{e.run.run[:8]} ({e.run.run_name}, session {e.session.id})" for e in found[:5])
        raise Fail(f"{text!r} fits {len(found)} runs: {names}; give more of an id", Code.UNKNOWN)
    ids = {entry.run.run_id for entry in found if entry.run.run_id}
    return [entry for entry in known if entry in found or entry.run.run_id in ids]


def delivered_keys(entry: LocalRun) -> dict[str, int]:
    """Rows by metric key that were delivered to the store where the run is now.

    Raises:
        Busy: The session is live: only its agent may open the spool.
    """
    number = int(entry.run.run, 16)
    with reading(entry.session) as spool:
        keys = spool.delivered_keys(number) if spool is not None else {}
    before = moved(entry.session, number)
    if before is not None:
        keys = {key: n for key, total in keys.items() if (n := total - before.keys.get(key, 0))}
    return keys
