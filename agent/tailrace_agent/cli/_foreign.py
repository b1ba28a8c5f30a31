"""`tailrace import wandb`, `tfevents`, `neptune`, `trackio`: runs that other trackers have kept on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tailrace_agent.cli._app import App, Code, Fail, console, count, print_line, quieten_mlflow
from tailrace_agent.errors import Refused, SinkError, TailraceError

if TYPE_CHECKING:
    from tailrace_agent.reading.foreign.following import Follower
    from tailrace_agent.reading.foreign.foreign_run import ForeignRun
    from tailrace_agent.reading.import_ import Imported

__all__ = ["SOURCES", "import_foreign"]

SOURCES: Final[dict[str, str | None]] = {"wandb": "wandb", "tfevents": "runs", "neptune": "exports", "trackio": None}
"""The trackers, and where their runs are by default; None: that is asked for."""
_EVERY: Final = 5.0
_PAUSE: Final = 15.0
"""Seconds between two looks, and after a store was away."""


def import_foreign(
    app: App,
    source: str,
    path: Path | None,
    experiment: str | None,
    tracking_uri: str | None,
    *,
    follow: bool,
    json_: bool,
) -> None:
    """Imports the runs of another tracker.

    Args:
        app: The command.
        source: One of `SOURCES`.
        path: Where they are; the tracker's own place where None.
        experiment: Experiment for all of them.
        tracking_uri: The store that they go to; the setting where None.
        follow: Go on with what comes.
        json_: JSON instead of lines.
    """
    if follow and source != "tfevents":
        raise Fail("--follow goes with tfevents alone: repeat the import of a run that goes on", Code.USAGE)
    directory = path or _default(source)
    if not directory.exists():
        raise Fail(f"there is no {directory}: name the directory, as in `tailrace import {source} DIR`", Code.USAGE)
    quieten_mlflow()
    from tailrace_agent.cli._deliver import Tick
    from tailrace_agent.cli._imported import conclude, print_imported
    from tailrace_agent.cli._progress import Progress

    failed: list[str] = []
    runs: Iterator[ForeignRun] = iter(()) if follow else _readable(_runs(source, directory), failed)
    first = next(runs, None)  # before the store is opened: what is not there needs none
    if first is None and failed:
        raise Fail("; ".join(failed))
    from tailrace_agent.reading.foreign.following import Follower
    from tailrace_agent.reading.foreign.run_copy import copy_runs
    from tailrace_agent.reading.reader import open_reader

    reader = open_reader(app.store(app.settings(tracking_uri)), str(Path.cwd()), create=True)
    where = f"{source}:{directory.absolute()}"
    done: list[Imported] = []
    with Progress(quiet=json_) as progress:

        def show(name: str, at: int, total: int, note: str) -> None:
            if name != progress.name:
                progress.begin(name)
            progress.tick(Tick(at, total, note=note))

        if follow:
            done = _followed(Follower(reader, where, directory, experiment, show))
        for run in chain([] if first is None else [first], runs):
            copied = _one_by_one(copy_runs(reader, where, [run], experiment, show), run.name, failed)
            done += copied
            if copied and not json_:
                print_imported(done[-1], run.left_out)
    conclude(done, reader.name, json_=json_)
    if failed:
        raise Fail(f"{count(len(failed), 'run')} not imported: {'; '.join(failed)}")


def _default(source: str) -> Path:
    from tailrace_agent.reading.foreign.trackio_db import trackio_directory

    place = SOURCES[source]
    return trackio_directory() if place is None else Path(place)


def _readable(runs: Iterator[ForeignRun | TailraceError], failed: list[str]) -> Iterator[ForeignRun]:
    """Those that can be read; of the others, why not. One that is damaged keeps no other away."""
    for run in runs:
        if isinstance(run, TailraceError):
            failed.append(str(run))
        else:
            yield run


def _one_by_one(copied: Iterator[Imported], name: str, failed: list[str]) -> list[Imported]:
    """What has become of a run; the store may refuse it, and take the others."""
    try:
        return list(copied)
    except Refused as error:
        failed.append(f"{name}: {error}")
        return []


def _runs(source: str, directory: Path) -> Iterator[ForeignRun | TailraceError]:
    if source == "wandb":
        from tailrace_agent.reading.foreign.wandb_files import wandb_runs

        return wandb_runs(directory)
    if source == "tfevents":
        from tailrace_agent.reading.foreign.tfevents import EventRuns

        return EventRuns(directory).runs()
    if source == "neptune":
        from tailrace_agent.reading.foreign.neptune_export import neptune_runs

        return neptune_runs(directory)
    from tailrace_agent.reading.foreign.trackio_db import trackio_runs

    return trackio_runs(directory)


def _followed(follower: Follower) -> list[Imported]:
    """Follows until Ctrl-C; what has become of the runs."""
    print_line(console(stderr=True), "following: Ctrl-C ends the runs")
    try:
        while True:
            pause = _EVERY
            try:
                follower.step()
            except SinkError as error:
                print_line(console(stderr=True), f"{error}; tried again in {_PAUSE:.0f} s", "yellow")
                pause = _PAUSE
            time.sleep(pause)
    except KeyboardInterrupt:
        return follower.finish()
