"""`tailrace stop`: asks a program to end its run."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tailrace_agent.cli._app import (
    App,
    Code,
    Fail,
    as_json,
    console,
    json_option,
    print_line,
    quieten_mlflow,
    uri_option,
)
from tailrace_agent.errors import Refused, RunGone, Unavailable
from tailrace_agent.ipc.tags import STOP_NOW, STOP_TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace_agent.sinks.base import StoredRun

_TAG_CHARS: Final = 200


@click.command("stop")
@click.argument("run")
@click.option("--now", is_flag=True, help="Do not wait for the program to look: it gets SIGTERM.")
@click.option("--reason", metavar="TEXT", default="", help="Why, for the tag of the run's end.")
@uri_option("The store that has the run (default: the setting).")
@json_option
@click.pass_obj
def command(app: App, run: str, now: bool, reason: str, tracking_uri: str | None, json_: bool) -> None:
    """Ask the program of RUN (a name, or the beginning of an id) to stop, wherever it runs.

    \b
    tailrace stop digits-003319 --reason "the loss has not moved since noon"
    tailrace stop 67ebc206 --now

    Sets the tag tailrace.stop of the run, as MLflow's UI can: the run's agent sees it within 15 seconds, and
    should_stop() becomes True in the program. The run ends when the program ends it; the tag tailrace.stopped_by then
    says who has asked.
    """  # noqa: D301 - click wants the character itself
    from tailrace_agent.sinks.mlflow import open_sink

    settings = app.settings(tracking_uri)
    quieten_mlflow()
    sink = open_sink(app.store(settings), str(Path.cwd()), request_timeout=settings.request_timeout)
    try:
        found = _running(run, sink.find_runs(run))
        who = f"{getpass.getuser()}@{os.uname().nodename}"
        text = f"{f'{STOP_NOW}: ' if now else ''}{who}{f': {reason}' if reason else ''}"[:_TAG_CHARS]
        sink.log_batch(found.ref.run_id, tags=[(STOP_TAG, text)])
    except (Unavailable, Refused, RunGone) as error:
        raise Fail(str(error), Code.STORE) from error
    if json_:
        as_json({"run_id": found.ref.run_id, "run_name": found.ref.run_name, "tag": STOP_TAG, "value": text})
        return
    print_line(console(), f"run {found.ref.run_name!r} is asked to stop; its program hears of it within 15 s")


def _running(text: str, found: Sequence[StoredRun]) -> StoredRun:
    """The one of them that runs."""
    running = [run for run in found if run.status == "RUNNING"]
    if len(running) == 1:
        return running[0]
    if running:
        ids = ", ".join(run.ref.run_id for run in running)
        raise Fail(f"{text!r} fits {len(running)} runs that are running: {ids}. Give the id of one.", Code.UNKNOWN)
    if found:
        raise Fail(f"run {text!r} is {found[0].status}: there is nothing to stop", Code.USAGE)
    raise Fail(f"there is no run {text!r} in this store; --tracking-uri names another one", Code.UNKNOWN)
