"""A proxy in front of a real MLflow server that does to requests what networks, gateways and servers do.

A rule decides for each request what becomes of it. The proxy counts what it saw, and how many requests were on their
way at the same time. It runs in a thread of its own, on the loopback interface; every request has a connection of its
own, so that what is done to one is done to no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

__all__ = [
    "Action",
    "Answer",
    "BlackHole",
    "Drip",
    "Forward",
    "LoseAnswer",
    "Proxy",
    "Request",
    "Reset",
    "Rule",
    "Say",
    "Seen",
    "on",
]

_LIMIT: Final = 64 << 20


class Request(NamedTuple):
    """What a client sent."""

    method: str
    path: str
    head: bytes
    body: bytes

    @property
    def endpoint(self) -> str:
        """The last part of the path: `log-batch`, `create`, `search`, …"""
        return self.path.partition("?")[0].rpartition("/")[2]


@dataclass(eq=False)
class Seen:
    """A request, and what became of it.

    Attributes:
        at: When it had arrived (monotonic seconds).
        until: When it was over, or None.
        answered: The status that the client got, or None.
    """

    at: float
    method: str
    path: str
    size: int
    action: str
    until: float | None = None
    answered: int | None = None

    @property
    def endpoint(self) -> str:
        """As `Request.endpoint`."""
        return self.path.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True)
class Forward:
    """Passed on, and answered. `meanwhile` is called in a thread once the server has the request; `after_s` delays the
    request on its way to the server, even if the client has gone."""

    meanwhile: Callable[[], None] | None = None
    after_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """Answered here, and never seen by the server."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"<html>no MLflow here</html>"


@dataclass(frozen=True)
class BlackHole:
    """Taken, and never answered, until the rule is changed or the client gives up."""


@dataclass(frozen=True)
class Reset:
    """The connection is reset as soon as the request is there."""


@dataclass(frozen=True)
class LoseAnswer:
    """The server gets the request and answers; the answer never arrives."""

    silently: bool = False
    """Keep the connection open, so that the client waits, instead of resetting it."""


@dataclass(frozen=True)
class Drip:
    """Answered by the server, but the answer arrives a few bytes at a time."""

    bytes_per_s: float = 20.0


@dataclass(frozen=True)
class Say:
    """Answered with whatever bytes, until the client has gone; never seen by the server."""

    pieces: Callable[[], Iterable[bytes]]
    pause: float = 0.0
    """Seconds between two pieces."""


Action = Forward | Answer | BlackHole | Reset | LoseAnswer | Drip | Say
Rule = Callable[[Request], Action | None]
"""None means: passed on."""


def on(endpoint: str, action: Action, *, times: int | None = None, method: str | None = None) -> Rule:
    """A rule for requests to one endpoint (`log-batch`), for the first `times` of them."""
    left = [times if times is not None else 1 << 30]

    def rule(request: Request) -> Action | None:
        if request.endpoint != endpoint or method not in (None, request.method) or not left[0]:
            return None
        left[0] -= 1
        return action

    return rule


