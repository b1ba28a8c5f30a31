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
    as_json,
    byte_size,
    console,
    count,
    json_option,
    leave,
    print_line,
    quieten_mlflow,
    uri_option,
)
from tailrace_agent.runtime import interpreter

if TYPE_CHECKING:
    from tailrace_agent.reading.import_ import Imported


@click.command("import")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@click.option("--experiment", metavar="NAME", help="Experiment for all of them (default: each keeps its own).")
@uri_option("The store that they go to (default: the setting).")
@click.option(
    "--max-size",
    metavar="SIZE",
    callback=byte_size,
    help="Bound of what it becomes: 500MB, 4GiB (default: 1GiB, or 20 times the archive's size if that is more).",
)
@json_option
@click.pass_obj
def command(
    app: App, path: Path, experiment: str | None, tracking_uri: str | None, max_size: int | None, json_: bool
) -> None:
    """Put the runs of an archive into MLflow, with their steps, times, status and nesting.

    FILE is what `tailrace export` has written, or the directory `reports` that runs leave with tracking off. Each run
    arrives once: one that is there already is left alone, and one that an import left half done is deleted and imported
    anew. So if anything goes wrong, do it again.
    """
    if path.is_dir():
        _import_reports(app, path, experiment, tracking_uri, max_size, json_=json_)
    _import_archive(app, path, experiment, tracking_uri, max_size, json_=json_)


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
    from tailrace_agent.cli._progress import Progress
    from tailrace_agent.reading.archive import ArchiveReader

    quieten_mlflow()
    done: list[Imported] = []
    with ArchiveReader(path, max_size) as archive, Progress(quiet=json_) as progress:
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
                _print_imported(each)
    imported = sum(each.outcome == "imported" for each in done)
    if json_:
        as_json({"store": reader.name, "runs": done})
    else:
        there = f", {len(done) - imported} there before" if imported < len(done) else ""
        print_line(console(), f"{count(imported, 'run')} imported into {reader.name}{there}")


def _print_imported(each: Imported) -> None:
    name = f"{each.run_name or each.source_run_id[:8]} → {each.run_id} ({each.experiment})"
    if each.outcome == "there":
        print_line(console(), f"{name}: is there already", "dim")
        return
    print_line(console(), f"{name}: {count(each.points, 'point')}, {count(each.artifacts, 'artifact')}")
