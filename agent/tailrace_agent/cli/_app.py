"""What all commands share: settings, exit codes, errors, and how output looks on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from tailrace_agent.settings.units import ago, duration, parse_size
from tailrace_agent.settings.units import size_text as size
from tailrace_agent.text.quoting import visible

if TYPE_CHECKING:
    from rich.console import Console

    from tailrace_agent.settings.settings import Settings

__all__ = [
    "App",
    "Code",
    "Fail",
    "age",
    "ago",
    "as_json",
    "confirm",
    "broken",
    "byte_size",
    "console",
    "count",
    "duration",
    "json_option",
    "leave",
    "number",
    "own_version",
    "quieten_mlflow",
    "size",
    "print_line",
    "uri_option",
]

_PIPE_WIDTH = 160  # rich takes 80 where there is no terminal, and would break ids and addresses
_AGES = {"d": 86400, "h": 3600, "m": 60}
F = TypeVar("F", bound=Callable[..., Any])


class Code(enum.IntEnum):
    """Exit codes; documented in `tailrace --help` and docs/command-line.md."""

    FINE = 0
    WRONG = 1
    USAGE = 2
    STORE = 3
    UNKNOWN = 4
    BUSY = 5
    INTERRUPTED = 130


class Fail(click.ClickException):
    """An error that a person can act on: one line on standard error, and an exit code."""

    def __init__(self, message: str, code: Code = Code.WRONG) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click declares it on the class

    def show(self, file: Any = None) -> None:
        """One line, whatever the message holds."""
        # Here, where all errors come by: many of them quote names and answers of others.
        click.echo(f"tailrace: {visible(' '.join(self.message.split()))}", file=file, err=file is None)


class App:
    """One call of the command line. `directory` is that of `--dir`."""

    def __init__(self, directory: str | None) -> None:
        self.directory = directory

    def settings(self, tracking_uri: str | None = None) -> Settings:
        """The settings in force.

        Raises:
            SettingsError: One of them is wrong.
        """
        from tailrace_agent.settings.sources import load_settings

        return load_settings({"dir": self.directory, "tracking_uri": tracking_uri})

    def store(self, settings: Settings) -> str:
        """The tracking URI in force, absolute, and MLflow's default spelled out. Nothing is created."""
        from tailrace_agent.settings.store_keys import default_uri
        from tailrace_agent.settings.uris import resolve_uri

        here = str(Path.cwd())
        return resolve_uri(settings.tracking_uri, here) if settings.tracking_uri else default_uri(here)

    def environment(self) -> dict[str, str]:
        """For a program of tailrace's own: the environment, with `--dir` in it."""
        from tailrace_agent.runtime import interpreter

        # Absolute: that program may work in another directory.
        chosen = {"TAILRACE_DIR": str(Path(self.directory).absolute())} if self.directory else {}
        return {**interpreter.environment(), **chosen}


def json_option(command: F) -> F:
    """Adds `--json`."""
    return click.option("--json", "json_", is_flag=True, help="Print JSON for scripts.")(command)


def uri_option(text: str) -> Callable[[F], F]:
    """Adds `--tracking-uri`, with its own help text."""
    return click.option("--tracking-uri", metavar="URI", help=text)


def leave(code: int) -> NoReturn:
    """Ends the command with this exit code."""
    click.get_current_context().exit(int(code))


def console(*, stderr: bool = False) -> Console:
    """A rich console that prints text as it is; in a pipe it is wide, so that nothing is cut.

    Control characters are shown, not sent: names and messages are foreign text, and must not steer a terminal.
    """
    from rich.console import Console

    class Harmless(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(visible(text), **options)

        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):  # of texts with styles, which are no strings
                yield segment if segment.control else segment._replace(text=visible(segment.text))

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else _PIPE_WIDTH
    # Without markup: `[red]` in a run's name is part of the name.
    return Harmless(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def print_line(out: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Prints one line, broken at words on a terminal and left whole elsewhere."""
    # Broken here and not by rich, which breaks words that are longer than a line: ids and addresses are copied.
    out.print(broken(text, out.width if out.is_terminal else None, indent), style=style, soft_wrap=True)


def broken(text: str, width: int | None, indent: int = 0) -> str:
    """A text indented, and broken into lines of that width, if there is one."""
    import textwrap

    margin = " " * indent
    if width is None:
        return margin + text
    return textwrap.fill(
        text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False, break_long_words=False
    )


def as_json(value: object) -> None:
    """Prints a value as indented JSON."""
    import msgspec

    from tailrace_agent.text.utf8 import encoded

    click.echo(msgspec.json.format(encoded(msgspec.json.encode, value), indent=2).decode())


def age(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A click callback: seconds from `7d`, `12h`, `30m`, or a number of days."""
    del ctx, param
    if value is None:
        return None
    text = value.strip().lower()
    unit = text[-1:] if text[-1:] in _AGES else ""  # without one it is days
    try:
        seconds = float(text.removesuffix(unit)) * _AGES[unit or "d"]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):  # NaN is neither
        raise click.BadParameter(f"{value!r} is no age; write 7d, 12h or 30m")
    return seconds


def byte_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A click callback: bytes from `500MB`, `4GiB`, or a number of bytes."""
    del ctx, param
    if value is None:
        return None
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no size; write 500MB or 4GiB") from error


def confirm(question: str, *, json_: bool = False) -> None:
    """Goes on when the answer is yes. Where nobody can answer, it ends with an error.

    Raises:
        Fail: There is no answer to be had: `--json`, or standard input is at its end.
        click.Abort: The answer is no.
    """
    hint = "nothing was changed, for there is nobody to ask; --yes does it without asking"
    if json_:
        raise Fail(hint, Code.USAGE)
    try:
        agreed = click.confirm(question)
    except click.Abort:  # Ctrl-C, or the end of standard input: click raises the same for both
        if sys.stdin.isatty():
            raise
        click.echo()
        raise Fail(hint, Code.USAGE) from None
    if not agreed:
        raise click.Abort


def quieten_mlflow() -> None:
    """MLflow is about to be imported into this process: none of its chatter, no telemetry, no git, no thread pools."""
    # Whatever was set: what a command does is not the user's own use of MLflow.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in (("MLFLOW_LOGGING_LEVEL", "ERROR"), ("GIT_PYTHON_REFRESH", "quiet"), ("OMP_NUM_THREADS", "1")):
        os.environ.setdefault(name, value)


def own_version() -> str:
    """tailrace's version, as it was installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tailrace")
    except PackageNotFoundError:
        return "(not installed)"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """`1 point`, `1,234 points`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def number(value: float | None) -> str:
    """A metric's value in at most five digits; `-` for none."""
    return "-" if value is None else f"{value:,.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.5g}"
