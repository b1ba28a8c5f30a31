"""Real `mlflow server`s for tests, each on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["clean_environ", "end_group", "free_port", "serving"]

_DEADLINE = 90.0


@contextmanager
def serving(
    directory: Path, *arguments: str, tls: Path | None = None, port: int | None = None, **variables: str
) -> Iterator[str]:
    """An MLflow server while the block lasts; gives its address.

    Args:
        directory: Where it runs, and where its log goes.
        *arguments: Of `mlflow server`, besides host, port and workers.
        tls: A file with its key and its certificate, to be spoken to over TLS.
        port: Where it listens, if not on a free one.
        **variables: For its environment.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if tls is not None:
        command += ["--uvicorn-opts", f"--ssl-certfile {tls} --ssl-keyfile {tls}"]
    address = f"{'https' if tls is not None else 'http'}://127.0.0.1:{port}"
    environ = {
        **clean_environ(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # spares eight processes and two seconds
        **variables,
    }
    log = directory / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, *arguments], stdout=output, stderr=output, env=environ, cwd=directory, start_new_session=True
        )
    try:
        _wait_until_healthy(server, address, ssl.create_default_context(cafile=tls), log)
        yield address
    finally:
        end_group(server)


def clean_environ() -> dict[str, str]:
    """The environment without what MLflow reads from it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """Ends a process that leads a group, with all its children. At once: a server would wait for its clients."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait(5)


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str, trust: ssl.SSLContext, log: Path) -> None:
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2, context=trust):
            return
        time.sleep(0.05)
    pytest.fail(f"the MLflow server did not start:\n{log.read_text(errors='replace')[-3000:]}")
