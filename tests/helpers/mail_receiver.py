"""A mail server on this machine that keeps what it gets."""

from __future__ import annotations

import email
import email.policy
import socket
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller

__all__ = ["MailReceiver"]


class MailReceiver:
    """Keeps mails. Use it as a context manager.

    Attributes:
        got: The mails, in their order.
    """

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - the server's name
        self.got.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        return "250 OK"

    @property
    def url(self) -> str:
        """Its address, as Apprise writes it."""
        return f"mailto://127.0.0.1:{self.port}?mode=insecure&from=tailrace@example.org&to=ada@example.org"

    def __enter__(self) -> MailReceiver:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()
