"""`tailrace verify RUN`: is every point that was delivered in MLflow, and no other?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from tailrace_agent.cli._app import (
    App,
    Code,
    Fail,
    as_json,
    console,
    count,
    json_option,
    leave,
    print_line,
    quieten_mlflow,
    uri_option,
)
from tailrace_agent.errors import TailraceError

if TYPE_CHECKING:
    from tailrace_agent.cli._compare import Finding

_SHOWN = 20


@click.command("verify")
@click.argument("run")
@uri_option("Where the run is, when this machine has forgotten it (default: the setting).")
@json_option
@click.pass_obj
def command(app: App, run: str, tracking_uri: str | None, json_: bool) -> None:
    """Read a run's metric history back from MLflow and compare it with the ledger.

    RUN is MLflow's run id, tailrace's id, the beginning of one, or the run's name. Runs of the store in force come
    first: that of --tracking-uri, else of the setting. Of several with that name the newest is meant, which is said.

    While the session is here, every metric key is compared with what was delivered; later (or in a session that is
    live) the totals are, which tailrace stores with the run as the tag `tailrace.ledger`.

    Points that are pending, dead or dropped are shown: they are known not to be in MLflow.

    Exit codes: 0 equal; 1 different; 3 the store cannot be reached; 4 no such run.
    """
    quieten_mlflow()
    finding = _compared(app, run, tracking_uri)
    if json_:
        as_json({**msgspec.structs.asdict(finding), "equal": finding.equal})
    else:
        _show(finding)
    leave(Code.FINE if finding.equal else Code.WRONG)


def _compared(app: App, text: str, tracking_uri: str | None) -> Finding:
    """The run of this machine and the store in force, else of that store, else of this machine and any store."""
    from tailrace_agent.cli._compare import compare_with_sessions, compare_with_tag, find_stored
    from tailrace_agent.cli._reading import newest
    from tailrace_agent.cli._runs import find_local, known_runs

    settings = app.settings(tracking_uri)
    uri, known = app.store(settings), known_runs(settings)
    local = find_local(settings, known, text, newest, uri=uri)
    if not local and settings.tracking_uri is None:
        local = find_local(settings, known, text, newest)
    if local:
        return compare_with_sessions(settings, local, tracking_uri)
    try:
        stored = find_stored(settings, uri, text, newest)
    except (TailraceError, Fail) as error:
        local = [] if tracking_uri is not None else find_local(settings, known, text, newest)
        if not local:
            raise
        print_line(
            console(stderr=True), f"tailrace: {text!r} is in {local[0].store}, not in the store that is set: {error}"
        )
        return compare_with_sessions(settings, local, None)
    local = find_local(settings, known, stored.info.run_id, newest)
    if local:  # under an address that the store had before
        return compare_with_sessions(settings, local, uri)
    return compare_with_tag(settings, uri, stored)


def _show(finding: Finding) -> None:
    from rich.table import Table

    out = console()
    name = f"run {finding.run_id}" + (f" ({finding.run_name})" if finding.run_name else "")
    if not finding.differing:
        how = f"compared in {count(finding.keys, 'metric key')}" if finding.by_key else "compared in total"
        rows = count(finding.found, "point")
        print_line(out, f"{name}: equal. {rows} delivered, {finding.found:,} in MLflow; {how}", style="green")
    else:
        style = "yellow" if finding.equal else "red"
        word = "at least what was delivered is there" if finding.equal else "DIFFERENT"
        print_line(out, f"{name}: {word}", style=style)
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
        for column in ("METRIC", "DELIVERED", "IN MLFLOW", "DIFFERENCE"):
            table.add_column(column, justify="left" if column == "METRIC" else "right", overflow="fold")
        for key, (delivered, found) in list(finding.differing.items())[:_SHOWN]:
            label = "all metrics together" if key == "*" and not finding.by_key else key
            table.add_row(label, f"{delivered:,}", f"{found:,}", f"{found - delivered:+,}")
        out.print(table)
        if len(finding.differing) > _SHOWN:
            print_line(out, f"and {count(len(finding.differing) - _SHOWN, 'more key')}; --json lists all")
    if finding.live:
        print_line(out, f"the run is live: {count(finding.pending, 'entry', 'entries')} pending at the moment")
    elif finding.pending:
        print_line(out, f"{count(finding.pending, 'entry', 'entries')} pending: `tailrace sync`", style="yellow")
    if finding.shared and finding.found > finding.delivered:
        print_line(out, "the run was resumed: what is more in MLflow was logged by others, or before")
    if finding.dead:
        print_line(out, f"{count(finding.dead, 'dead letter')}: `tailrace dead list`", style="yellow")
    for reason, n in finding.dropped.items():
        print_line(out, f"{n:,} dropped: {reason}", style="yellow")
