"""What the other end of a connection can cost: time and memory, and no more than that."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
import requests
import urllib3

from tailrace_agent.mlflow.http_bounds import AT_MOST, TooLarge, bound, hold, pieces

_FAULTS = (requests.RequestException, urllib3.exceptions.HTTPError)


class _Server:
    """Sends each request the same pieces of an answer, and hears what comes."""

    def __init__(self, pieces: Sequence[bytes], pause: float = 0.0) -> None:
        self._pieces, self._pause, self.heard = pieces, pause, list[bytes]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                self.heard.append(client.recv(65536))
                for piece in self._pieces:
                    client.sendall(piece)
                    time.sleep(self._pause)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def _sending(*pieces: bytes, pause: float = 0.0) -> Iterator[_Server]:
    server = _Server(pieces, pause)
    try:
        yield server
    finally:
        server.close()


def _get(address: str, timeout: float = 10.0) -> requests.Response:
    with requests.Session() as session:
        bound(session)
        response = session.get(address, timeout=timeout, stream=True)
        hold(response)
        return response


def _head(length: int, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", "Connection: close", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


def test_an_answer_is_held_as_it_came_and_unpacked() -> None:
    packed = gzip.compress(b"hello")
    with (
        _sending(_head(5), b"hello") as plain,
        _sending(_head(len(packed), "Content-Encoding: gzip"), packed) as zipped,
    ):
        assert (_get(plain.address).content, _get(zipped.address).content) == (b"hello", b"hello")
        assert b"Accept-Encoding: gzip\r\n" in plain.heard[0]


@pytest.mark.parametrize(
    "sent", [[_head(1000), *[b"x"] * 1000], [bytes([byte]) for byte in _head(0)]], ids=["body", "headers"]
)
def test_a_server_that_drips_is_given_up_after_one_time_out_in_all(sent: list[bytes]) -> None:
    with _sending(*sent, pause=0.05) as server, pytest.raises(_FAULTS, match="timed out"):
        _get(server.address, timeout=0.5)


def test_an_answer_that_unpacks_to_more_than_is_held_is_refused() -> None:
    bomb = gzip.compress(bytes(AT_MOST + 1))
    assert len(bomb) < 1 << 20
    head = _head(len(bomb), "Content-Encoding: gzip")
    with _sending(head, bomb) as server, pytest.raises(TooLarge, match="larger than 64 MiB"):
        _get(server.address)


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (_head(10), b"hello", _FAULTS),
        (_head(5, "Content-Encoding: br"), b"hello", requests.exceptions.ContentDecodingError),
        (_head(5, "Content-Encoding: gzip"), b"hello", requests.exceptions.ContentDecodingError),
    ],
    ids=["ended early", "an encoding nobody asked for", "no gzip"],
)
def test_an_answer_that_is_cut_off_or_packed_in_another_way_is_none(
    head: bytes, body: bytes, expected: type[Exception] | tuple[type[Exception], ...]
) -> None:
    with _sending(head, body) as server, pytest.raises(expected):
        _get(server.address)


def test_what_is_read_piece_by_piece_may_be_of_any_size_and_holds_no_more_than_a_piece() -> None:
    packed = gzip.compress(bytes(AT_MOST + 5))
    with _sending(_head(len(packed), "Content-Encoding: gzip"), packed) as server, requests.Session() as session:
        bound(session)
        sizes = [len(piece) for piece in pieces(session.get(server.address, timeout=10, stream=True))]
    assert (sum(sizes), max(sizes) <= 1 << 16) == (AT_MOST + 5, True)


def test_no_cookie_goes_to_the_next_request_and_binding_twice_is_once() -> None:
    with _sending(_head(2, "Set-Cookie: a=b"), b"{}") as server, requests.Session() as session:
        bound(session)
        adapter = session.get_adapter("http://")
        bound(session)
        assert session.get_adapter("http://") is adapter
        for _ in range(2):
            hold(session.get(server.address, timeout=10, stream=True))
        assert len(server.heard) == 2
        assert b"Cookie" not in server.heard[1]


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux can be told to acknowledge at once")
def test_the_head_of_an_answer_is_acknowledged_at_once_at_every_request_of_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, requests.Session() as session:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                while client.recv(65536):  # two writes, with Nagle's algorithm between them, as uvicorn's workers
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
                    client.sendall(b"ok")

        threading.Thread(target=serve, daemon=True).start()
        bound(session)
        quick = []
        for _ in range(4):
            response = session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", stream=True, timeout=10)
            connection = response.raw.connection.sock
            quick.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))
            hold(response)
    # Without it, the second request puts the connection into the kernel's interactive mode, which delays.
    assert quick == [1, 1, 1, 1]
