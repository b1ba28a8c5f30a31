"""`tailrace top`: the runs as they are right now."""

from __future__ import annotations

import shutil
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import click

from tailrace_agent.cli._app import App, Code, Fail, uri_option

if TYPE_CHECKING:
    from tailrace_agent.top.source import Source

_ONCE_FOR: Final = 1.2
"""Seconds for which `--once` looks, so that agents have written their curves and rates are known."""
_STORE_FOR: Final = 30.0
"""Seconds that `--once` gives a store."""
_CLOSER_FOR: Final = 0.3
"""Seconds behind that for the extremes of what was sampled; of more points than that takes, some are drawn."""
_TICK: Final = 0.05
_INSTALL: Final = "the live view needs Textual: pip install 'tailrace[top]' (--once does without)"


@click.command("top")
@click.argument("runs", nargs=-1, metavar="[RUN]…")
@click.option("--filter", "filter_", default="", metavar="QUERY", help='MLflow\'s filter: "metrics.loss < 0.1".')
@click.option("--experiment", multiple=True, metavar="NAME", help="Only this experiment (name or id). Repeatable.")
@click.option("--metric", default="", metavar="PATTERN", help="Only metrics that fit: 'val/*', or a part of a name.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="How many runs at most.")
@click.option("--once", is_flag=True, help="Print one frame as text, and end.")
@uri_option("A store to look at, in place of this machine.")
@click.pass_obj
def command(
    app: App,
    runs: tuple[str, ...],
    filter_: str,
    experiment: tuple[str, ...],
    metric: str,
    limit: int,
    once: bool,
    tracking_uri: str | None,
) -> None:
    """Watch runs: charts of their metrics, the machine, ranks, delivery, alerts, the console.

    \b
    tailrace top                                          the runs of this machine
    tailrace top baseline wide                            only these
    tailrace top --tracking-uri http://mlflow:5000        those of a store, the newest first
    tailrace top --tracking-uri sqlite:///mlflow.db --filter "params.lr = '0.1'"

    What a program on this machine logs is on the screen half a second later: it comes from its session, and no server
    is asked. A store is asked every five seconds. `?` shows the keys, `q` quits.

    RUN is a run's id, the beginning of one, or its name.
    """  # noqa: D301 - click wants the character itself
    if not once and find_spec("textual") is None:
        raise Fail(_INSTALL, Code.USAGE)
    from tailrace_agent.cli._top import local_source, store_source
    from tailrace_agent.top.view import View

    if tracking_uri is None and not filter_ and not experiment:
        source: Source = local_source(app, runs)
    else:
        source = store_source(app, tracking_uri, runs, filter_, experiment, limit)
    view = View(pattern=metric)
    if once or not sys.stdout.isatty():
        _print_once(source, view)
        return
    from tailrace_agent.top.app import Top

    source.start()
    Top(source, view).run()


def _print_once(source: Source, view: object) -> None:
    from tailrace_agent.top.frame import frame
    from tailrace_agent.top.lines import plain_text
    from tailrace_agent.top.view import View

    assert isinstance(view, View)
    width, height = shutil.get_terminal_size((100, 40))
    began = time.monotonic()
    complete_at = float("inf")
    while True:
        source.step(time.monotonic())
        drawn = view.drawn
        known = source.look(drawn)
        view.settle([row.key for row in known.runs])
        source.show(frame(known, view, width, height).shown)
        age = time.monotonic() - began
        complete_at = min(complete_at, age) if view.drawn == drawn and source.complete else float("inf")
        held = any(row.live and row.accepted is not None for row in known.runs)  # by an agent, which is asked
        close = age >= complete_at and (source.closest or age > complete_at + _CLOSER_FOR)
        if close and (age > _ONCE_FOR or not held):
            break
        if age > _STORE_FOR or (known.fault and not known.runs):
            break
        time.sleep(0 if age >= complete_at and not source.closest else _TICK)
    if known.fault and not known.runs:
        raise Fail(known.fault, Code.STORE)
    for line in frame(known, view, width, height).lines[:-1]:  # without the keys
        click.echo(plain_text(line))
