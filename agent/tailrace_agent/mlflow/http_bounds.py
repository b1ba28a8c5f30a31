"""Bounds for what the other end of an HTTP connection can cost: time, memory, and whom it can make us speak to.

What this module promises, of a session with `bounded` adapters:

* The time-out of a request is that of the whole of it: of sending it, of every header and of the body. It is granted
  anew for each MiB that was sent or received, so that what is large may take its time, and what drips may not.
* No more than 64 MiB are held of an answer, however it is packed; a body that is larger raises `TooLarge`.
* Nothing is kept from one answer to the next: no cookie.
* A server that sends an answer's head and body apart, and waits in between until the head is acknowledged, gets that at
  once. `mlflow server` does so with more than one worker (uvicorn leaves Nagle's algorithm on for sockets that it hands
  to them), and Linux acknowledges after 40 ms otherwise, at each request of a connection but its first.

How: `requests` gives its time-out to each read of a socket, and nobody sees a connection before its headers are there.
So the connection class is ours: it starts a clock with each request, and the answer is read through a file object that
gives the socket no more than what is left on that clock. That needs no thread that watches, holds for TLS and proxies
alike, and nobody has to close a socket under somebody else's read.

What it cannot bound: the resolver, which has its own time-out, and the TLS handshake, which has the time-out for
itself.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.client
import io
import socket
import time
import zlib
from collections.abc import Generator
from http.cookiejar import DefaultCookiePolicy
from typing import IO, Any, Final

import requests
from requests.adapters import HTTPAdapter

__all__ = ["AT_MOST", "TooLarge", "bound", "hold", "pieces"]

AT_MOST: Final = 64 << 20
"""Bytes of an answer, unpacked, that are held at once."""
_BESIDES: Final = 8 << 20
"""Bytes of headers, and of what frames a body."""
_STRIDE: Final = 1 << 20
"""Bytes for which a request has its time-out once more."""
_PIECE: Final = 1 << 16  # bytes that are sent or unpacked at once
_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)  # Linux has it, and delays by so much


class TooLarge(requests.RequestException):
    """An answer that is larger than any of MLflow's."""


def bound(session: requests.Session) -> None:
    """From now on the session's requests are bounded; doing it twice does nothing. Its first request comes after it."""
    for prefix in ("https://", "http://"):
        adapter = session.get_adapter(prefix)
        if not isinstance(adapter, _Adapter):  # the session is cached, and comes here with each request
            kind = type(adapter)  # MLflow's own keeps idle connections alive
            session.mount(prefix, type(f"Bounded{kind.__name__}", (_Adapter, kind), {})())
    session.headers["Accept-Encoding"] = "gzip"  # what `pieces` can unpack
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))


def hold(response: requests.Response, most: int = AT_MOST) -> None:
    """Reads the body of an answer that was requested with `stream=True`, and gives the connection back.

    Raises:
        TooLarge: There is more of it.
        requests.RequestException: It ended early, or is packed in a way that was not requested.
        urllib3.exceptions.HTTPError: The same, or the time-out, where urllib3 has noticed it first.
    """
    body = bytearray()
    for piece in pieces(response, renewed=False):
        body += piece  # unpacked: a few KiB of gzip can hold gigabytes
        if len(body) > most:
            response.close()
            raise TooLarge(f"its answer is larger than {most >> 20} MiB")
    # What `response.content` looks into; requests has no call for a body that was read by somebody else.
    response._content, response._content_consumed = bytes(body), True
    response.encoding = "utf-8"  # as MLflow speaks; to guess it takes minutes for a large body


def pieces(response: requests.Response, *, renewed: bool = True) -> Generator[bytes, None, None]:
    """The body in pieces, unpacked, for whoever writes it to a disk: no more than a piece is in memory.

    With `renewed` it may be of any size, and has no end if the other side gives it none: whoever reads it stops.

    Raises:
        requests.RequestException: It ended early, or is packed in a way that was not requested.
        urllib3.exceptions.HTTPError: The same, or the time-out, where urllib3 has noticed it first.
    """
    # None in a session that is not bounded.
    clock = getattr(getattr(response.raw, "_original_response", None), "clock", None)
    try:
        body = _unpacked(response)
        while piece := body.read(_PIECE):
            yield piece
            if renewed and clock is not None:
                clock.received = 0  # `AT_MOST` is for what is held, and this piece has been taken
        _check_length(response)  # after the last piece only: whoever stops early did not want the rest
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise requests.exceptions.ContentDecodingError(error) from error
    finally:
        response.close()  # with an unread rest that ends the connection; else it is in the pool already