@dataclass(eq=False)
class _Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: Seen | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """The proxy. Use it as a context manager.

    Args:
        upstream: Port of the real server on the loopback interface.

    Attributes:
        port: Where it listens.
        rule: What becomes of each request; replace it at any time.
        seen: Every request so far.

    Thread safety: attributes may be read and `rule` replaced from any thread.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.seen: list[Seen] = []
        self.in_flight = self.most_in_flight = 0
        self._rule: Rule = lambda _: None
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._listening: asyncio.Server | None = None
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults-proxy", daemon=True)

    @property
    def url(self) -> str:
        """The tracking URI of the faulty server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def rule(self) -> Rule:
        """What becomes of each request."""
        return self._rule

    @rule.setter
    def rule(self, rule: Rule) -> None:
        self._rule = rule
        self._in_loop(self._released())

    @contextmanager
    def faulty(self, what: Rule | Action) -> Iterator[list[Seen]]:
        """While this lasts, the rule (or one action for every request) holds; gives what is seen meanwhile."""
        self.rule = what if callable(what) else lambda _: what
        self.most_in_flight = self.in_flight
        begin = len(self.seen)
        during: list[Seen] = []
        try:
            with self._recording(during):
                yield during
        finally:
            self.rule = lambda _: None
        assert during == self.seen[begin : begin + len(during)]

    def down(self) -> None:
        """From now on connections are refused."""
        self._in_loop(self._close_listener())

    def up(self) -> None:
        """Listens again."""
        self._in_loop(self._listen())

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._in_loop(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._in_loop(self._close_listener())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    # -- inside the loop -----------------------------------------------------------------------------------------

    def _in_loop(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _released(self) -> None:
        """Whatever is being held back is let go."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _listen(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=_LIMIT)

    async def _close_listener(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for client in list(self._clients):
            _reset(client.writer)
        await asyncio.sleep(0)

    @contextmanager
    def _recording(self, into: list[Seen]) -> Iterator[None]:
        recorders.append(into)
        try:
            yield
        finally:
            recorders.remove(into)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(reader, writer)
        self._clients.add(client)
        try:
            request = await _read_request(reader)
            if request is not None:
                await self._handle(client, request)
        except (OSError, asyncio.IncompleteReadError):
            _reset(writer)
        finally:
            self._clients.discard(client)
            with contextlib.suppress(OSError):
                writer.close()

    async def _handle(self, client: _Client, request: Request) -> None:
        action = self._rule(request) or Forward()
        seen = Seen(time.monotonic(), request.method, request.path, len(request.body), type(action).__name__)
        client.seen = seen
        self.seen.append(seen)
        for recorder in recorders:
            recorder.append(seen)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        watch = asyncio.ensure_future(_watch_gone(client))
        try:
            await self._do(client, request, action, seen)
        finally:
            watch.cancel()
            self.in_flight -= 1
            seen.until = time.monotonic()

    async def _do(self, client: _Client, request: Request, action: Action, seen: Seen) -> None:
        if isinstance(action, Answer):
            seen.answered = action.status
            await _send(client.writer, _answer(action))
        elif isinstance(action, Say):
            await self._say(client, action)
        elif isinstance(action, BlackHole):
            await self._hold(client)
            _reset(client.writer)
        elif isinstance(action, Reset):
            _reset(client.writer)
        elif isinstance(action, LoseAnswer):
            await self._upstream(request)
            if action.silently:
                await self._hold(client)
            _reset(client.writer)
        elif isinstance(action, Drip):
            answer = await self._upstream(request)
            await self._drip(client, answer, action.bytes_per_s)
        else:
            await self._forward(client, request, action, seen)

    async def _forward(self, client: _Client, request: Request, action: Forward, seen: Seen) -> None:
        if action.after_s:  # on its own: the request arrives though its sender has given up
            task = asyncio.ensure_future(self._late(request, action.after_s))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await self._hold(client)
            _reset(client.writer)
            return
        answer = await self._upstream(request, action.meanwhile)
        if not answer:
            _reset(client.writer)
            return
        seen.answered = int(answer.split(b" ", 2)[1])
        await _send(client.writer, answer)

    async def _late(self, request: Request, delay: float) -> None:
        await asyncio.sleep(delay)
        with contextlib.suppress(OSError):
            await self._upstream(request)

    async def _hold(self, client: _Client) -> None:
        """Until the rule is changed, or the client has gone."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._changed, client.gone)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _upstream(self, request: Request, meanwhile: Callable[[], None] | None = None) -> bytes:
        """The server's whole answer; empty when there was none."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            if meanwhile is not None:
                await asyncio.get_running_loop().run_in_executor(None, meanwhile)
            return await reader.read(-1)
        except OSError:
            return b""
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    async def _say(self, client: _Client, action: Say) -> None:
        changed = self._changed
        for piece in action.pieces():
            if client.gone.is_set() or changed.is_set():
                return
            await _send(client.writer, piece)
            await asyncio.sleep(action.pause)

    async def _drip(self, client: _Client, answer: bytes, bytes_per_s: float) -> None:
        changed = self._changed
        for at in range(len(answer)):
            if client.gone.is_set() or changed.is_set():
                break
            await _send(client.writer, answer[at : at + 1])
            await asyncio.sleep(1 / bytes_per_s)
        else:
            return
        _reset(client.writer)


recorders: list[list[Seen]] = []
"""Lists that every request is added to: those of `Proxy.faulty`."""


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    if fields.get("expect") == "100-continue":
        raise OSError("not expected of this client")
    if "chunked" in fields.get("transfer-encoding", ""):
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(fields.get("content-length", 0)))
    kept = [line for line in lines[:-2] if not line.lower().startswith("connection:")]
    return Request(method, path, ("\r\n".join([*kept, "Connection: close"]) + "\r\n\r\n").encode("latin-1"), body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = await reader.readline()
        chunk = await reader.readexactly(int(size, 16) + 2)
        body += size + chunk
        if not int(size, 16):
            return body


async def _watch_gone(client: _Client) -> None:
    """Notes when the client closes its side."""
    with contextlib.suppress(OSError):
        while await client.reader.read(1 << 16):
            pass
    client.gone.set()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


def _answer(action: Answer) -> bytes:
    fields = [f"HTTP/1.1 {action.status} Made-Up", f"Content-Length: {len(action.body)}", "Connection: close"]
    fields += [f"{name}: {value}" for name, value in action.headers]
    return ("\r\n".join(fields) + "\r\n\r\n").encode() + action.body


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
