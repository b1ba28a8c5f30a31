"""`tailrace gc`: old, failed or empty runs go from MLflow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from tailrace_agent.cli._app import (
    App,
    Code,
    age,
    ago,
    as_json,
    confirm,
    console,
    count,
    json_option,
    leave,
    print_line,
    uri_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace_agent.reading.cleanup import Candidate
    from tailrace_agent.settings.settings import Settings

_OVER = ("FINISHED", "FAILED", "KILLED")


def _statuses(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    del ctx, param
    names = tuple(name.strip().upper() for name in (value or "").split(",") if name.strip())
    for name in names:
        if name not in _OVER:
            raise click.BadParameter(f"{name!r} is none of {', '.join(_OVER)}")
    return names


@click.command("gc")
@click.option("--older-than", callback=age, metavar="AGE", help="Ended longer ago than this: 30d, 12h.")
@click.option("--status", callback=_statuses, metavar="STATUS", help="FINISHED, FAILED, KILLED; several with commas.")
@click.option("--empty", is_flag=True, help="Without metrics, params and artifacts.")
@click.option("--experiment", multiple=True, metavar="NAME", help="Only in this experiment (name or id). Repeatable.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--permanently", is_flag=True, help="Past MLflow's bin, artifacts too. Not over HTTP.")
@uri_option("The store to clean (default: the setting).")
@json_option
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 - an argument for each option
    app: App,
    older_than: float | None,
    status: tuple[str, ...],
    empty: bool,
    experiment: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    permanently: bool,
    tracking_uri: str | None,
    json_: bool,
) -> None:
    """Delete runs in MLflow that fit everything that is asked for.

    \b
    tailrace gc --status FAILED,KILLED --older-than 30d --dry-run
    tailrace gc --empty --experiment digits

    They go into MLflow's bin, from which `mlflow runs restore` brings them back and `mlflow gc` deletes them. Never
    touched are runs that are running, that hold a registered model, under which a run is nested that stays, or to
    which something is on its way from this machine.
    """  # noqa: D301 - click wants the character itself
    from tailrace_agent.cli._reading import open_store

    if older_than is None and not status and not empty:  # else it would be every run that is over
        raise click.UsageError("say which runs: --older-than, --status or --empty")
    reader = open_store(app, tracking_uri, through_mlflow=True)
    from tailrace_agent.reading.cleanup import choose, delete

    found = choose(
        reader,
        reader.experiment_ids(experiment, sure=True) if experiment else None,
        before=None if older_than is None else int((time.time() - older_than) * 1000),
        statuses=status,
        empty=empty,
        busy=_busy(app.settings()),
    )
    going = [each.run for each in found if each.kept is None]
    if not json_:
        _print(found, dry_run=dry_run)
    if going and not dry_run:
        if not yes:
            where = "for good, artifacts too" if permanently else "into MLflow's bin"
            confirm(f"Delete {count(len(going), 'run')} of {reader.name} {where}?", json_=json_)
        for run in going:
            delete(reader, run, permanently=permanently)
    if json_:
        kept = [{**_plain(each.run), "why": each.kept} for each in found if each.kept is not None]
        as_json({"store": reader.name, "dry_run": dry_run, "deleted": [_plain(run) for run in going], "kept": kept})
    elif going and not dry_run:
        back = "" if permanently else "; `mlflow runs restore --run-id ID` brings one back"
        print_line(console(), f"{count(len(going), 'run')} deleted{back}")
    leave(Code.FINE)


def _busy(settings: Settings) -> set[str]:
    """MLflow's ids of runs with something undelivered on this machine, or with an agent at work."""
    from tailrace_agent.cli._look import look_at_all

    return {
        run.run_id
        for view in look_at_all(settings)
        for run in view.runs
        if run.run_id and (run.pending or (view.state == "live" and run.state == "RUNNING"))
    }


def _plain(run: Any) -> dict[str, Any]:
    return {"run_id": run.info.run_id, "run_name": run.info.run_name, "status": run.info.status}


def _print(found: Sequence[Candidate], *, dry_run: bool) -> None:
    from tailrace_agent.cli._reading import shortest_ids, table

    if not found:
        click.echo("nothing to delete")
        return
    ids = shortest_ids(each.run.info.run_id for each in found)
    rows = table([("", "left"), *((name, "left") for name in ("RUN", "NAME", "STATUS", "STARTED", "HOLDS", "WHY"))])
    now, word = time.time(), "would delete" if dry_run else "to delete"
    for each in sorted(found, key=lambda each: each.kept is not None):
        info, data = each.run.info, each.run.data
        holds = f"{count(len(data.metrics), 'metric')}, {count(len(data.params), 'param')}"
        cells = (ids[info.run_id], info.run_name or "-", info.status, ago(info.start_time / 1000, now), holds)
        rows.add_row(word if each.kept is None else "kept", *cells, each.kept or "", style="dim" if each.kept else "")
    console().print(rows)
