"""What a server holds back from clients that acknowledge as usual, and what is not held back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from tailrace_agent.mlflow.answer_delay import answer_delay

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


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux can be told to acknowledge at once")
def test_an_answer_in_two_writes_is_held_back_and_one_in_a_single_write_is_not() -> None:
    with answering(_HEAD, _BODY) as apart, answering(_HEAD + _BODY) as together:
        assert answer_delay(f"{apart}/", 10.0) is not None
        assert answer_delay(together, 10.0) is None


def test_nothing_is_said_of_a_server_that_does_not_answer() -> None:
    assert answer_delay("http://127.0.0.1:9", 1.0) is None
