"""`tailrace dead`: what MLflow has refused, and what to do with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tailrace_agent.cli._app import (
    App,
    Code,
    Fail,
    ago,
    as_json,
    confirm,
    console,
    count,
    json_option,
    leave,
    print_line,
    quieten_mlflow,
)

if TYPE_CHECKING:
    from tailrace_agent.cli._deliver import Result
    from tailrace_agent.cli._letters import Letter
    from tailrace_agent.settings.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_run_option = click.option("--run", metavar="RUN", help="Only those of one run: its name, or the beginning of an id.")
_key_option = click.option("--key", metavar="KEY", help="Only those of one metric, param, tag or artifact.")
_pending_option = click.option("--pending", is_flag=True, help="Every artifact that waits, instead of dead letters.")


@click.group("dead")
def command() -> None:
    """What MLflow has refused for what it is (a name it does not allow, a param that has another value already).

    Dead letters are kept in the session, with the reason, until they are delivered under another name, dropped, or the
    session is deleted. A session whose program still runs has to end first.

    Artifacts that wait because their store does not take them are listed, too. Their ids have a p: ab12cd:p7.
    """


@command.command("list")
@_run_option
@_key_option
@_pending_option
@json_option
@click.pass_obj
def list_(app: App, run: str | None, key: str | None, pending: bool, json_: bool) -> None:
    """List dead letters, and artifacts that cannot be stored: what has the same key and reason in one line.

    --json lists each by itself. Exit code 1 when there are any.
    """
    from tailrace_agent.cli._letters import collect
    from tailrace_agent.cli._reading import newest

    letters, silent = collect(app.settings(), run, newest, pending=pending, key=key)
    if json_:
        as_json({"dead_letters": [letter.summary() for letter in letters], "not_read": silent})
    else:
        _print(letters)
    for reason in silent:
        click.echo(f"tailrace: not listed: {reason}", err=True)
    leave(Code.WRONG if letters else Code.FINE)


@command.command("retry")
@click.argument("ids", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All of them.")
@_run_option
@_key_option
@click.option(
    "--rename", multiple=True, metavar="OLD=NEW", help="Deliver it under another name, an artifact too. Repeatable."
)
@json_option
@click.pass_obj
def retry(
    app: App,
    ids: tuple[str, ...],
    all_: bool,
    run: str | None,
    key: str | None,
    rename: tuple[str, ...],
    json_: bool,
) -> None:
    """Put dead letters on the way again, and deliver them.

    \b
    tailrace dead retry ab12cd:1 ab12cd:2
    tailrace dead retry --all --run baseline --rename "loss!=loss"
    tailrace dead retry ab12cd:p7 --rename "plots=plots/last.png"

    Exit codes: 0 all were delivered; 1 some were refused again, or are left; 3 a store cannot be reached; 5 live.
    """  # noqa: D301 - click reads the backspace
    names = _names(rename)
    quieten_mlflow()
    settings = app.settings()
    letters = _chosen(settings, ids, all_, run, key)
    if names:
        # A letter of several entries has no key of its own, so which names are in it is not known here.
        known = {letter.letter.key for letter in letters} | ({"*"} if any(x.letter.n > 1 for x in letters) else set())
        unknown = sorted(set(names) - known)
        if unknown and "*" not in known:
            raise Fail(f"none of these dead letters is named {', '.join(map(repr, unknown))}", Code.UNKNOWN)
    results = _deliver_again(settings, letters, names, quiet=json_)
    if json_:
        as_json({"retried": len(letters), "sessions": results})
    again = any(result.dead for result in results)
    leave(max([Code.WRONG if again else Code.FINE, *(result.code for result in results)]))


@command.command("drop")
@click.argument("ids", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All of them.")
@_run_option
@_key_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(app: App, ids: tuple[str, ...], all_: bool, run: str | None, key: str | None, yes: bool) -> None:
    """Delete dead letters for good. The ledger counts them as dropped from then on.

    An artifact that waits is dropped by its id, also one that has not been tried yet (`tailrace dead list --pending`).
    """
    from tailrace_agent.cli._letters import discard

    letters = _chosen(app.settings(), ids, all_, run, key)
    entries = sum(letter.letter.n for letter in letters)
    if not yes:
        _print(letters)
        confirm(f"Delete {count(entries, 'entry', 'entries')} for good?")
    for _, group in groupby(letters, key=lambda letter: letter.session.id):
        several = list(group)
        lock = _lock(several[0])
        try:
            discard(several[0].session, several)
            if (several[0].session.dir / "finished").exists():
                several[0].session.remove_shared()
        finally:
            os.close(lock)
    click.echo(f"{count(entries, 'entry', 'entries')} dropped")


def _chosen(settings: Settings, ids: tuple[str, ...], all_: bool, run: str | None, key: str | None) -> list[Letter]:
    from tailrace_agent.cli._letters import collect, select

    if bool(ids) == (all_ or run is not None or key is not None):  # either ids or a choice: both could contradict
        raise click.UsageError(
            "name the dead letters (`tailrace dead list` shows their ids), or say --all, --run RUN or --key KEY"
        )
    letters, silent = collect(settings, run, key=key, take_over=True)
    if any(":p" in text for text in ids):  # one that waits and has not failed is not among them
        waiting, _ = collect(settings, run, pending=True)
        letters = [letter for letter in letters if not letter.pending] + waiting
    chosen = select(letters, ids) if ids else letters
    if not chosen:
        raise Fail("; ".join(["there are no such dead letters", *silent]), Code.BUSY if silent else Code.UNKNOWN)
    return chosen


def _deliver_again(settings: Settings, letters: list[Letter], names: dict[str, str], *, quiet: bool) -> list[Result]:
    from tailrace_agent.cli._credentials import known_credentials
    from tailrace_agent.cli._deliver import Foreground, Patience
    from tailrace_agent.cli._letters import put_back
    from tailrace_agent.cli._progress import Progress
    from tailrace_agent.cli.sync import report

    results = []
    with Progress(quiet=quiet) as progress:
        for _, group in groupby(letters, key=lambda letter: letter.session.id):
            several = list(group)
            session = several[0].session
            progress.begin(f"{session.id.rpartition('-')[2]} {session.info.program}")
            lock = _lock(several[0])
            try:
                put_back(session, several, names)
            except BaseException:
                os.close(lock)
                raise
            results.append(Foreground(session, lock, known_credentials(settings)).run(progress.tick, Patience()))
            report(results[-1], progress)
    return results


def _lock(letter: Letter) -> int:
    from tailrace_agent.cli._holding import take_over
    from tailrace_agent.cli._look import Busy

    lock = take_over(letter.session)
    if lock is None:
        raise Busy(letter.session)
    return lock


def _names(rename: tuple[str, ...]) -> dict[str, str]:
    names = {}
    for text in rename:
        old, equals, new = text.rpartition("=")  # from the right: the refused name is the one that may hold a `=`
        if not (old and equals and new):
            raise click.UsageError(f"--rename {text!r} is not OLD=NEW")
        names[old] = new
    return names


def _print(letters: list[Letter]) -> None:
    from rich.table import Table

    if not letters:
        click.echo("no dead letters")
        return
    groups: dict[tuple[str | None, str, str, str, bool], list[Letter]] = {}
    for each in letters:
        letter = each.letter
        same = (each.run_id or each.run_name, letter.kind, letter.key, letter.reason, each.pending)
        groups.setdefault(same, []).append(each)
    out, now = console(), time.time()
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("ID", "RUN", "KIND", "KEY", "ENTRIES", "VALUE", "WHEN"):
        table.add_column(name, overflow="fold", no_wrap=name in ("ID", "KIND", "ENTRIES", "WHEN"))
    for several in groups.values():
        last = several[-1]
        when = ago(last.letter.at, now) if last.letter.at else "waits"
        entries = f"{sum(each.letter.n for each in several):,}"
        ids = last.id if len(several) == 1 else f"{several[0].id} … {last.id.rpartition(':')[2]}"
        kind = f"{last.letter.kind}{', waits' if last.pending else ''}"
        table.add_row(ids, last.run_name or "-", kind, last.letter.key, entries, last.value, when)
    out.print(table)
    reasons: dict[str, list[str]] = {}
    for several in groups.values():
        if several[0].letter.reason:
            reasons.setdefault(several[0].letter.reason, []).append(several[0].letter.key)
    for reason, keys in reasons.items():
        named = ", ".join(dict.fromkeys(keys[:6]))
        print_line(out, f"{named}{', …' if len(keys) > 6 else ''}: {reason}", "yellow")
