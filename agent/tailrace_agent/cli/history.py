"""`tailrace history`: every value of one metric."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from tailrace_agent.cli._app import App, Code, Fail, console, count, json_option, print_line, quieten_mlflow, uri_option

if TYPE_CHECKING:
    from tailrace_agent.cli._runs import LocalRun
    from tailrace_agent.reading.reader import Reader

_Point: TypeAlias = tuple[int, float, float]
"""Step, seconds since the epoch, value."""
_AT_ONCE: Final = 1_000


@click.command("history")
@click.argument("run")
@click.argument("key")
@uri_option("The store to look at (default: the run's own, else the setting).")
@json_option
@click.pass_obj
def command(app: App, run: str, key: str, tracking_uri: str | None, json_: bool) -> None:
    """Print every value of one metric: step, time, value.

    \b
    tailrace history baseline val/loss
    tailrace history baseline val/loss --json | jq '.points[][2]'

    Values come as they are read, so a long history takes no memory: those of MLflow by step, then what an ended program
    has left on this machine. What a live one has on its way to MLflow is counted in a line on standard error.

    RUN is MLflow's run id, tailrace's id, the beginning of one, or the run's name.
    """  # noqa: D301 - click wants the character itself
    quieten_mlflow()
    local, reader, stored = _found(app, run, tracking_uri)
    pending = 0
    waiting: list[_Point] = []
    for entry in local:
        found = _waiting(entry, key)
        if found is None:
            pending += entry.run.pending
        else:
            waiting += found
    points: Iterator[_Point] = iter(waiting)
    if stored is not None and key in stored.data.metrics:
        points = chain(_stored(reader, stored.info.run_id, key), points)
    elif not waiting:
        raise _unknown(run, key, stored, pending)
    head = {
        "run_id": stored.info.run_id if stored is not None else None,
        "run_name": stored.info.run_name if stored is not None else local[0].run.run_name,
        "key": key,
    }
    (_print_json if json_ else _print)(head, points)
    if pending:
        text = f"the run is live: {count(pending, 'entry', 'entries')} of all its metrics on the way to MLflow"
        print_line(console(stderr=True), f"tailrace: {text}", "dim")


def _found(app: App, text: str, tracking_uri: str | None) -> tuple[list[LocalRun], Reader, Any | None]:
    """What this machine knows of a run, the store that it is in, and the run there."""
    from pathlib import Path

    from tailrace_agent.cli._credentials import known_credentials, with_credentials
    from tailrace_agent.cli._reading import newest, open_store
    from tailrace_agent.cli._runs import find_named
    from tailrace_agent.reading.reader import open_reader

    local = find_named(app, text, tracking_uri)
    if not local:
        reader = open_store(app, tracking_uri)
        return [], reader, reader.find(text, newest)
    known = known_credentials(app.settings(tracking_uri))
    reader = open_reader(with_credentials(local[0].store, known), str(Path.cwd()), own_process=True)
    run_id = next((entry.run.run_id for entry in local if entry.run.run_id), None)
    return local, reader, reader.find(run_id) if run_id is not None else None


def _waiting(entry: LocalRun, key: str) -> list[_Point] | None:
    """What of a metric is in the session's spool; None while its agent holds it."""
    from tailrace_agent.cli._look import Busy, reading
    from tailrace_agent.spool.blocks import decode_rows

    found: list[_Point] = []
    number = int(entry.run.run, 16)
    try:
        with reading(entry.session) as spool:
            blocks = spool.waiting.oldest(number, "metric", 2**62) if spool is not None else []
            for block in blocks:
                for _, step, time_ns, values in decode_rows(block.body) if block.body else ():
                    if key in values:
                        found.append((step, time_ns / 1e9, float(values[key])))
    except Busy:
        return None
    return sorted(found)


def _stored(reader: Reader, run_id: str, key: str) -> Iterator[_Point]:
    for piece in reader.points(run_id, key):
        for step, time_ms, value in piece:
            yield step, time_ms / 1000, value


def _unknown(text: str, key: str, stored: Any | None, pending: int) -> Fail:
    from tailrace_agent.reading.candidates import nearest

    known = stored.data.metrics if stored is not None else {}
    more = f"; {count(pending, 'entry is', 'entries are')} on the way" if pending else ""
    return Fail(f"run {text!r} has no metric {key!r} in MLflow{nearest(key, known)}{more}", Code.UNKNOWN)


def _print(head: dict[str, Any], points: Iterator[_Point]) -> None:
    del head
    click.echo("STEP\tTIME\tVALUE")
    for lines in _some(f"{step}\t{_time(seconds)}\t{value!r}" for step, seconds, value in points):
        click.echo("\n".join(lines))


def _print_json(head: dict[str, Any], points: Iterator[_Point]) -> None:
    """One object, written as it comes; a value that JSON does not have is a text, as in MLflow's own."""
    import msgspec

    from tailrace_agent.text.utf8 import encoded

    click.echo(encoded(msgspec.json.encode, head).decode()[:-1] + ', "points": [', nl=False)
    comma = ""
    for lines in _some(f"[{step}, {round(seconds * 1000)}, {_number(value)}]" for step, seconds, value in points):
        click.echo(f"{comma}\n" + ",\n".join(lines), nl=False)
        comma = ","
    click.echo("\n]}")


def _some(lines: Iterator[str]) -> Iterator[list[str]]:
    """Several lines at once: each write takes its time."""
    while some := list(islice(lines, _AT_ONCE)):
        yield some


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'"{_words(value)}"'


def _words(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):  # a time that no calendar has
        return f"{seconds:.3f}"
