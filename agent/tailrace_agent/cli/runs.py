"""`tailrace runs`: what MLflow has, as a table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tailrace_agent.cli._app import (
    App,
    Code,
    Fail,
    ago,
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
    from collections.abc import Sequence

    from tailrace_agent.reading.record import RunRecord

_METRICS = 3
_STYLES = {"FAILED": "red", "KILLED": "red", "RUNNING": "green"}


@click.command("runs")
@click.option("--experiment", multiple=True, metavar="NAME", help="Only this experiment (name or id). Repeatable.")
@click.option("--filter", "filter_", default="", metavar="QUERY", help='MLflow\'s filter: "metrics.loss < 0.1".')
@click.option("--order-by", multiple=True, metavar="COLUMN", help='As "metrics.loss ASC" (default: newest first).')
@click.option("--metric", multiple=True, metavar="NAME", help="Metrics to show, patterns too: 'val/*'. Repeatable.")
@click.option("--param", multiple=True, metavar="NAME", help="Params to show. Repeatable.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many runs at most.")
@uri_option("The store to look at (default: the setting).")
@json_option
@click.pass_obj
def command(  # noqa: PLR0913, PLR0917 - an argument for each option
    app: App,
    experiment: tuple[str, ...],
    filter_: str,
    order_by: tuple[str, ...],
    metric: tuple[str, ...],
    param: tuple[str, ...],
    limit: int,
    tracking_uri: str | None,
    json_: bool,
) -> None:
    """List runs in MLflow, with the last value of their metrics.

    \b
    tailrace runs --experiment digits --order-by "metrics.val/loss ASC" --limit 5
    tailrace runs --filter "params.lr = '0.1' and attributes.status = 'FINISHED'" --metric 'val/*' --param lr

    What is still on its way to MLflow is not there: `tailrace status` shows it.
    """  # noqa: D301 - click wants the character itself
    from tailrace_agent.cli._reading import chosen_metrics, open_store, rows_of_json
    from tailrace_agent.errors import Refused

    reader = open_store(app, tracking_uri)
    names = reader.experiments()
    try:
        ids = reader.experiment_ids(experiment) if experiment else list(names)
        found = reader.search(ids, filter_, order_by, limit + 1)  # one more than is shown: to know of others
    except Refused as error:
        raise Fail(str(error), Code.USAGE) from error
    records = [reader.record(run) for run in found]
    shown = records[:limit]
    if json_:
        as_json(
            {
                "store": reader.name,
                "runs": [{**row, "experiment": names.get(row["experiment_id"])} for row in rows_of_json(shown)],
                "more": len(records) > limit,
            }
        )
        return
    _print(shown, chosen_metrics(shown, metric, _METRICS) if shown else [], param, names)
    if not shown:
        click.echo(f"{reader.name} has no such run")
    elif len(records) > limit:
        print_line(console(), f"the first {count(limit, 'run')}; --limit shows more", "dim")


def _print(
    records: Sequence[RunRecord], metrics: Sequence[str], params: Sequence[str], experiments: dict[str, str]
) -> None:
    from rich.text import Text

    from tailrace_agent.cli._reading import shortest_ids, table

    if not records:
        return
    several = len({record.experiment_id for record in records}) > 1
    columns = [("RUN", "left"), ("NAME", "left"), *([("EXPERIMENT", "left")] if several else []), ("STATUS", "left")]
    columns += [("STARTED", "right"), ("TOOK", "right"), *((name, "left") for name in params)]
    rows = table([*columns, *((name, "right") for name in metrics)])
    ids, now = shortest_ids(record.run_id for record in records), time.time()
    for record in records:
        where = [experiments.get(record.experiment_id, record.experiment_id)] if several else []
        rows.add_row(
            ids[record.run_id],
            record.run_name or "-",
            *where,
            Text(record.status, _STYLES.get(record.status, "")),
            ago(record.start_time.timestamp(), now),
            duration(record.duration) if record.duration is not None else "-",
            *(record.params.get(name, "-") for name in params),
            *(number(record.metrics.get(name)) for name in metrics),
        )
    console().print(rows)
