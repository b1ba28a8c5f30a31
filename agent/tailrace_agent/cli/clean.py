"""`tailrace clean`: deletes what is finished, and what is undelivered only on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tailrace_agent.cli._app import (
    App,
    Code,
    age,
    as_json,
    confirm,
    console,
    count,
    json_option,
    leave,
    print_line,
    size,
)

if TYPE_CHECKING:
    from tailrace_agent.cli._litter import Litter


@click.command("clean")
@click.option(
    "--older-than", callback=age, metavar="AGE", help="Age of finished sessions, as 7d or 12h (default: keep_days)."
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--discard-undelivered", is_flag=True, help="Also what never reached MLflow. Asks first.")
@json_option
@click.pass_obj
def command(
    app: App, older_than: float | None, dry_run: bool, yes: bool, discard_undelivered: bool, json_: bool
) -> None:
    """Delete finished sessions, and what dead ones have left in shared memory.

    A finished session is one of which MLflow has everything; it stays for `tailrace verify` for keep_days (7). What
    still holds something undelivered (pending entries, dead letters, unread rings) is kept, and named, unless
    --discard-undelivered says otherwise. Live sessions and those of other hosts are never touched.

    Agents delete finished sessions by themselves after keep_days; this is for when you want the room now.
    """
    from tailrace_agent.cli._litter import find, remove

    settings = app.settings()
    least = settings.keep_days * 86400 if older_than is None else older_than
    found = find(settings, least)
    chosen = [litter for litter in found if not litter.undelivered or discard_undelivered]
    kept = [litter for litter in found if litter not in chosen]
    failed: dict[str, str] = {}
    if not json_:
        _print(chosen, kept, dry_run)
    if chosen and not dry_run:
        if not yes:
            lost = sum(litter.undelivered is not None for litter in chosen)
            warning = f", {lost} of them UNDELIVERED," if lost else ""
            confirm(f"Delete {count(len(chosen), 'item')}{warning} for good?", json_=json_)
        # Each by itself: one that has come to life keeps no other.
        failed = {litter.name: reason for litter in chosen if (reason := remove(settings, litter)) is not None}
        chosen = [litter for litter in chosen if litter.name not in failed]
    freed = sum(litter.bytes for litter in chosen)
    if json_:
        as_json({"dry_run": dry_run, "deleted": chosen, "kept": kept, "failed": failed, "freed_bytes": freed})
    elif chosen and not dry_run:
        click.echo(f"{size(freed)} freed")
    for name, reason in failed.items():
        print_line(console(stderr=True), f"not deleted  {name}  {reason}", style="red")
    leave(Code.WRONG if failed else Code.FINE)


def _print(chosen: list[Litter], kept: list[Litter], dry_run: bool) -> None:
    out = console()
    word = "would delete" if dry_run else "to delete"
    for litter in chosen:
        lost = f", with {litter.undelivered}" if litter.undelivered else ""
        style = "red" if litter.undelivered else ""
        print_line(out, f"{word}  {litter.name}  {litter.what}{lost}  {size(litter.bytes)}", style=style)
    for litter in kept:
        print_line(out, f"kept  {litter.name}  {litter.what}, with {litter.undelivered}", style="yellow")
    if kept:
        out.print("`tailrace sync` delivers what is pending, `tailrace dead` deals with what was refused", style="dim")
    if not chosen:
        out.print("nothing to delete")
