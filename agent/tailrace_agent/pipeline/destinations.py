"""Where the runs of a session go: a delivery and an uploader for each tracking URI, made when a run first names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from tailrace_agent.delivery.deliver import Delivery
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_files import RunFiles
from tailrace_agent.delivery.stops import Stops
from tailrace_agent.delivery.uploads import Uploads
from tailrace_agent.ipc.session import Session
from tailrace_agent.log import Log
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.uris import unmask_uri
from tailrace_agent.sinks.base import Sink, SinkFactory
from tailrace_agent.spool.store import Spool

__all__ = ["Destination", "Destinations"]


class Destination(NamedTuple):
    """What goes to one tracking URI."""

    delivery: Delivery
    files: RunFiles
    uploads: Uploads
    stops: Stops


class Destinations:
    """The destinations of one session.

    Args:
        session: The session.
        settings: In force when the agent began.
        open_sink: Opens a sink for a tracking URI.
        spool: Where what is to be delivered waits.
        book: The runs, and the passwords.
        log: Where operators read.
        monotonic: The clock of all deadlines.

    Attributes:
        by_uri: What goes where, by tracking URI (without passwords). None goes away.

    Thread safety: `update` from the drain's thread; the steps of each destination from one thread each.
    """

    def __init__(
        self,
        session: Session,
        settings: Settings,
        open_sink: SinkFactory,
        *,
        spool: Spool,
        book: RunBook,
        log: Log,
        monotonic: Callable[[], float],
    ) -> None:
        self._session, self._settings, self._open_sink = session, settings, open_sink
        self._spool, self._book, self._log, self._monotonic = spool, book, log, monotonic
        self.by_uri: dict[str | None, Destination] = {}

    def update(self) -> None:
        """Opens those that runs have named since."""
        for tracking_uri, cwd in self._book.destinations():
            if tracking_uri not in self.by_uri:
                self.by_uri[tracking_uri] = self._destination(tracking_uri, cwd)

    def refused(self, tracking_uris: Iterable[str | None]) -> bool:
        """Whether each of these stores was refused."""
        return all(uri in self.by_uri and self.by_uri[uri].delivery.refused for uri in tracking_uris)

    def _destination(self, tracking_uri: str | None, cwd: str) -> Destination:
        longest = self._settings.retry_max_delay
        more: dict[str, Any] = {"retry_max_delay": longest, "log": self._log, "monotonic": self._monotonic}
        delivery = Delivery(
            tracking_uri,
            self._spool,
            self._book,
            partial(self._opened, tracking_uri, cwd),
            flush_interval=self._settings.flush_interval,
            **more,
        )
        staged = self._session.artifacts
        files = RunFiles(delivery, self._book, staged, **more)
        uploads = Uploads(delivery, files, self._spool, self._book, staged, **more)
        stops = Stops(tracking_uri, self._book, self._settings.stop_interval, self._log)
        return Destination(delivery, files, uploads, stops)

    def _opened(self, tracking_uri: str | None, cwd: str) -> Sink:
        # Looked up at each try: a thread-hosted agent may be given a password while it runs.
        whole = unmask_uri(tracking_uri, self._book.credentials(tracking_uri)) if tracking_uri else None
        return self._open_sink(whole, cwd, request_timeout=self._settings.request_timeout)
