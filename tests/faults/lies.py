"""What a server may answer instead of what is true, each by name: for `Proxy.faulty`, in front of a real server.

None of these requests has reached MLflow, so nothing that was sent may count as stored.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from faults.proxy import Action, Answer, Say

__all__ = ["BOMB", "LIES", "page"]

_PIECE: Final = b"x" * (1 << 16)


def page(body: bytes, *fields: str, status: str = "200 OK") -> Say:
    """An answer with these header fields, closed after its body."""
    return Say(lambda: [_head(status, *fields) + body])


def _head(status: str, *fields: str) -> bytes:
    # Each answer ends its connection, and says so: a client that had to find out would send its next request into it.
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *fields, "", ""]).encode("latin-1")


def _json(body: bytes, status: int = 200) -> Answer:
    return Answer(status, (("Content-Type", "application/json"),), body)


def _later(value: str) -> Answer:
    return Answer(503, (("Retry-After", value),))


def _endless(begin: bytes, piece: bytes) -> Say:
    return Say(lambda: itertools.chain([begin], itertools.repeat(piece)))


def _dripping(begin: bytes, piece: bytes = b"x") -> Say:
    return Say(lambda: itertools.chain([begin], itertools.repeat(piece)), pause=0.05)


def _bomb() -> Iterator[bytes]:
    member = gzip.compress(b" " * (10 << 20))
    yield _head("200 OK", "Content-Type: application/json", "Content-Encoding: gzip")
    for _ in range(150):
        yield member


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield _head("200 OK", "Content-Type: application/json", "Transfer-Encoding: chunked")
    yield from pieces


BOMB: Final = Say(_bomb)
"""A megabyte and a half of gzip, of which 1.5 GB come out."""

_REDIRECTS: Final[dict[str, Action]] = {
    f"redirects with {status} to {what}": Answer(status, (("Location", where),))
    for status, what, where in [
        (301, "another port", "http://127.0.0.1:9/api/2.0/mlflow/runs/log-batch"),
        (302, "a login page", "https://login.invalid/oauth?next=/api"),
        (303, "another page", "/somewhere/else"),
        (307, "another host", "http://mlflow.invalid/api/2.0/mlflow/runs/log-batch"),
        (308, "a file", "file:///etc/passwd"),
        (302, "an address that is none", "http://[::1/"),
        (302, "nowhere", ""),
        (302, "a terminal", "http://a\x1b[31mb.invalid/"),
    ]
}

_SLOW: Final[dict[str, Action]] = {
    "drips its headers": _dripping(b"HTTP/1.1 200 OK\r\nX-A: "),
    "drips its body": _dripping(_head("200 OK", "Content-Length: 100000")),
    "drips its chunks": _dripping(_head("200 OK", "Transfer-Encoding: chunked"), b"1\r\nx\r\n"),
    "drips 100 Continue": _dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}

LIES: Final[dict[str, Action]] = {
    "answers with nothing": _json(b""),
    "answers with blanks": _json(b" \r\n "),
    "answers with a page": Answer(200, (("Content-Type", "text/html"),)),
    "answers with a login page": Answer(200, (("Content-Type", "text/html; charset=utf-8"),), b"<form>password</form>"),
    "answers with OK": Answer(200, (("Content-Type", "text/plain"),), b"200 OK"),
    "answers with a list": _json(b"[]"),
    "answers with null": _json(b"null"),
    "answers with a text": _json(b'"ok"'),
    "answers with half an object": _json(b'{"run": {"info"'),
    "answers with somebody else's object": _json(b'{"error": "please log in"}'),
    "answers with an error in a 200": _json(b'{"error_code": "INTERNAL_ERROR", "message": "no"}'),
    "answers with an error that is a number": _json(b'{"error_code": {"a": 1}, "message": [2]}', 500),
    "answers with what is nested without end": _json(b'{"a":' * 100_000),
    "answers 201": _json(b"{}", 201),
    "answers 202": _json(b"{}", 202),
    "answers 204": page(b"", status="204 No Content"),
    "answers 206": _json(b"{}", 206),
    "answers 300": _json(b"{}", 300),
    "answers 304": page(b"", "Content-Length: 2", status="304 Not Modified"),
    "answers 999": _json(b"{}", 999),
    "asks to wait for ever": _later("inf"),
    "asks to wait for no number": _later("nan"),
    "asks to wait for a number too large": _later("1e400"),
    "asks to wait for an age": _later("99999999999999999999"),
    "asks to wait before now": _later("-5"),
    "asks to wait until no day": _later("Fri, 99 Dec 99999999999999 23:59:59 GMT"),
    "asks to wait until the end of time": _later("Fri, 31 Dec 9999 23:59:59 -2359"),
    "asks to wait for a lot of text": _later("9" * 60_000),
    "says what moves a cursor": _json(
        b'{"error_code": "INTERNAL_ERROR", "message": "\\u001b[2J\\u001b]0;x\\u0007"}', 500
    ),
    "says a megabyte": Answer(500, (), b"mysql" * 200_000),
    "promises more than it sends": page(b"{}", "Content-Length: 100"),
    "promises less than it sends": page(b"{}", "Content-Length: 1"),
    "promises less than nothing": page(b"x", "Content-Length: -5"),
    "sends headers without end": _endless(b"HTTP/1.1 200 OK\r\n", b"X-A: " + _PIECE[:1000] + b"\r\n"),
    "sends a header without end": _endless(b"HTTP/1.1 200 OK\r\nX-A: ", _PIECE),
    "sends 100 Continue without end": _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    "sends a body without end": _endless(_head("200 OK"), _PIECE),
    "sends chunks without end": Say(lambda: _chunks(itertools.repeat(b"10000\r\n" + _PIECE + b"\r\n"))),
    "sends a chunk's size without end": Say(lambda: _chunks(itertools.repeat(_PIECE.replace(b"x", b"1")))),
    "sends trailers without end": Say(
        lambda: _chunks(itertools.chain([b"2\r\n{}\r\n0\r\n"], itertools.repeat(b"X-A: " + _PIECE[:60_000] + b"\r\n")))
    ),
    "sends chunks that are none": Say(lambda: _chunks([b"zz\r\n{}\r\n0\r\n\r\n"])),
    "sends gzip that is none": page(b"{}", "Content-Encoding: gzip", "Content-Length: 2"),
    "sends an encoding nobody asked for": page(b"{}", "Content-Encoding: br", "Content-Length: 2"),
    "sends a bomb": BOMB,
    "speaks no HTTP": Say(lambda: [b"SSH-2.0-OpenSSH_9.6\r\n"]),
    "answers with a status that is none": Say(lambda: [b"HTTP/1.1 abc def\r\n\r\n{}"]),
    "closes without a word": Say(lambda: [b""]),
    **_REDIRECTS,
    **_SLOW,
}
