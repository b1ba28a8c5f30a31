"""`tailrace import`: what was kept elsewhere, into MLflow."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from tailrace_agent.cli._app import (
    App,
    Code,
    Fail,
    byte_size,
    json_option,
    leave,
    quieten_mlflow,
    uri_option,
)
from tailrace_agent.runtime import interpreter

if TYPE_CHECKING:
    from tailrace_agent.reading.import_ import Imported


@click.command("import")
@click.argument("what", metavar="[wandb|tfevents|neptune|trackio] PATH", nargs=-1, required=True)
@click.option("--experiment", metavar="NAME", help="Experiment for all of them (default: each keeps its own).")
@uri_option("The store that they go to (default: the setting).")
@click.option(
    "--max-size",
    metavar="SIZE",
    callback=byte_size,
    help="Bound of what an archive becomes: 500MB, 4GiB (default: 1GiB, or 20 times its size if that is more).",
)
@click.option("--follow", is_flag=True, help="tfevents: go on with what comes, until Ctrl-C; then the runs end.")
@json_option
@click.pass_obj
def command(
    app: App,
    what: tuple[str, ...],
    experiment: str | None,
    tracking_uri: str | None,
    max_size: int | None,
    follow: bool,
    json_: bool,
) -> None:
    """Put runs that are elsewhere into MLflow, with their steps, times, status and nesting.

    \b
    tailrace import runs.tailrace.zip    what `tailrace export` has written
    tailrace import reports              what runs leave with tracking off
    tailrace import wandb [DIR]          offline runs of wandb (default: ./wandb)
    tailrace import tfevents [DIR]       event files of TensorBoard (default: ./runs)
    tailrace import neptune [DIR]        what neptune-exporter has written (default: ./exports)
    tailrace import trackio [DIR]        databases of trackio (default: its own directory)

    Each run arrives once: one that is there already is left alone, so if anything goes wrong, do it again. One of
    another tracker that has grown since gets what is new. Of an archive, one that was left half done is imported anew.
    """  # noqa: D301 - click reads the backspace
    source, path = _source(what)
    if source is not None:
        from tailrace_agent.cli._foreign import import_foreign

        import_foreign(app, source, path, experiment, tracking_uri, follow=follow, json_=json_)
        return
    if follow:
        raise Fail("--follow goes with tfevents alone", Code.USAGE)
    if path is None or not path.exists():
        raise Fail(f"there is no {path}", Code.USAGE)
    if path.is_dir():
        _import_reports(app, path, experiment, tracking_uri, max_size, json_=json_)
    _import_archive(app, path, experiment, tracking_uri, max_size, json_=json_)


def _source(what: tuple[str, ...]) -> tuple[str | None, Path | None]:
    """Which tracker, and where; None for what is tailrace's own."""
    from tailrace_agent.cli._foreign import SOURCES

    if len(what) > 2 or (len(what) == 2 and what[0] not in SOURCES):
        raise Fail(
            f"import takes a file, or one of {', '.join(SOURCES)} and a directory, not {' '.join(what)}", Code.USAGE
        )
    if what[0] in SOURCES:
        return what[0], Path(what[1]) if len(what) == 2 else None
    return None, Path(what[0])


def _import_reports(
    app: App, path: Path, experiment: str | None, tracking_uri: str | None, max_size: int | None, *, json_: bool
) -> NoReturn:
    """Local reports, by a program: it logs them as a user would, and the machinery does not import its users."""
    if not (path / "metrics.json").exists():
        raise Fail(f"{path} holds no local reports (no metrics.json), and is no file of `tailrace export`", Code.USAGE)
    app.settings(tracking_uri)  # what is wrong is reported before anything runs
    quieten_mlflow()
    options = ["--tracking-uri", tracking_uri] if tracking_uri else []
    options += ["--experiment-name", experiment] if experiment else []
    options += ["--max-size", str(max_size)] if max_size else []
    options += ["--json"] if json_ else []
    command_line = interpreter.module_command("tailrace.reports", *options, "--", str(path))
    leave(subprocess.run(command_line, env=app.environment(), check=False).returncode)


def _import_archive(
    app: App, path: Path, experiment: str | None, tracking_uri: str | None, max_size: int | None, *, json_: bool
) -> None:
    from tailrace_agent.cli._deliver import Tick
    from tailrace_agent.cli._imported import conclude, print_imported
    from tailrace_agent.cli._progress import Progress
    from tailrace_agent.reading.archive import ArchiveReader

    quieten_mlflow()
    done: list[Imported] = []
    with ArchiveReader(path, max_size) as archive, Progress(quiet=json_) as progress:
        # Only once the archive is known to be one: it imports MLflow.
        from tailrace_agent.reading.import_ import import_runs
        from tailrace_agent.reading.reader import open_reader

        uri = app.store(app.settings(tracking_uri))
        reader = open_reader(uri, str(Path.cwd()), create=True)

        def show(name: str, at: int, total: int, note: str) -> None:
            if name != progress.name:
                progress.begin(name)
            progress.tick(Tick(at, total, note=note))

        for each in import_runs(reader, archive, experiment, show):
            done.append(each)
            if not json_:
                print_imported(each)
    conclude(done, reader.name, json_=json_)
