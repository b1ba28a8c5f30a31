"""An nginx of the tests' own: what stands before an MLflow server in many places. A process, with all files in one
directory; it needs no rights, and keeps nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.serving import free_port
from services.missing import missing

__all__ = ["nginx"]

_DEADLINE = 10.0
_CONFIG = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    log_format told '"$request" $status $sent_http_content_encoding';
    access_log {directory}/access.log told;
    client_body_temp_path {directory}/bodies;
    proxy_temp_path {directory}/answers;
    fastcgi_temp_path {directory}/fastcgi;
    scgi_temp_path {directory}/scgi;
    uwsgi_temp_path {directory}/uwsgi;
    server {{
        listen 127.0.0.1:{port}{tls};
        {settings}
        location {prefix}/ {{
            proxy_pass {upstream}/;
            proxy_http_version 1.1;
        }}
    }}
}}
"""


@contextmanager
def nginx(
    directory: Path, upstream: str, *settings: str, prefix: str = "", certificate: Path | None = None
) -> Iterator[str]:
    """An nginx while the block lasts; gives the address at which the upstream is behind it.

    Args:
        directory: For its files: `access.log` says `"GET /path HTTP/1.1" 200 gzip` of each request.
        upstream: The address of the server that it stands before; nobody has to be there yet.
        *settings: More lines of its configuration, as they stand in a `server` block.
        prefix: The path under which the upstream is reached, `/some/prefix`.
        certificate: A file with a key and its certificate, to be spoken to over TLS.
    """
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        missing("nginx missing; on Debian: apt install nginx-light")
    directory.mkdir(exist_ok=True)
    port = free_port()
    lines = list(settings)
    if certificate is not None:
        lines += [f"ssl_certificate {certificate};", f"ssl_certificate_key {certificate};"]
    config = directory / "nginx.conf"
    tls = " ssl" if certificate is not None else ""
    config.write_text(
        _CONFIG.format(
            directory=directory, port=port, tls=tls, settings="\n        ".join(lines), prefix=prefix, upstream=upstream
        )
    )
    output = directory / "output"
    with output.open("wb") as written:
        command = [program, "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=written)
    try:
        _wait_until_it_listens(server, port, output)
        yield f"http{'s' if certificate is not None else ''}://127.0.0.1:{port}{prefix}"
    finally:
        server.terminate()
        server.wait(_DEADLINE)


def _wait_until_it_listens(server: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"nginx did not start:\n{output.read_text(errors='replace')[-2000:]}")
