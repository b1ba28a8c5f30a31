"""The command line `tailrace`: what happens to runs while nobody looks, and what to do about it.

A module for each command; those whose names begin with an underscore are what the commands share. Commands are loaded
when they are called, and rich and MLflow when they are needed, so that `tailrace --help` answers at once.
"""

from __future__ import annotations

import sqlite3
from importlib import import_module
from typing import Any, Final

import click

from tailrace_agent.cli._app import App, Code, Fail
from tailrace_agent.errors import (
    NotFound,
    RunGone,
    SessionError,
    SettingsError,
    SinkError,
    StateDirError,
    StoreRefused,
    TailraceError,
)
from tailrace_agent.runtime.places import is_nowhere

__all__ = ["main"]

_COMMANDS: Final = {
    "run": "Start a script whose MLflow calls go through tailrace.",
    "top": "Watch runs live: charts, machine, ranks, delivery, alerts.",
    "status": "Show the sessions of this machine: what is delivered, pending, dead.",
    "sync": "Deliver what is left of sessions, with progress.",
    "verify": "Read a run back from MLflow and compare it with the ledger.",
    "stop": "Ask the program of a run to stop, wherever it runs.",
    "dead": "List, retry or drop what MLflow has refused.",
    "runs": "List runs in MLflow: search, sort, choose metrics.",
    "history": "Print every value of one metric of a run.",
    "logs": "Print what a run has printed, and follow it.",
    "compare": "Put runs side by side: what differs first; with a figure.",
    "export": "Write runs into an archive, with all of their points and artifacts.",
    "import": "Put runs of an archive, wandb, TensorBoard, neptune, trackio into MLflow, each once.",
    "gc": "Delete old, failed or empty runs in MLflow.",
    "ui": "Open MLflow's UI on the configured store.",
    "hpo": "Search hyper-parameters as a file says, in several processes.",
    "train": "Train what a file says: scikit-learn, XGBoost, LightGBM, PyTorch.",
    "demo": "Train a small model on real data, logging every step.",
    "doctor": "Check what would stop this machine from working, and say the mend.",
    "clean": "Delete finished sessions and what dead ones left in shared memory.",
}
_MODULES: Final = {"import": "import_"}
"""Where the module of a command has another name."""
_EXIT_CODES: Final = """\
\b
Exit codes:
  0    fine
  1    something is undelivered, dead, different, or failed; the output says what
  2    wrong usage, or a wrong setting
  3    the tracking store cannot be reached, or MLflow refuses it
  4    there is no such session, run, experiment or dead letter, or the name fits several
  5    a live agent holds the session: wait for its end
  130  interrupted by Ctrl-C

Settings come from options, TAILRACE_* variables, tailrace.toml or [tool.tailrace] in pyproject.toml, and MLflow's own
variables, in this order. What `tailrace COMMAND --help` shows under --json is meant for scripts.
"""
_CODES: Final[dict[type[Exception], Code]] = {
    SettingsError: Code.USAGE,
    StoreRefused: Code.STORE,
    RunGone: Code.UNKNOWN,  # before SinkError, of which it is one: the first that fits counts
    SinkError: Code.STORE,
    NotFound: Code.UNKNOWN,
    SessionError: Code.UNKNOWN,
    StateDirError: Code.WRONG,
    TailraceError: Code.WRONG,  # last: all are
}


class _Commands(click.Group):
    """Loads a command when it is called, and turns expected errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature, here and below
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"tailrace_agent.cli.{_MODULES.get(cmd_name, cmd_name)}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, n=1)
            advice = f"did you mean `tailrace {near[0]}`?" if near else f"there are: {', '.join(_COMMANDS)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {advice}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TailraceError as error:
            raise Fail(str(error), next(code for kind, code in _CODES.items() if isinstance(error, kind))) from error
        except sqlite3.Error as error:
            raise Fail(f"a spool cannot be used: {error} (is the disk full, or another process at work?)") from error
        except BrokenPipeError:  # `tailrace runs | head`: click ends quietly
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            gone = " (the working directory was deleted: go to another)" if is_nowhere() else ""
            raise Fail(f"{where}{error.strerror or error}{gone}") from error
        except KeyboardInterrupt:
            click.echo(err=True)
            raise Fail("interrupted", Code.INTERRUPTED) from None


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    del param
    if not value or ctx.resilient_parsing:
        return
    from tailrace_agent.cli._app import own_version

    click.echo(f"tailrace {own_version()}")
    ctx.exit()


@click.group(
    cls=_Commands,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option("--dir", "directory", metavar="PATH", help="Where tailrace keeps its state (default: TAILRACE_DIR).")
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Say which version this is.",
)
@click.pass_context
def main(ctx: click.Context, directory: str | None) -> None:
    """MLflow tracking that training does not feel: look after its runs.

    \b
    tailrace status             what goes on here
    tailrace sync               deliver what a crash, a reboot or a lost server has left
    tailrace verify RUN         is every point in MLflow?
    """  # noqa: D301 - click reads the backspace
    ctx.obj = App(directory)
