"""What all parts of the agent write to: the interface of a structlog logger, so that a test can bring its own."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Log"]


class Log(Protocol):
    """The part of a structlog logger that is used here."""

    def info(self, event: str, **fields: object) -> object:
        """Something happened."""

    def warning(self, event: str, **fields: object) -> object:
        """Something does not work, for now."""

    def error(self, event: str, **fields: object) -> object:
        """Something is lost, or will be without help."""
