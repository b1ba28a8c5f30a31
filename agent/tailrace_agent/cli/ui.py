"""`tailrace ui`: MLflow's UI on the configured store."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import IO, Final

import click

from tailrace_agent.cli._app import App, Code, Fail, leave, uri_option

_PORTS: Final = 50
_READY_WITHIN: Final = 120.0
_TAIL: Final = 2000


@click.command("ui")
@uri_option("The store to look at (default: the setting, or sqlite:///mlflow.db here).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="The next free from here.")
@click.pass_obj
def command(app: App, tracking_uri: str | None, host: str, port: int) -> None:
    """Run MLflow's UI on the configured store until Ctrl-C.

    A busy port is no dead end: the next free one is taken, and said. For a store that is a server already, its address
    is printed, and that is all.
    """
    from tailrace_agent.mlflow_errors import public_uri
    from tailrace_agent.uris import check_uri, mask_uri, missing_file

    uri = app.store(app.settings(tracking_uri))
    if uri.startswith(("http:", "https:")):
        click.echo(public_uri(uri))
        return
    fault = check_uri(uri, os.environ)
    if fault is not None:
        raise Fail(f"MLflow cannot use {mask_uri(uri)[0]}: {fault}", Code.STORE)
    absent = missing_file(uri)
    if absent is not None:
        raise Fail(
            f"there is no store {absent} yet: go to where the training ran, give --tracking-uri, "
            "or make one with `tailrace demo`"
        )
    free = _free_port(host, port)
    if free != port:
        click.echo(f"port {port} is busy; taking {free}")
    _serve(uri, host, free, mask_uri(uri)[0])


def _serve(uri: str, host: str, port: int, name: str) -> None:
    # The URI may hold a password, so it goes by the environment: a command line can be read by everybody.
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
    }
    environment.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # eight processes, of no use to a UI
    command_line = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryFile() as output:
        # A session of its own, so that Ctrl-C reaches this process alone, which then ends all of the server's.
        server = subprocess.Popen(
            command_line,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, _interrupt)
            click.echo(f"starting MLflow's UI on {name}")
            _wait_until_ready(server, host, port, output)
            shown = "127.0.0.1" if host in ("0.0.0.0", "") else host  # noqa: S104 - it is what the user asked for
            click.echo(f"open http://{shown}:{port} in a browser; Ctrl-C ends it")
            server.wait()
            raise Fail(f"MLflow's UI has ended: {_tail(output)}")
        except KeyboardInterrupt:
            click.echo("\nended")
        finally:
            _end(server)
    leave(Code.FINE)


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
        with suppress(ProcessLookupError):
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
            return candidate
    raise Fail(f"no free port from {port} to {port + _PORTS - 1}")
