"""wandb's errors, for scripts that catch them; none is ever raised here."""

from __future__ import annotations

__all__ = ["AuthenticationError", "CommError", "Error", "UsageError"]


class Error(Exception):
    """The base of them all."""


class CommError(Error):
    """wandb's servers could not be reached."""


class AuthenticationError(CommError):
    """wandb's servers took no key."""


class UsageError(Error):
    """A call was wrong."""
