"""`tailrace export`: runs into an archive that can be kept, sent, and imported elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from tailrace_agent.cli._app import App, Fail, as_json, console, count, json_option, print_line, size, uri_option


@click.command("export")
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.option(
    "-o", "--output", default="runs.tailrace.zip", show_default=True, metavar="FILE", help="The archive to write."
)
@click.option("--nested", is_flag=True, help="Also the runs nested under these.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@uri_option("The store to read from (default: the setting).")
@json_option
@click.pass_obj
def command(
    app: App, runs: tuple[str, ...], output: str, nested: bool, force: bool, tracking_uri: str | None, json_: bool
) -> None:
    """Write runs into an archive: points, params, tags, inputs and artifacts, each with its checksum.

    \b
    tailrace export baseline wide -o runs.tailrace.zip
    tailrace import runs.tailrace.zip --tracking-uri http://mlflow:5000

    RUN is MLflow's run id, tailrace's id, the beginning of one, the run's name, or the beginning of its name. Of
    several runs with that name the newest is meant, which is said.

    The archive is a zip file of Parquet and JSON: pandas.read_parquet reads its metrics. It appears whole, or not.
    """  # noqa: D301 - click wants the character itself
    from tailrace_agent.cli._deliver import Tick
    from tailrace_agent.cli._progress import Progress
    from tailrace_agent.cli._reading import newest, open_store

    path = Path(output)
    if path.exists() and not force:
        raise Fail(f"{path} is there already; --force replaces it, -o gives another name")
    reader = open_store(app, tracking_uri, through_mlflow=True)
    from tailrace_agent.reading.export import children_of, export_runs

    chosen = list({run.info.run_id: run for run in reader.find_all(runs, newest)}.values())
    if nested:
        chosen += children_of(reader, chosen)
    with Progress(quiet=json_) as progress:

        def show(name: str, done: int, total: int, note: str) -> None:
            if name != progress.name:
                progress.begin(name)
            progress.tick(Tick(done, total, note=note))

        export_runs(reader, chosen, path, show)
    live = [run.info.run_name or run.info.run_id for run in chosen if run.info.status == "RUNNING"]
    written = path.stat().st_size
    if json_:
        as_json({"archive": str(path), "bytes": written, "runs": [run.info.run_id for run in chosen], "running": live})
        return
    for name in live:
        print_line(
            console(stderr=True), f"{name} is still running: the archive holds what MLflow has of it now", "yellow"
        )
    print_line(console(), f"{count(len(chosen), 'run')} in {path} ({size(written)})")