def _unpacked(response: requests.Response) -> IO[bytes] | gzip.GzipFile:
    packed = response.headers.get("Content-Encoding", "identity").strip().lower()
    raw: IO[bytes] = response.raw
    if packed in ("identity", ""):
        return raw
    if packed in ("gzip", "x-gzip"):
        # Not urllib3's own decoder: older ones unpack all that a read brings, however much that becomes.
        return gzip.GzipFile(fileobj=raw)
    raise requests.exceptions.ContentDecodingError(f"an encoding nobody asked for: {packed[:50]}")


def _check_length(response: requests.Response) -> None:
    """Older versions of urllib3 take a body that ended early for the whole of it."""
    declared = response.headers.get("Content-Length", "")
    if response.status_code in (204, 304):  # have no body, whatever the header declares
        return
    if declared.isdecimal() and "Transfer-Encoding" not in response.headers and response.raw.tell() != int(declared):
        raise requests.exceptions.ChunkedEncodingError("the answer ended early")


class _Clock:
    """What is left of a time-out."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._deadline = self._moved = 0.0
        self.received = 0
        self._renew()

    def left(self) -> float | None:
        if self._seconds is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")  # as a socket does, so that urllib3 makes its own time-out of it
        return left

    def moved(self, n: int) -> None:
        self._moved += n
        if self._moved >= _STRIDE:
            self._renew()

    def got(self, n: int) -> None:
        self.received += n
        # Here as well as in `hold`: headers without end never get there.
        if self.received > AT_MOST + _BESIDES:
            raise TooLarge(f"its answer is larger than {AT_MOST >> 20} MiB")
        self.moved(n)

    def _renew(self) -> None:
        self._moved = 0
        self._deadline = time.monotonic() + (self._seconds or 0.0)


class _Reader(io.RawIOBase):
    """The reading end of a socket, whose reads end with the clock."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, clock: _Clock) -> None:
        self._raw, self._sock, self._clock = raw, sock, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._clock.left())  # before each read: what drips gets less with every byte
        _acknowledge_at_once(self._sock)
        n: int | None = self._raw.readinto(buffer)
        self._clock.got(n or 0)
        return n

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _acknowledge_at_once(sock: socket.socket) -> None:
    """What is received next. The kernel forgets it with the next thing that is sent, so it is for each read anew."""
    set_option = getattr(sock, "setsockopt", None)  # TLS inside of a proxy's TLS is no socket
    if _QUICK_ACK is not None and set_option is not None:
        with contextlib.suppress(OSError):  # not a TCP connection
            set_option(socket.IPPROTO_TCP, _QUICK_ACK, 1)


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, clock: _Clock | None = None, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.clock = clock or _Clock(sock.gettimeout())
        whole: Any = self.fp  # http.client's buffered reader: nothing has been read from it yet
        self.fp = io.BufferedReader(_Reader(whole.detach(), sock, self.clock))


class _Connection:
    """Stands before a connection class of urllib3's."""

    response_class: Any = _Answer
    sock: socket.socket | None
    timeout: Any
    _clock: _Clock | None = None

    def putrequest(self, *args: Any, **named: Any) -> None:
        self._clock = _Clock(self.timeout if isinstance(self.timeout, (int, float)) else None)
        # http.client makes the answer itself, and hands it nothing but the socket.
        self.response_class = functools.partial(_Answer, clock=self._clock)
        super().putrequest(*args, **named)  # type: ignore[misc]

    def _tunnel(self) -> None:
        self.response_class, self._clock = _Answer, None  # a proxy's word has a time-out of its own
        super()._tunnel()  # type: ignore[misc]

    def send(self, data: Any) -> None:
        # A file is cut by urllib3 or http.client, and each piece comes here once more, as `bytes`.
        if self._clock is None or not isinstance(data, bytes):
            super().send(data)  # type: ignore[misc]
            return
        for start in range(0, len(data), _PIECE):
            if self.sock is not None:  # the first piece connects
                self.sock.settimeout(self._clock.left())
            piece = memoryview(data)[start : start + _PIECE]  # no copy of a body of megabytes
            super().send(piece)  # type: ignore[misc]
            self._clock.moved(len(piece))


class _Adapter(HTTPAdapter):
    """An adapter whose connections are bounded, also those through a proxy."""

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        super().init_poolmanager(*args, **named)
        _bound_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **named: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **named)
        _bound_pools(manager)
        return manager


def _bound_pools(manager: Any) -> None:
    # A new dict: urllib3's is shared by all managers of the process.
    kinds = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {scheme: _bounded_pool(kind) for scheme, kind in kinds.items()}


# One class for each of urllib3's, not one for each session.
@functools.cache
def _bounded_pool(pool: Any) -> Any:
    kind = pool.ConnectionCls
    if issubclass(kind, _Connection):
        return pool
    connection = type(f"Bounded{kind.__name__}", (_Connection, kind), {})
    return type(f"Bounded{pool.__name__}", (pool,), {"ConnectionCls": connection})
