"""What a server holds back from clients that acknowledge as usual, and what is not held back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from helpers.serving import serving
from tailrace_agent.ipc.records import Point, RunSpec
from tailrace_agent.mlflow import http_bounds
from tailrace_agent.mlflow.answer_delay import answer_delay
from tailrace_agent.sinks.mlflow import MlflowSink, open_sink

_HEAD, _BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"OK"


@contextmanager
def answering(*writes: bytes) -> Iterator[str]:
    """A server that answers each request of each connection in some writes."""

    def serve(client: socket.socket, pieces: Sequence[bytes]) -> None:
        with client, suppress(OSError):
            while client.recv(65536):
                for piece in pieces:
                    client.sendall(piece)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client, writes), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


on_linux = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux can be told to do so")


@on_linux
def test_an_answer_in_two_writes_is_held_back_and_one_in_a_single_write_is_not() -> None:
    with answering(_HEAD, _BODY) as apart, answering(_HEAD + _BODY) as together:
        assert answer_delay(f"{apart}/", 10.0) is not None
        assert answer_delay(together, 10.0) is None


def test_nothing_is_said_of_a_server_that_does_not_answer() -> None:
    assert answer_delay("http://127.0.0.1:9", 1.0) is None


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_each_read_of_an_answer_is_acknowledged_at_once_whoever_asks_and_however_many_workers_answer(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = http_bounds._acknowledge_at_once
    seen: list[int] = []

    def spy(sock: socket.socket) -> None:
        at_once(sock)
        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))

    monkeypatch.setattr(http_bounds, "_acknowledge_at_once", spy)
    file = tmp_path / "file.txt"
    file.write_text("text")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with serving(tmp_path, "--workers", str(workers), "--backend-store-uri", store) as address:
        for own_process in (True, False):  # by requests of our own, and through MLflow's store
            sink = open_sink(address, str(tmp_path), request_timeout=30, own_process=own_process)
            assert isinstance(sink, MlflowSink)
            run_id = sink.open_run(RunSpec(run=1, start_time=5, cwd="/"), None, find_first=False).run_id
            for step in range(3):
                sink.log_batch(run_id, metrics=[Point("loss", 0.5, 7, step)])
            sink.log_artifact(run_id, file, None)
            assert sink.count_metrics(run_id) == {"loss": 3}  # and reading
            assert len(seen) >= 7
            assert set(seen) == {1}
            seen.clear()
