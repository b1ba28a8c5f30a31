"""`tailrace doctor`: what would stop this machine from working, and the mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tailrace_agent.cli._app import App, Code, as_json, console, count, json_option, leave, quieten_mlflow, uri_option

if TYPE_CHECKING:
    from tailrace_agent.cli._checks import Check

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command("doctor")
@uri_option("The store to check (default: the setting, or sqlite:///mlflow.db here).")
@json_option
@click.pass_obj
def command(app: App, tracking_uri: str | None, json_: bool) -> None:
    """Check this machine, and say what to do about what is wrong.

    Whether log() is compiled, the state directory (writable, room, file system), shared memory, locks, starting a
    process, the clock, MLflow, the tracking store (with one request), reflinks for artifacts, the GPU library, and
    what is left over. Nothing is changed, and no store is created.

    Exit code 1 if anything fails; warnings are no failure.
    """
    quieten_mlflow()
    checks = _all(app, tracking_uri)
    if json_:
        as_json({"checks": checks})
    else:
        _print(checks)
    leave(Code.WRONG if any(check.result == "fail" for check in checks) else Code.FINE)


def _all(app: App, tracking_uri: str | None) -> list[Check]:
    from tailrace_agent.cli import _checks, _checks_store
    from tailrace_agent.cli._checks import Check
    from tailrace_agent.errors import SettingsError

    checks = [_checks.program(), _checks.hot_path()]
    try:
        settings = app.settings(tracking_uri)
    except SettingsError as error:
        return [*checks, Check(name="settings", result="fail", text=str(error), mend="mend it; nothing works before")]
    state = _checks.state(settings)
    checks += [*state, *_checks.shared_memory(settings), _checks.processes(settings)]
    if state[0].result != "fail":  # these write into the state directory
        checks += [_checks.clock(settings), _checks.copies(settings), *_checks_store.sessions(settings)]
    mlflow = _checks_store.mlflow()
    checks.append(mlflow)
    if mlflow.result == "ok":  # opening a store imports it
        checks.append(_checks_store.store(app, settings))
    return [*checks, _checks_store.gpu()]


def _print(checks: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        text = Text(check.text)
        if check.mend:
            text.append(f"\n→ {check.mend}", style=_COLOURS[check.result])
        table.add_row(Text(check.result, style=_COLOURS[check.result]), check.name, text)
    out.print(table)
    fails, warnings = (sum(check.result == what for check in checks) for what in ("fail", "warn"))
    if fails:
        out.print(f"\n{count(fails, 'failure')}, {count(warnings, 'warning')}", style="bold red")
    else:
        out.print(f"\nthis machine works, {count(warnings, 'warning')}" if warnings else "\nthis machine works")
