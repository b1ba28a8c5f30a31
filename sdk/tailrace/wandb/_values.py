"""Values that were logged: the numbers among them, and as they are at the moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["as_it_is", "nested", "number_of"]


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


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by names such as `train.loss` as the dictionaries that they came from.

    Example:
        >>> nested({"train.loss": 0.5, "train.deep.er": 1, "lr": 0.1})
        {'train': {'loss': 0.5, 'deep': {'er': 1}}, 'lr': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        level, (*above, key) = found, name.split(".")
        for each in above:
            below = level.setdefault(each, {})
            level = below if isinstance(below, dict) else {}
        level[key] = value
    return found
