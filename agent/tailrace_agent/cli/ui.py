"""`tailrace ui`: MLflow's UI on the configured store, and links to what one wants to see in it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from tailrace_agent.cli._app import App, Code, Fail, leave, quieten_mlflow, uri_option
from tailrace_agent.errors import TailraceError
from tailrace_agent.runtime import interpreter
from tailrace_agent.settings.uris import check_uri, mask_uri, missing_file
from tailrace_agent.text.quoting import visible

if TYPE_CHECKING:
    from tailrace_agent.settings.settings import Settings

_PORTS: Final = 50  # tried, from the one that is wanted
_READY_WITHIN: Final = 120.0  # seconds
_TAIL: Final = 2000


@click.command("ui")
@uri_option("The store to look at (default: the setting, or sqlite:///mlflow.db here).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="The next free from here.")
@click.option("--no-browser", is_flag=True, help="Open no browser; the links are printed.")
@click.pass_obj
def command(app: App, tracking_uri: str | None, host: str, port: int, no_browser: bool) -> None:
    """Run MLflow's UI on the configured store until Ctrl-C, and open it at the list of runs.

    Which runs: those of the experiment that is set, else of the one with the newest run. A browser is opened where
    there is a terminal and a display. While the UI runs, every run of its store ends with a link to its page.

    A busy port is no dead end: the next free one is taken, and said. A store that is a server already has a UI: its
    links are printed, and that is all.
    """
    from tailrace_agent.mlflow.links import is_server

    settings = app.settings(tracking_uri)
    uri = app.store(settings)
    fault = check_uri(uri, os.environ)
    if fault is not None:
        raise Fail(f"MLflow cannot use {mask_uri(uri)[0]}: {fault}", Code.STORE)
    if is_server(uri):
        _show(uri, uri, settings, browse=not no_browser)
        return
    absent = missing_file(uri)
    if absent is not None:
        raise Fail(
            f"there is no store {absent} yet: go to where the training ran, give --tracking-uri, "
            "or make one with `tailrace demo`"
        )
    free = _free_port(host, port)
    if free != port:
        click.echo(f"port {port} is busy; taking {free}")
    _serve(uri, settings, host, free, browse=not no_browser)


def _serve(uri: str, settings: Settings, host: str, port: int, *, browse: bool) -> None:
    # The URI may hold a password, so it goes by the environment: a command line can be read by everybody.
    environment = {
        **interpreter.environment(),
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }
    environment.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # eight processes, of no use to a UI
    environment.setdefault("MLFLOW_ARTIFACTS_DESTINATION", str(Path.cwd() / "mlartifacts"))  # as it is by default
    command_line = interpreter.module_command("mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1")
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as empty, ExitStack() as announced:
        # Uvicorn puts a directory before all others that modules are found in, by default the one it works in.
        environment["UVICORN_APP_DIR"] = empty
        # A session of its own, so that Ctrl-C reaches this process alone, which then ends all of the server's.
        server = subprocess.Popen(
            command_line,
            env=environment,
            # An older Python runs MLflow's own `python -m uvicorn` from where it works, whatever its environment sets.
            cwd=None if interpreter.HAS_SAFE_PATH else empty,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            # Else the closing of a terminal would leave the server, which has a session of its own.
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, _interrupt)
            click.echo(f"starting MLflow's UI on {mask_uri(uri)[0]}")
            quieten_mlflow()
            import_module("tailrace_agent.mlflow.stores")  # takes seconds, like the server's own start, which goes on
            _wait_until_ready(server, host, port, output)
            address = f"http://{_shown(host)}:{port}"
            _announce(announced, address, uri, settings)
            _show(uri, address, settings, browse=browse, end="; Ctrl-C ends it")
            server.wait()
            raise Fail(f"MLflow's UI has ended: {_tail(output)}")
        except KeyboardInterrupt:
            click.echo("\nended")
        finally:
            announced.close()  # first: no run is to be linked to a UI that is ending
            _end(server)
    leave(Code.FINE)


def _show(uri: str, address: str, settings: Settings, *, browse: bool, end: str = "") -> None:
    """Prints where to look, and opens it."""
    from tailrace_agent.cli._looking import Links, can_browse, links_of, open_browser
    from tailrace_agent.settings.uris import public_uri

    quieten_mlflow()
    try:
        links = links_of(uri, address, settings)
    except TailraceError as error:
        click.echo(f"tailrace: no links to runs: {visible(str(error))}", err=True)
        links = Links(public_uri(address))
    click.echo(f"open {links.runs} in a browser{end}")
    if links.newest is not None:
        click.echo(f"the newest run, {visible(links.name or '')}: {links.newest}")
    if browse and can_browse() and not open_browser(links.runs):
        click.echo("tailrace: no browser could be opened", err=True)


def _announce(announced: ExitStack, address: str, uri: str, settings: Settings) -> None:
    """Runs of this store are reported with links to this UI from now on."""
    from tailrace_agent.mlflow.links import Announcement

    try:
        announced.callback(Announcement(address, uri, settings).close)
    except OSError as error:
        click.echo(f"tailrace: the ends of runs will not tell of this UI: {error}", err=True)


def _shown(host: str) -> str:
    """The address as it is written into a link."""
    if host in ("0.0.0.0", "", "::"):  # noqa: S104 - it is what the user requested
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _wait_until_ready(server: subprocess.Popen[bytes], host: str, port: int, output: IO[bytes]) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise Fail(f"MLflow's UI did not start: {_tail(output)}")
        with suppress(OSError), socket.create_connection((host if host != "0.0.0.0" else "127.0.0.1", port), 1):  # noqa: S104
            return
        time.sleep(0.1)
    raise Fail(f"MLflow's UI did not answer within {_READY_WITHIN:.0f} s: {_tail(output)}")


def _end(server: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):  # its whole group, which may outlive it
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            if number is signal.SIGTERM:
                time.sleep(0.1)  # the server's own children


def _tail(output: IO[bytes]) -> str:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - _TAIL))
    lines = output.read().decode(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "it said nothing"


def _free_port(host: str, port: int) -> int:
    for candidate in range(port, min(port + _PORTS, 65536)):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise Fail(f"{host} is no address of this machine: {error.strerror}", Code.USAGE) from error
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: no wait after a restart
            try:
                probe.bind(address)
            except PermissionError as error:
                raise Fail(f"port {candidate} needs root; choose one above 1023", Code.USAGE) from error
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise Fail(f"cannot listen on {host}: {error.strerror}", Code.USAGE) from error
            # Somebody may take it before the server does, which then reports that.
            return candidate
    raise Fail(f"no free port from {port} to {port + _PORTS - 1}")
