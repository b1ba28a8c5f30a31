"""Alerts to Slack, Teams, e-mail and whatever else Apprise knows: one address, its messages and their pictures.

Every part of an address may be a token, so only its scheme gets into a log line, and no text of Apprise's does. Apprise
bounds each wait of its own and not their sum; so it works in a thread, which is left alone when the time is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tailrace_agent.log import Log
from tailrace_agent.observers.outbox import Outbox
from tailrace_agent.settings.uris import mask_service

__all__ = ["Message", "Service"]

_KINDS: Final = {"info": "info", "warning": "warning", "error": "failure"}
"""Levels of alerts, and what Apprise calls them."""
_NAME: Final = "curve.png"


class Message(NamedTuple):
    """What a person gets.

    Attributes:
        title: In a few words.
        text: All of it.
        level: `info`, `warning` or `error`.
        picture: A PNG of the metric's course, where there is one; services that take no files do without.
    """

    title: str
    text: str
    level: str
    picture: bytes | None = None


class Service(Outbox[Message]):
    """Sends to one address.

    Args:
        url: As Apprise writes it.
        log: Where operators read.
        report: Called with a line for the user when the first alert is given up; the others are in the log.
        monotonic: The clock of all deadlines.

    Thread safety: as `Outbox`.
    """

    def __init__(
        self, url: str, log: Log, report: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(mask_service(url), log, self._once, monotonic)
        self._url, self._tell = url, report
        self._told = False
        self._sending: threading.Thread | None = None

    def _once(self, text: str) -> None:
        if not self._told:
            self._told = True
            self._tell(f"{text}. So it is with further ones, which are on their runs all the same")

    def _post(self, payload: Message, timeout: float) -> tuple[str | None, bool]:
        if self._sending is not None and self._sending.is_alive():
            return "an earlier one is still under way", True
        try:
            service = _opened(self._url, timeout)
        except ImportError:
            return "Apprise is missing: pip install 'tailrace[alerts]'", False
        if service is None:
            return "Apprise knows no such address", False
        outcome: list[bool] = []

        def send() -> None:
            with contextlib.suppress(Exception):  # a plug-in may raise anything; what it says may hold the address
                outcome.append(_sent(service, payload))

        self._sending = threading.Thread(target=send, name="tailrace-alert", daemon=True)
        self._sending.start()
        self._sending.join(timeout)
        if self._sending.is_alive():
            return f"no answer within {timeout:.0f} s", True
        return (None, False) if outcome == [True] else ("the service did not take it, or was not reached", True)


def _opened(url: str, timeout: float) -> Any:
    """Apprise with that one service; None where it knows none."""
    import apprise  # 0.2 s, where there is something to send

    # Nothing of it on the disk, where tokens would lie; and one address at a time needs no pool of threads.
    asset = apprise.AppriseAsset(storage_mode="memory", async_mode=False, app_id="tailrace", app_desc="tailrace")
    plugin = apprise.Apprise.instantiate(url, asset=asset)
    if plugin is None:
        return None
    plugin.socket_connect_timeout = plugin.socket_read_timeout = timeout
    service = apprise.Apprise(asset=asset)
    service.add(plugin)
    return service


def _sent(service: Any, message: Message) -> bool:
    from apprise import AppriseAttachment
    from apprise.attachment.memory import AttachMemory

    files = None
    if message.picture is not None:
        in_memory: Any = AttachMemory  # which has no types
        files = AppriseAttachment()
        files.add(in_memory(content=message.picture, name=_NAME, mimetype="image/png"))
    return bool(
        service.notify(
            body=message.text,
            title=message.title,
            notify_type=_KINDS.get(message.level, "info"),
            body_format="text",
            attach=files,
        )
    )
