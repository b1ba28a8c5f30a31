"""Answers scrapes over HTTP, a few at a time, whoever connects and whatever he sends.

What this module promises:

* At most `_AT_ONCE` connections are open, with a thread each. Where one more comes, the oldest is ended: a scrape takes
  milliseconds, and who keeps a connection for longer wants something else. So there are descriptors for the delivery.
* A connection lasts for `_LASTS` seconds at most, whether nothing comes, a byte at a time, or nobody reads the answer;
  and for one request.
* A request's head is `_HEAD_AT_MOST` bytes at most. Its method is GET.
* `Host` is an address, `localhost`, or a name that was configured. A web page can give its own name the address of this
  machine (DNS rebinding), and its visitors' browsers then fetch from here; but they send that name.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import sys
import threading
import time
from collections.abc import Collection
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from typing import IO, Any, Final
from urllib.parse import urlsplit

from prometheus_client import MetricsHandler
from prometheus_client.registry import CollectorRegistry

from tailrace_agent.log import Log

__all__ = ["ScrapeServer", "is_ours"]

_AT_ONCE: Final = 8
_LASTS: Final = 10.0
_HEAD_AT_MOST: Final = 16 << 10
_PATIENCE: Final = 1.0
"""For the end of a connection that was closed: its thread may be at work on an answer."""
_BREATH: Final = 0.2
_LOCAL: Final = "localhost"


class ScrapeServer(ThreadingMixIn, TCPServer):
    """Listens, and serves in a thread of its own from `start` to `stop`.

    Args:
        host: Address or name to listen on; empty for every address.
        port: Port; 0 for any that is free.
        names: What else `Host` may be.
        registry: What is served.
        log: Where operators read.

    Raises:
        OSError, UnicodeError: It cannot listen there.

    Thread safety: `start`, `stop` and `after_fork` from one thread.
    """

    allow_reuse_address = True  # else an agent that follows another could not listen for a minute
    daemon_threads = True
    request_queue_size = 128  # the standard library's 5 is soon full while a connection is ended

    def __init__(self, host: str, port: int, names: Collection[str], registry: CollectorRegistry, log: Log) -> None:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, *_, address = found[0]
        self.names = names
        self._log = log
        self._failed = False
        self._open: dict[socket.socket, float] = {}  # in the order in which they came: the first is the oldest
        self._room = threading.Condition()
        super().__init__(address, _Scrape.factory(registry))  # type: ignore[arg-type]  # of any family

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Begins to serve.

        Raises:
            RuntimeError: No thread can be had.
        """
        threading.Thread(target=self.serve_forever, name="tailrace-scrapes", daemon=True).start()

    def stop(self) -> None:
        """Ends it, and every connection."""
        self.shutdown()
        self.server_close()
        with self._room:
            left = list(self._open)  # ended outside of the lock, which their threads take to leave
        for connection in left:
            _hang_up(connection)

    def after_fork(self) -> None:
        """In a forked child, where no thread serves: its copies of the sockets would keep them open."""
        # Without the lock: a thread that held it has stayed behind.
        for copied in (self.socket, *self._open):
            copied.close()

    # -- called by the standard library, in the thread that listens --------------------------------------------------

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_BREATH)  # no descriptor is left: it stays in the queue, and would be tried without end
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for it, made by an end to the oldest."""
        del client_address
        with self._room:
            if len(self._open) >= _AT_ONCE:
                _hang_up(next(iter(self._open)))
                if not self._room.wait_for(lambda: len(self._open) < _AT_ONCE, _PATIENCE):
                    return False
            self._open[request] = time.monotonic() + _LASTS
        return True

    def service_actions(self) -> None:
        """Ends what has lasted too long; called twice a second, and after each connection."""
        now = time.monotonic()
        with self._room:
            overdue = [connection for connection, until in self._open.items() if until < now]
        for connection in overdue:
            _hang_up(connection)

    # -- in the thread of a connection -------------------------------------------------------------------------------

    def shutdown_request(self, request: Any) -> None:
        """The connection is over."""
        try:
            super().shutdown_request(request)
        finally:
            with self._room:
                self._open.pop(request, None)
                self._room.notify()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hung up is no news; anything else is, once."""
        del request, client_address
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.note(error)

    def note(self, error: BaseException | None) -> None:
        """A request that could not be answered: the first is logged for operators."""
        if not self._failed:
            self._failed = True
            self._log.warning("a scrape was not answered", reason=f"{type(error).__name__}: {error}")


class _Scrape(MetricsHandler):
    """One request. HTTP/1.0 is answered, so that the connection ends with the answer."""

    server: ScrapeServer

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = _Head(self.rfile)

    def parse_request(self) -> bool:
        """Reads the head; False when an error was sent."""
        if not super().parse_request():
            return False
        hosts = self.headers.get_all("Host", [])
        if self.command != "GET":
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED, "use GET")
        elif len(hosts) != 1 or not is_ours(hosts[0], self.server.names):
            names = ", ".join([_LOCAL, *self.server.names])
            self.send_error(
                HTTPStatus.MISDIRECTED_REQUEST,
                "Host is not known here",
                f"Ask by an IP address, or by one of: {names}. tailrace's setting prometheus_host may be another name.",
            )
        else:
            return True
        return False

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        """The metrics, whatever the path."""
        try:
            super().do_GET()
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - of the library, about headers that make no sense
            self.server.note(error)
            self.send_error(HTTPStatus.BAD_REQUEST)


class _Head:
    """The lines of a request's head, which end for good."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, _HEAD_AT_MOST

    def readline(self, size: int) -> bytes:
        """The next line, or the part of it that there is room for.

        Raises:
            http.client.HTTPException: There was more; answered with 431.
        """
        if not self._left:
            raise http.client.HTTPException(f"a request has a head of {_HEAD_AT_MOST} bytes at most")
        line = self._file.readline(min(size, self._left))
        self._left -= len(line)
        return line

    def close(self) -> None:
        """Closes it."""
        self._file.close()


def is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a request's `Host` is an address, `localhost`, or one of these names (in small letters)."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    if name == _LOCAL or name in names:
        return True
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


def _hang_up(connection: socket.socket) -> None:
    """Wakes the thread that reads from it or writes to it, which then closes it."""
    with contextlib.suppress(OSError):  # it is over already
        connection.shutdown(socket.SHUT_RDWR)
