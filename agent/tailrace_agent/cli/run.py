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


class _Command(click.Command):
    """Tells a command behind `--` from a script."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Before click takes it away: options of our own may stand in front of it, and those of the command behind.
        first = next((arg for arg in args if not arg.startswith("--") or arg == "--"), None)
        ctx.meta["tailrace.as_parent"] = first == "--"
        return super().parse_args(ctx, args)


@click.command("run", cls=_Command, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--offline", is_flag=True, help="Let runs begin while the tracking server is away.")
@click.option("--background-artifacts", is_flag=True, help="Let artifacts be uploaded in the background.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] SCRIPT [ARGS]...")
@click.pass_context
def command(ctx: click.Context, program: tuple[str, ...], offline: bool, background_artifacts: bool) -> None:
    """Start a script, with its MLflow calls going through tailrace. No line of it changes.

    SCRIPT is a Python file, `-m` and a module, or any program that starts Python, such as torchrun. What it starts in
    turn is served, too. It takes this command's place, so signals and exit codes are its own. What the options change
    stands in the page on integrations.

    Behind `--` stands the command of a job, whose processes share one run and one agent. This command stays as its
    parent: it passes signals on, has its exit code, and the run ends by that. See the page on several processes.
    """
    app: App = ctx.obj
    settings = app.settings()  # what is wrong is reported before anything runs
    as_parent = ctx.meta["tailrace.as_parent"]
    found = any(entry.name.startswith(PLUG_IN) for entry in entry_points(group=_GROUP))
    if not found and not as_parent:
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
    if found:
        chosen[INSTALLED] = installed(offline=offline, background_artifacts=background_artifacts)
    if as_parent:
        from tailrace_agent.cli._parent import run_as_parent

        sys.exit(run_as_parent(settings, [path, *arguments[1:]], chosen))
    os.execve(path, arguments, {**os.environ, **chosen})  # noqa: S606  # what the user has named
