"""`tailrace compare`: runs side by side, what differs first."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from tailrace_agent.cli._app import (
    App,
    Fail,
    as_json,
    console,
    count,
    duration,
    json_option,
    number,
    print_line,
    uri_option,
)

if TYPE_CHECKING:
    from tailrace_agent.reading.comparison import Comparison

_PARAMS, _METRICS = "params.", "metrics."


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN…")
@click.option("--metric", multiple=True, metavar="NAME", help="Metrics to compare by last, smallest and largest value.")
@click.option("--plot", metavar="FILE", help="Draw the metrics over the steps into a .png, .svg or .pdf file.")
@click.option("--all", "all_", is_flag=True, help="Also what is the same in every run, and system metrics.")
@uri_option("The store to look at (default: the setting).")
@json_option
@click.pass_obj
def command(
    app: App,
    runs: tuple[str, ...],
    metric: tuple[str, ...],
    plot: str | None,
    all_: bool,
    tracking_uri: str | None,
    json_: bool,
) -> None:
    """Put runs side by side: the params and metrics that differ.

    RUN is MLflow's run id, tailrace's id, the beginning of one, the run's name, or the beginning of its name. Of
    several runs with that name the newest is meant, which is said.

    \b
    tailrace compare baseline wide
    tailrace compare baseline wide --metric 'val/*' --plot runs.png

    --metric takes names and patterns, and may be repeated. Over HTTP the smallest and largest values of runs that go
    on, or that tailrace has not logged, take a moment: their histories have to be read.
    """  # noqa: D301 - click wants the character itself
    from tailrace_agent.cli._reading import newest, open_store

    reader = open_store(app, tracking_uri)
    from tailrace_agent.reading.comparison import compare

    found = {run.info.run_id: run for run in reader.find_all(runs, newest)}  # a run that is named twice is one row
    comparison = compare(reader, list(found.values()), metric)
    if json_:
        as_json(_plain(comparison, reader.name))
    else:
        _print(comparison, all_=all_)
    if plot is not None:
        try:
            comparison.plot(list(metric) or None, save=plot)
        except ValueError as error:  # of matplotlib: an ending that it does not know
            raise Fail(f"{plot}: {error}") from error
        click.echo(f"drawn into {plot}", err=True)


def _plain(comparison: Comparison, store: str) -> dict[str, Any]:
    rows = []
    for run_id, row in comparison.iterrows():
        facts = {"run_id": str(run_id), "run_name": row["run_name"], "status": row["status"]}
        values = {str(key): value for key, value in row.items() if str(key).startswith((_PARAMS, _METRICS))}
        rows.append({**facts, **{key: None if value != value else value for key, value in values.items()}})  # noqa: PLR0124
    return {"store": store, "differing": comparison.differing, "runs": rows}


def _print(comparison: Comparison, *, all_: bool) -> None:
    from tailrace_agent.cli._reading import shortest_ids, table

    ids = shortest_ids(str(run_id) for run_id in comparison.index)
    names = [
        str(name) or ids[str(run_id)] for run_id, name in zip(comparison.index, comparison["run_name"], strict=True)
    ]
    out = table([("", "left"), *((name, "left") for name in names)])
    out.add_row("run", *ids.values(), style="dim")
    out.add_row("status", *comparison["status"])
    out.add_row("took", *(duration(s) if s == s else "-" for s in comparison["duration"]))  # noqa: PLR0124 - NaN
    differing, machine = set(comparison.differing), set(comparison.machine)
    columns = [str(column) for column in comparison.columns if str(column).startswith((_PARAMS, _METRICS))]
    hidden: Counter[str] = Counter()
    for column in columns:
        if column in comparison.ends:
            continue  # shown beside the last value
        group = {column, *(comparison.ends & {f"{column}.min", f"{column}.max"})}
        if not all_ and not group & differing:
            hidden["machine" if column in machine else "same"] += 1
            continue
        out.add_row(column.partition(".")[2], *_cells(comparison, column), style="" if group & differing else "dim")
    console().print(out)
    words = []
    if hidden["same"]:
        words.append(f"{count(hidden['same'], 'param or metric is', 'params and metrics are')} the same")
    if hidden["machine"]:
        words.append(f"{count(hidden['machine'], 'system metric is', 'system metrics are')} left out")
    if words:
        print_line(console(), f"{', '.join(words)}; --all shows them", "dim")


def _cells(comparison: Comparison, column: str) -> list[str]:
    if column.startswith(_PARAMS):
        return ["-" if value is None or value != value else str(value) for value in comparison[column]]  # noqa: PLR0124
    last = [_shown(value) for value in comparison[column]]
    names = [f"{column}.min", f"{column}.max"]
    if not comparison.ends.intersection(names):
        return last
    # One may be missing: its name is that of another metric.
    shown = [[_shown(v) for v in comparison[x]] if x in comparison.ends else [""] * len(last) for x in names]
    return [f"{value}  ({low} … {high})" for value, low, high in zip(last, *shown, strict=True)]


def _shown(value: float) -> str:
    return number(None if value != value else float(value))  # noqa: PLR0124 - NaN: the run does not have it
