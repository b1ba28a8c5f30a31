"""Sinks on real stores, and servers that give each request the same answer."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tailrace_agent.ipc.records import Point, RunSpec
from tailrace_agent.sinks.mlflow import MlflowSink, open_sink

__all__ = ["NUMBERS", "OWN_PROCESS", "Answers", "answering", "attempt", "opened", "sink_for", "spec"]

NUMBERS = itertools.count(int(time.time() * 1000))
OWN_PROCESS = False
"""Whether sinks are opened as in a process of tailrace's own: a plain server without MLflow."""


def spec(**changes: Any) -> RunSpec:
    return RunSpec(**{"run": next(NUMBERS), "start_time": 1_700_000_000_000, "cwd": "/", **changes})


def sink_for(uri: str | None, cwd: str | Path = "/", timeout: float = 20) -> MlflowSink:
    sink = open_sink(uri, str(cwd), request_timeout=timeout, own_process=OWN_PROCESS)
    assert isinstance(sink, MlflowSink)
    return sink


def opened(sink: MlflowSink, experiment: str) -> str:
    return sink.open_run(spec(experiment_name=experiment), None, find_first=False).run_id


class Answers:
    """A socket that gives each request the same answer, and keeps what it was asked."""

    def __init__(self, status: str, body: str = "", headers: str = "", *, silent: bool = False) -> None:
        self.requests: list[bytes] = []
        self.silent = silent
        self.answer = f"HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.requests.append(client.recv(65536))
            if self.silent:
                self._held.append(client)
                continue
            if self.answer.startswith("HTTP/1.1 RST"):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            else:
                client.sendall(self.answer.encode())
            client.close()


@contextmanager
def answering(status: str, body: str = "", headers: str = "", *, silent: bool = False) -> Iterator[Answers]:
    server = Answers(status, body, headers, silent=silent)
    try:
        yield server
    finally:
        server.listener.close()


def attempt(uri: str, timeout: float = 5) -> None:
    """Sends a point to a run that somebody else has opened."""
    sink_for(uri, timeout=timeout).log_batch("f" * 32, metrics=[Point("a", 1.0, 1, 0)])
