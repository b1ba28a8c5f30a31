"""`tailrace top`: the runs as they are right now."""

from __future__ import annotations

import shutil
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import click

from tailrace_agent.cli._app import App, Code, Fail

if TYPE_CHECKING:
    from tailrace_agent.cli._views import RunView
    from tailrace_agent.ipc.session import Session
    from tailrace_agent.settings.settings import Settings
    from tailrace_agent.top.local import LocalRuns
    from tailrace_agent.top.rows import Known, RunRow

_ONCE_FOR: Final = 1.2
"""Seconds for which `--once` looks, so that agents have written their curves and rates are known."""


@click.command("top")
@click.option("--once", is_flag=True, help="Print one frame, as text, and end.")
@click.pass_obj
def command(app: App, once: bool) -> None:
    """Watch the runs of this machine: charts, the machine, ranks, delivery, alerts.

    \b
    tailrace top

    What a program logs is on the screen half a second later: it comes from its session, and no server is asked. `?`
    shows the keys.
    """  # noqa: D301 - click wants the character itself
    settings = app.settings()
    if once or not sys.stdout.isatty():
        _print_once(settings)
        return
    if find_spec("textual") is None:
        raise Fail("the live view needs Textual: pip install 'tailrace[top]' (`tailrace top --once` does not)", Code.USAGE)
    from tailrace_agent.top.app import Top
    from tailrace_agent.top.view import View

    local = _local(settings)
    Top(lambda keys: _known(local, keys), local.changed, View()).run()


def _local(settings: Settings) -> LocalRuns:
    from tailrace_agent.top.local import LocalRuns

    return LocalRuns(settings, _without_agent)


def _known(local: LocalRuns, keys: list[str]) -> Known:
    from tailrace_agent.top.rows import Known

    now = time.monotonic()
    rows = local.rows(now)
    courses = local.courses(keys, now)
    return Known(
        runs=rows, courses=dict(courses), left_out={key: local.left_out(key) for key in keys}, place="this machine"
    )


def _without_agent(session: Session) -> list[RunRow]:
    from tailrace_agent.cli._look import look

    return [_row(session, run) for run in look(session).runs]


def _row(session: Session, run: RunView) -> RunRow:
    from tailrace_agent.top.rows import RunRow

    return RunRow(
        key=f"{session.id}/{run.run}",
        name=run.run_name or run.run[:8],
        state=run.state,
        started=run.started,
        pending=run.pending,
        accepted=run.accepted,
        delivered=run.delivered,
        dead=run.dead,
        dropped=run.dropped,
        lag=run.lag,
        problem=run.problem,
        url=run.url,
        program=session.info.program,
        run_id=run.run_id,
        store=run.store,
    )


def _print_once(settings: Settings) -> None:
    from tailrace_agent.top.frame import frame
    from tailrace_agent.top.lines import plain_text
    from tailrace_agent.top.view import View

    local, view = _local(settings), View()
    width, height = shutil.get_terminal_size((100, 40))
    until = time.monotonic() + _ONCE_FOR
    while True:
        known = _known(local, view.drawn)
        view.settle([row.key for row in known.runs], 0)
        if time.monotonic() >= until or not any(row.live for row in known.runs):
            break
        time.sleep(0.1)
    for line in frame(known, view, width, height).lines[:-1]:  # without the keys
        click.echo(plain_text(line))
