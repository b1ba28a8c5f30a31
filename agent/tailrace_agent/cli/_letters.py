"""Dead letters across sessions, and artifacts that wait: what they hold, and how they come back on the way.

A letter's id is the end of its session's id and its number there: `ab12cd:3`; `ab12cd:p3` is an artifact that waits.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import msgspec

from tailrace_agent.cli._app import Code, Fail, count
from tailrace_agent.cli._holding import relieve
from tailrace_agent.cli._look import Busy, reading, run_of, states
from tailrace_agent.cli._runs import LocalRun, meant
from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.delivery.artifact_source import ArtifactSource, artifact_file
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.errors import SessionError
from tailrace_agent.ipc.records import Artifact, encode, run_hex
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.staging import staged
from tailrace_agent.ipc.stored import UNREADABLE
from tailrace_agent.ipc.survey import Unreadable, survey
from tailrace_agent.reading.reader import Choose
from tailrace_agent.settings.settings import Settings
from tailrace_agent.spool.blocks import DeadLetter, Outcome, decode_rows
from tailrace_agent.spool.store import Spool

__all__ = ["Letter", "collect", "discard", "put_back", "select"]

V = TypeVar("V")

_texts = msgpack_decoder(dict[str, str])
_artifact = msgpack_decoder(Artifact)


class Letter(NamedTuple):
    """A dead letter, or an artifact that waits, and where it lies."""

    session: Session
    run_name: str | None
    run_id: str | None
    letter: DeadLetter
    pending: bool = False

    @property
    def id(self) -> str:
        """As people write it."""
        return f"{self.session.id.rpartition('-')[2]}:{'p' if self.pending else ''}{self.letter.id}"

    @property
    def value(self) -> str:
        """What it holds, for people."""
        kind, body = self.letter.kind, self.letter.body
        if self.letter.n > 1:
            return f"({self.letter.n:,} {kind}s)"
        try:
            if kind == "metric":
                ((_, step, _, values),) = decode_rows(body)
                return f"{next(iter(values.values())):g} at step {step}"
            if kind == "artifact":
                artifact = _artifact.decode(body)
                return f"model {artifact.model.name}" if artifact.model is not None else artifact.artifact_path or ""
            return _texts.decode(body)[self.letter.key]
        except (*UNREADABLE, ValueError, LookupError, StopIteration):
            return "?"

    def summary(self) -> dict[str, object]:
        """As plain data."""
        letter = self.letter
        return {
            "id": self.id,
            "session": self.session.id,
            "run": run_hex(letter.run),
            "run_id": self.run_id,
            "run_name": self.run_name,
            "kind": letter.kind,
            "key": letter.key,
            "count": letter.n,
            "value": self.value,
            "reason": letter.reason,
            "at": letter.at,
            "pending": self.pending,
        }


def collect(
    settings: Settings,
    run: str | None,
    choose: Choose | None = None,
    *,
    pending: bool = False,
    key: str | None = None,
    take_over: bool = False,
) -> tuple[list[Letter], list[str]]:
    """Dead letters of this machine, and the artifacts that wait because they have failed.

    Args:
        settings: The settings in force.
        run: Those of one run only, as a person calls it; runs without such letters are not looked at.
        choose: For whoever only looks: of several runs of that name the newest is taken, with a warning.
        pending: Every artifact that waits, and no dead letter.
        key: Those of one name only.
        take_over: Has agents that have outlived their programs leave.

    Returns:
        The letters; and the sessions that could not be read, with reasons.

    Raises:
        Fail: `run` fits several runs.
    """
    found: list[_Found] = []
    silent: list[str] = []
    for session in survey(settings):
        if isinstance(session, Unreadable):
            silent.append(f"session {session.name} {session.problem}; {session.mend}")
            continue
        if session.elsewhere:  # its agent may live there, and hold its spool
            continue
        try:
            # Given back at once: `reading` takes it for itself.
            if take_over and (lock := relieve(session)) is not None:
                os.close(lock)
            found += [each for each in _of_session(session, pending=pending) if key in (None, each.letter.letter.key)]
        except (Busy, SessionError, sqlite3.Error, OSError, *UNREADABLE) as error:
            silent.append(str(error))
    if run is not None:
        found = meant(settings, run, [each for each in found if each.of is not None], _run_of, choose)
    return [each.letter for each in found], silent


def select(letters: list[Letter], ids: Iterable[str]) -> list[Letter]:
    """The letters that were requested by id.

    Raises:
        Fail: One of them is not there.
    """
    by_id = {letter.id: letter for letter in letters}
    by_number: dict[str, list[Letter]] = {}
    for letter in letters:
        by_number.setdefault(str(letter.letter.id), []).append(letter)
    chosen = {}
    for text in ids:
        found = [by_id[text]] if text in by_id else by_number.get(text, [])
        if len(found) != 1:
            what = (
                f"{text!r} fits {count(len(found), 'dead letter')}: write SESSION:NUMBER"
                if found
                else (f"there is no dead letter {text!r}; `tailrace dead list` shows them")
            )
            raise Fail(what, Code.UNKNOWN)
        chosen[found[0].id] = found[0]
    return list(chosen.values())


def put_back(session: Session, letters: list[Letter], rename: dict[str, str]) -> None:
    """Puts letters of a session on the way again, under other names where requested. The caller holds its agent lock.

    Raises:
        Fail: An artifact cannot lie under its new name, or the disk has damaged a letter.
    """
    for letter in letters:
        if not letter.letter.body:  # see `Spool`
            mend = f"tailrace dead drop {letter.id}"
            raise Fail(f"{letter.id} was damaged on disk, and cannot be sent: {mend}", Code.WRONG)
    # Before the spool is opened for writing: a name that cannot be leaves it as it is.
    bodies = {letter.id: _renamed(session, letter.letter, rename) for letter in letters}
    dead = [letter for letter in letters if not letter.pending]
    # Letters last: killed in between, this leaves a session that `sync` takes up once more, and runs whose end is
    # reported once more. The other way round, what waits again would lie in a session that counts as finished, or be of
    # a run that does, and nobody would send it.
    (session.dir / "finished").unlink(missing_ok=True)
    with _opened(session) as spool:
        book = RunBook(spool.runs(), spool.save_run)
        for run in {letter.letter.run for letter in letters}:
            # A run that was gone may be back: then its end has to be reported again, too.
            book.advance(run, Event.REVIVED)
        again = [(x.letter.run, x.letter.kind, x.letter.n, _first_ns(x.letter), bodies[x.id]) for x in dead]
        spool.letters.revive([letter.letter for letter in dead], again)
        for letter in letters:
            if letter.pending:
                spool.artifacts.send_again(letter.letter.id, bodies[letter.id])


def discard(session: Session, letters: list[Letter]) -> None:
    """Deletes letters of a session, and what was staged for them. The caller holds its agent lock."""
    with _opened(session) as spool:
        spool.letters.discard([letter.letter for letter in letters if not letter.pending])
        for letter in letters:
            if letter.pending:
                spool.settle(
                    Outcome(
                        letter.letter.run, "artifact", [letter.letter.id], 0, dropped=[("discarded by the user", 1)]
                    )
                )
    # Files after the commit: a kill in between leaves a file that nobody wants, and not a letter without its file.
    for letter in letters:
        if letter.letter.kind == "artifact":
            with contextlib.suppress(*UNREADABLE):
                ArtifactSource(session.artifacts).discard(_artifact.decode(letter.letter.body))


class _Found(NamedTuple):
    """A letter, and what the session knows of its run."""

    letter: Letter
    of: LocalRun | None


def _run_of(found: _Found) -> LocalRun:
    assert found.of is not None
    return found.of


def _of_session(session: Session, *, pending: bool) -> Iterator[_Found]:
    with reading(session) as spool:
        if spool is None:
            return
        views = {state.run: run_of(spool, state) for state in states(session, spool)}
        waiting = [_named(letter, session) for letter in spool.artifacts.all(failed=not pending)]
        dead = [] if pending else spool.letters.all()
        for letter, waits in [*((letter, False) for letter in dead), *((letter, True) for letter in waiting)]:
            view = views.get(letter.run)
            name, run_id = (view.run_name, view.run_id) if view else (None, None)
            named = Letter(session, name, run_id, letter, waits)
            yield _Found(named, LocalRun(session, view) if view else None)


def _named(letter: DeadLetter, session: Session) -> DeadLetter:
    """An artifact that waits, with the name under which it is to lie in the run's artifacts."""
    try:
        return letter._replace(key=artifact_file(_artifact.decode(letter.body), session.artifacts))
    except UNREADABLE:
        return letter._replace(key="?")


