"""`tailrace run`: starts a program in which MLflow logs through tailrace."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import entry_points

import click

from tailrace_agent.cli._app import App, Code, Fail
from tailrace_agent.settings.plug_in import INSTALLED, installed
from tailrace_agent.settings.uris import PLUG_IN

_GROUP = "mlflow.tracking_store"


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--offline", is_flag=True, help="Let runs begin while the tracking server is away.")
@click.option("--background-artifacts", is_flag=True, help="Let artifacts be uploaded in the background.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]...")
@click.pass_obj
def command(app: App, program: tuple[str, ...], offline: bool, background_artifacts: bool) -> None:
    """Start a script, with its MLflow calls going through tailrace. No line of it changes.

    SCRIPT is a Python file, `-m` and a module, or any program that starts Python, such as torchrun. What it starts in
    turn is served, too. It takes this command's place, so signals and exit codes are its own. What the options change
    stands in the page on integrations.
    """
    app.settings()  # what is wrong is reported before anything runs
    if not any(entry.name.startswith(PLUG_IN) for entry in entry_points(group=_GROUP)):
        raise Fail(
            "this tailrace was not installed by pip, so that MLflow cannot find it: install it anew, or call "
            "tailrace.install() in the script"
        )
    first = program[0]
    python = first in ("-m", "-c") or first.endswith(".py")
    path = sys.executable if python else shutil.which(first)
    if path is None or (first.endswith(".py") and not os.path.exists(first)):  # noqa: PTH110
        raise Fail(f"there is no {first} to be run", Code.USAGE)
    chosen = {"TAILRACE_DIR": os.path.abspath(app.directory)} if app.directory else {}  # noqa: PTH100
    arguments = [sys.executable, *program] if python else list(program)
    chosen[INSTALLED] = installed(offline=offline, background_artifacts=background_artifacts)
    os.execve(path, arguments, {**os.environ, **chosen})  # noqa: S606  # what the user has named
