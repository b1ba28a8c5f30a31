"""`tailrace logs`: what a run has printed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tailrace_agent.cli._app import App, Code, Fail, quieten_mlflow, uri_option
from tailrace_agent.files.ownership import open_own
from tailrace_agent.text.quoting import visible

if TYPE_CHECKING:
    from tailrace_agent.cli._runs import LocalRun
    from tailrace_agent.reading.reader import Reader

_POLL: Final = 0.2
_PATIENCE: Final = 60.0  # seconds for one answer
_PIECE: Final = 256 * 1024
_KNOWN_BY: Final = 400
"""Bytes by which the place in a file is found again, of which another one has taken the place."""
_NAME: Final = "console.log"


@click.command("logs")
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the run has ended.")
@click.option("-n", "--lines", type=click.IntRange(0), metavar="N", help="Only the last N lines.")
@click.option("--rank", default=0, show_default=True, type=click.IntRange(0), help="Which rank of a job.")
@uri_option("Where the run is, when this machine does not have it (default: the setting).")
@click.pass_obj
def command(app: App, run: str, follow: bool, lines: int | None, rank: int, tracking_uri: str | None) -> None:
    """Print what a run has printed; with -f also what it prints from now on.

    \b
    tailrace logs baseline -n 20
    tailrace logs baseline -f

    Of a run on this machine it comes from its session, a second after it was printed; of any other what MLflow has.

    RUN is MLflow's run id, tailrace's id, the beginning of one, or the run's name.
    """  # noqa: D301 - click wants the character itself
    quieten_mlflow()
    from tailrace_agent.cli._runs import find_named

    local = find_named(app, run, tracking_uri)
    # Of a run that was resumed: what was printed last, also where one program has resumed it.
    path = max((path for entry in local if (path := _path(entry, rank)).exists()), key=_printed_at, default=None)
    if path is None and follow and (live := [entry for entry in local if entry.session.agent_alive()]):
        path = _path(live[-1], rank)  # it may print something yet
    if path is None:
        if follow and not local:
            raise Fail(f"run {run!r} does not run on this machine: -f follows those that do", Code.UNKNOWN)
        _print(_stored(app, run, rank, tracking_uri), lines)
        return
    following = _Following(path)
    _print(following.read(), lines)
    if follow:
        alive = local[-1].session.agent_alive
        while True:
            goes_on = alive()  # before the read: what came until then is read
            for piece in following.read():
                click.echo(visible(piece), nl=False)
            if not goes_on:
                return
            time.sleep(_POLL)


def _path(entry: LocalRun, rank: int) -> Path:
    from tailrace_agent.ipc.console_files import console_file

    return console_file(entry.session.dir, int(entry.run.run, 16), rank)


def _printed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # tidied up just now
        return 0.0


def _print(pieces: Iterator[str], lines: int | None) -> None:
    if lines is None:
        for piece in pieces:
            click.echo(visible(piece), nl=False)
        return
    last = "".join(pieces).splitlines(keepends=True)[-lines:] if lines else []
    click.echo(visible("".join(last)), nl=False)


def _stored(app: App, text: str, rank: int, tracking_uri: str | None) -> Iterator[str]:
    """What MLflow has."""
    from tailrace_agent.cli._reading import newest, open_store
    from tailrace_agent.errors import TailraceError

    reader = open_store(app, tracking_uri)
    run: Any = reader.find(text, newest)
    name = _NAME if rank == 0 else f"rank{rank}.log"
    with tempfile.TemporaryDirectory() as place:
        try:
            with reader.translated_errors(about_run=True):
                found = _artifact(reader, run, name, Path(place))
        except TailraceError as error:
            raise _none_kept(run, name, f" ({error})") from error
        if found is None:
            raise _none_kept(run, name)
        with found.open(errors="replace", newline="") as file:
            while piece := file.read(_PIECE):
                yield piece


def _none_kept(run: Any, name: str, why: str = "") -> Fail:
    who = run.info.run_name or run.info.run_id
    return Fail(f"run {who!r} has no {name}: it did not keep its console{why}", Code.UNKNOWN)


def _artifact(reader: Reader, run: Any, name: str, place: Path) -> Path | None:
    """A file of a run: where it lies, if that is on this machine, or else fetched; None where it is not there."""
    from tailrace_agent.mlflow.links import is_server
    from tailrace_agent.mlflow.places import directory_of

    directory = None if is_server(reader.uri) else directory_of(run.info.artifact_uri)
    if directory is not None:
        file = directory / name
        return file if file.is_file() else None
    from tailrace_agent.sinks.mlflow import open_sink

    sink = open_sink(reader.uri, str(Path.cwd()), request_timeout=_PATIENCE, own_process=True)
    return sink.fetch_artifact(run.info.run_id, name, place)


class _Following:
    """A file that grows at its end, until another one takes its place of which the middle is left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._at = 0
        self._last = b""

    def read(self) -> Iterator[str]:
        """What has come since the last call."""
        try:
            fd = open_own(self._path, os.O_RDONLY)
        except OSError:
            return
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if found.st_ino != self._inode or found.st_size < self._at:
                self._at = self._again(file.read(found.st_size)) if self._inode else 0
                self._inode = found.st_ino
            file.seek(self._at)
            while piece := file.read(_PIECE):
                self._at += len(piece)
                self._last = (self._last + piece)[-_KNOWN_BY:]
                yield piece.decode(errors="replace")

    def _again(self, body: bytes) -> int:
        """Where what is known already ends in another file; its end where that is not to be found."""
        at = body.rfind(self._last) if self._last else -1
        return at + len(self._last) if at >= 0 else len(body)
