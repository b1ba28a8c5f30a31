"""Where alerts go beside their run: the webhook, and the services that Apprise knows; and what is said there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.curves import Curve, Span
from tailrace_agent.ipc.records import Alert, run_hex
from tailrace_agent.log import Log
from tailrace_agent.observers.alert_picture import picture
from tailrace_agent.observers.outbox import Outbox
from tailrace_agent.observers.services import Message, Service
from tailrace_agent.observers.webhook import Webhook
from tailrace_agent.settings.settings import Settings, alert_addresses
from tailrace_agent.spool.extremes import of_program
from tailrace_agent.text.sparkline import sparkline, thinned

__all__ = ["Posts", "metric_of"]

_LINE: Final = 24  # characters
_MISSING: Final = (
    "alert_urls are set, and Apprise, which sends alerts there, is not installed: pip install 'tailrace[alerts]'"
)


class Posts:
    """The addresses of one session's alerts. Each has a queue and a thread of its own, once there is something for it.

    Args:
        settings: In force; the addresses without their secrets.
        book: The runs, and the addresses with their secrets.
        host: This machine's name.
        log: Where operators read.
        report: Called with a line for the users.

    Thread safety: `put` from one thread, the steps from one each, all else from any.
    """

    def __init__(self, settings: Settings, book: RunBook, host: str, log: Log, report: Callable[[str], None]) -> None:
        self._settings, self._book, self._host, self._log, self._report = settings, book, host, log, report
        # Settings are on disk, so without what is secret.
        self._masked = alert_addresses(settings)
        self._webhook: Webhook | None = None
        self._services: list[Service] = []
        self._opened = False

    @property
    def fault(self) -> str | None:
        """What keeps alerts from going anywhere, as far as that is known before there is one."""
        return _MISSING if self._settings.alert_urls and find_spec("apprise") is None else None

    def put(self, alert: Alert, curves: Mapping[str, Curve]) -> None:
        """Something to post, if there is an address.

        Args:
            alert: What there is to say.
            curves: The courses of its run's metrics, of which one is shown.
        """
        if not self._masked:
            return
        if not self._opened:
            self._opened = True
            self._open()
        if self._webhook is not None:
            self._webhook.put(alert.title, partial(self._payload, alert))
        if self._services:
            key = metric_of(alert, curves)
            # Now: the curves are the drain's, and a message is made by another thread.
            line = curves[key].line if key is not None else []
            for service in self._services:
                service.put(alert.title, partial(self._message, alert, key or "", line))

    @property
    def pending(self) -> bool:
        """Whether something waits, or is being posted."""
        return any(outbox.pending for outbox in self._outboxes)

    @property
    def steps(self) -> dict[str, Callable[[float], float]]:
        """What has to be done in threads of its own, by name."""
        return {f"post{n or ''}": outbox.step for n, outbox in enumerate(self._outboxes)}

    def finish(self, seconds: float) -> None:
        """The agent ends."""
        for outbox in self._outboxes:
            outbox.finish(seconds / len(self._outboxes))

    @property
    def _outboxes(self) -> list[Outbox[Any]]:
        return [*([self._webhook] if self._webhook is not None else []), *self._services]

    def _open(self) -> None:
        for n, (address, masked) in enumerate(self._masked.items()):
            url = self._book.credentials(address) or masked
            if url.endswith("…"):  # masked, so the whole one never reached this agent (`tailrace sync`, a reboot)
                self._log.warning("alerts not posted: this agent was not told the whole URL", to=masked)
            elif n == 0 and self._settings.alert_webhook:
                self._webhook = Webhook(url, self._log, self._report)
            else:
                self._services.append(Service(url, self._log, self._report))

    def _about(self, alert: Alert) -> tuple[str | None, str | None]:
        """Name and page of its run. When it is posted, not when it is raised: by then MLflow may have created it."""
        state = self._book.get(alert.run)
        ref = state.ref if state is not None else None
        name = (ref.run_name if ref else None) or (state.spec.run_name if state is not None else None)
        return name, ref.url if ref else None

    def _text(self, alert: Alert) -> str:
        name, url = self._about(alert)
        about = f" (run {name or run_hex(alert.run)!r}{f', {url}' if url else ''})"
        return f"{alert.level}: {alert.title}{f': {alert.text}' if alert.text else ''}{about}"

    def _message(self, alert: Alert, key: str, line: list[Span]) -> Message:
        name, url = self._about(alert)
        values = thinned([span.last for span in line], _LINE)
        drawn = f"{key}  {sparkline(values)}  {values[-1]:.5g}" if len(values) > 1 else ""
        parts = [alert.text, drawn, f"run {name or run_hex(alert.run)!r} on {self._host}", url]
        title = f"{alert.level}: {alert.title}"
        return Message(title, "\n".join(filter(None, parts)), alert.level, picture(key, line))

    def _payload(self, alert: Alert) -> dict[str, Any]:
        name, url = self._about(alert)
        state = self._book.get(alert.run)
        ref = state.ref if state is not None else None
        return {
            "text": self._text(alert),
            "title": alert.title,
            "detail": alert.text,
            "level": alert.level,
            "time_ms": alert.time_ms,
            "host": self._host,
            "run": {
                "run_id": ref.run_id if ref else None,
                "run_name": name,
                "experiment_id": ref.experiment_id if ref else None,
                "experiment_name": state.spec.experiment_name if state is not None else None,
                "tailrace_id": run_hex(alert.run),
                "url": url,
            },
        }


def metric_of(alert: Alert, curves: Mapping[str, Curve]) -> str | None:
    """The metric that an alert is about: the longest name in its words; else the first of the program's own."""
    words = f"{alert.title} {alert.text}"
    named = max((key for key in curves if _named(key, words)), key=len, default=None)
    return named or next((key for key in curves if of_program(key)), None)


def _named(key: str, words: str) -> bool:
    return key in words and re.search(rf"(?<![\w/]){re.escape(key)}(?![\w/])", words) is not None