@contextlib.contextmanager
def _opened(session: Session) -> Iterator[Spool]:
    spool = Spool(session.dir / "spool.db")
    try:
        yield spool
    finally:
        spool.close()


def _first_ns(letter: DeadLetter) -> int:
    return decode_rows(letter.body)[0][2] if letter.kind == "metric" else 0


def _renamed(session: Session, letter: DeadLetter, rename: dict[str, str]) -> bytes:
    if letter.kind == "artifact":
        new = rename.get(letter.key)
        return letter.body if new is None else _moved(session, _artifact.decode(letter.body), new)
    if not rename:
        return letter.body
    if letter.kind == "metric":
        rows = decode_rows(letter.body)
        return encode([(run, step, ns, _with_names(values, rename)) for run, step, ns, values in rows])
    return encode(_with_names(_texts.decode(letter.body), rename))


def _moved(session: Session, record: Artifact, new: str) -> bytes:
    """An artifact's record for another place in the run's artifacts, and its staged copy under that name."""
    norm = posixpath.normpath(new)  # MLflow refuses a path that is not normal
    if norm in (".", "..") or norm.startswith(("/", "../")):
        raise Fail(f"{new!r} is no place in a run's artifacts: write DIRECTORY/NAME, from the run's root", Code.USAGE)
    if record.model is not None:
        return encode(msgspec.structs.replace(record, model=msgspec.structs.replace(record.model, name=norm)))
    if record.contents:
        return encode(msgspec.structs.replace(record, artifact_path=norm))
    entry = staged(session.artifacts, record.staged)
    source = next(iter(sorted(entry.iterdir())), None) if entry is not None and entry.is_dir() else None
    if source is None:
        raise Fail(f"what was to lie under {new!r} is gone from {session.artifacts}; `tailrace dead drop` forgets it")
    source.rename(source.with_name(posixpath.basename(norm)))
    return encode(msgspec.structs.replace(record, artifact_path=posixpath.dirname(norm) or None))


def _with_names(values: dict[str, V], rename: dict[str, str]) -> dict[str, V]:
    return {rename.get(key, key): value for key, value in values.items()}
