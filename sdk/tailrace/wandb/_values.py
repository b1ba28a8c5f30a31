"""Values that were logged: the numbers among them, and as they are at the moment."""

from __future__ import annotations

from typing import Any

__all__ = ["as_it_is", "number_of"]


def number_of(value: Any) -> float | None:
    """The number that a value is, or None; a tensor on a device is waited for."""
    if isinstance(value, (str, bytes)):
        return None
    item = getattr(value, "item", None)
    try:
        return float(item() if callable(item) else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: PyTorch's, of several elements
        return None


def as_it_is(value: Any) -> Any:
    """A value that stays as it is now, whatever the program does with its tensor; no device is waited for."""
    if hasattr(value, "detach"):
        return value.detach().clone()
    if hasattr(value, "__array__") and hasattr(value, "copy"):
        return value.copy()
    return value
