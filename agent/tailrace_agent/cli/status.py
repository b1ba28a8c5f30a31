"""`tailrace status`: the sessions of this machine, and what became of their runs."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click

from tailrace_agent.cli._app import App, Code, ago, as_json, broken, console, count, duration, json_option, leave, size
from tailrace_agent.text.quoting import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tailrace_agent.cli._views import RunView, SessionView
    from tailrace_agent.settings.settings import Settings

_LATEST: Final = 3
_GOING_ON: Final = ("live", "starting")
_COLUMNS: Final = ("RUN", "NAME", "MLFLOW", "STATE", "DELIVERED", "PENDING", "DEAD", "DROPPED", "LAG")
_WIDE: Final = 100
_COLOURS: Final = {
    "live": "green", "finished": "green", "FINISHED": "green", "RUNNING": "cyan", "starting": "yellow",
    "leftover": "yellow", "UNKNOWN": "yellow", "KILLED": "red", "FAILED": "red", "unreadable": "red",
}  # fmt: skip


@click.command("status")
@click.option("--all", "all_", is_flag=True, help="Show every finished session too, not only the latest few.")
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
@json_option
@click.pass_obj
def command(app: App, all_: bool, watch: bool, json_: bool) -> None:
    """Show the sessions of this machine: their runs, and what is delivered, pending, dead, dropped.

    A session is one program's logging. Shown are those with something live, pending or dead, and the latest three
    others. LAG is how long the oldest pending point has waited. "In ring" is what a dead program has left in shared
    memory: the next `tailrace sync` takes it over.

    Exit code 1 when something needs you: a leftover session, a dead letter, a store that is away or refuses. `tailrace
    sync` then delivers it, or says what keeps it from that.
    """
    settings = app.settings()
    if watch:
        _watch(app, all_, json_)
        return
    views, shown = _look(settings, all_)
    if json_:
        as_json({"sessions": shown})
    else:
        _print(console(), shown, len(views) - len(shown))
    leave(Code.WRONG if any(view.needs_you for view in views) else Code.FINE)


def _look(settings: Settings, all_: bool) -> tuple[list[SessionView], list[SessionView]]:
    """Every session, and those that are to be shown, whole."""
    from tailrace_agent.cli._look import in_full, look_at_all

    views = look_at_all(settings)
    return views, [in_full(settings, view) for view in _chosen(views, all_)]


def _chosen(views: list[SessionView], all_: bool) -> list[SessionView]:
    """Those that are not just finished, and the latest others; the newest last, next to the prompt."""
    quiet = [view for view in views if view.state == "elsewhere" or not (view.needs_you or view.state in _GOING_ON)]
    hidden = set() if all_ else {view.id for view in quiet[_LATEST:]}
    return [view for view in reversed(views) if view.id not in hidden]


def _watch(app: App, all_: bool, json_: bool) -> None:
    from rich.live import Live

    settings, out = app.settings(), console()
    with suppress(KeyboardInterrupt):  # the way to end it
        if json_ or not out.is_terminal:
            while True:
                _, shown = _look(settings, all_)
                if json_:
                    as_json({"sessions": shown})
                else:
                    _print(out, shown, 0)
                time.sleep(1)
        with Live(console=out, auto_refresh=False, screen=True) as live:
            while True:
                newest_first = _look(settings, all_)[1][::-1]  # what does not fit is cut at the bottom
                live.update(_text(newest_first, out, time.time()), refresh=True)
                time.sleep(1)


def _print(out: Console, shown: list[SessionView], hidden: int) -> None:
    out.print(_text(shown, out, time.time()), end="", soft_wrap=True)
    left = sum(view.state == "leftover" for view in shown)
    dead = sum(view.dead for view in shown)
    if hidden:
        out.print(f"{count(hidden, 'finished session')} not shown: `tailrace status --all`", style="dim")
    if left:
        out.print(f"{count(left, 'session')} left over: `tailrace sync` delivers the rest", style="yellow")
    if dead:
        out.print(f"{count(dead, 'dead letter')}: `tailrace dead list` says why", style="yellow")


def _text(views: list[SessionView], out: Console, now: float) -> Text:
    from rich.text import Text

    width, wrap = out.width, out.width if out.is_terminal else None

    text = Text()
    if not views:
        return text.append("no sessions here: nothing has been logged, or all of it was cleaned away\n")
    rows = {view.id: [_row(run, width) for run in view.runs] for view in views}
    widths = _widths([_header(width), *(row for several in rows.values() for row in several)], width)
    for at, view in enumerate(views):
        text.append("\n" if at else "").append_text(_title(view, now)).append("\n")
        if view.runs:
            text.append(_line(_header(width), widths) + "\n", style="dim")
        for run, row in zip(view.runs, rows[view.id], strict=True):
            text.append_text(_coloured(run, row, widths)).append("\n")
            for problem in filter(None, [run.problem, _dropped(run)]):
                style = "red" if problem is run.problem else "yellow"
                text.append(broken(problem, wrap, 4 + widths[0]) + "\n", style=style)
    return text.append("\n")


def _title(view: SessionView, now: float) -> Text:
    from rich.text import Text

    title = Text(view.id, style="bold").append(f"  {plain(view.program)}  ", style="not bold")
    title.append(view.state, style=f"not bold {_COLOURS.get(view.state, '')}")
    facts = [f"started {ago(view.created, now)}"]
    if view.state == "elsewhere":
        facts.append(f"on {view.host}")
    if view.agent_pid is not None:
        facts.append(f"agent {view.agent_pid}")
    if view.metrics_url is not None:
        facts.append(f"metrics at {view.metrics_url}")
    if view.state == "live" and not view.trainer_alive:
        facts.append("its program has ended")
    if view.in_ring_bytes:
        facts.append(f"{size(view.in_ring_bytes)} in ring")
    title.append(f", {', '.join(facts)}", style="not bold dim")
    if view.problem:
        title.append(f"\n  {view.problem}", style="not bold red")
    if view.mend:
        title.append(f"\n  → {view.mend}", style="not bold yellow")
    return title


def _header(width: int) -> list[str]:
    return [column for column in _COLUMNS if width >= _WIDE or column != "MLFLOW"]


def _row(run: RunView, width: int) -> list[str]:
    mlflow = [run.run_id[:8] if run.run_id else "-"] if width >= _WIDE else []
    numbers = [f"{n:,}" for n in (run.delivered, run.pending, run.dead, sum(run.dropped.values()))]
    lag = duration(run.lag) if run.lag and run.pending else "-"
    name = (run.run_name or "-").replace("\n", "\\n")  # a row is one line
    return [run.run[:8], name, *mlflow, run.state, *numbers, lag]


def _widths(rows: list[list[str]], width: int) -> list[int]:
    """As wide as what is in it; the name gives way."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    room = width - 2 - sum(widths) - 2 * (len(widths) - 1) + widths[1]
    widths[1] = max(8, min(widths[1], room))
    return widths


def _line(cells: list[str], widths: list[int]) -> str:
    left = len(cells) - 5
    padded = [
        _cut(cell, wide).ljust(wide) if at < left else cell.rjust(wide)
        for at, (cell, wide) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  " + "  ".join(padded)


def _coloured(run: RunView, row: list[str], widths: list[int]) -> Text:
    from rich.text import Text

    text = Text(_line(row, widths))
    text.highlight_words([run.state], style=_COLOURS.get(run.state, ""))
    return text


def _cut(cell: str, wide: int) -> str:
    return cell if len(cell) <= wide else cell[: wide - 1] + "…"


def _dropped(run: RunView) -> str | None:
    return "; ".join(f"{n:,} dropped: {reason}" for reason, n in run.dropped.items()) or None
