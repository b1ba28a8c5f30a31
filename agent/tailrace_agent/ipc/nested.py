"""Metrics in mappings of mappings, as flat ones: `{"train": {"loss": 0.5}}` is `train/loss`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["flat_items"]

_DEEPEST: Final = 32
"""Beyond it lie only mappings that make others."""


def flat_items(values: Mapping[Any, object], above: tuple[int, ...] = ()) -> Iterator[tuple[Any, object]]:
    """The items of a mapping, those of a mapping in it under both names with a slash between them.

    Args:
        values: Whatever a call of `log()` was given. A name that is no string stays as it is, and so does its value;
            below one that is, whole numbers are names, too (of classes, of layers). A mapping stays as it is if it is
            empty, contains itself or cannot be read.
        above: The ids of the mappings that it lies in.

    Example:
        >>> dict(flat_items({"loss": 1.0, "val": {"loss": 2.0, "class": {0: 0.5}}}))
        {'loss': 1.0, 'val/loss': 2.0, 'val/class/0': 0.5}
    """
    here = (*above, id(values))
    for key, value in values.items():
        is_name = isinstance(key, str) or (isinstance(key, int) and above)
        parts = _parts(value, here) if is_name and isinstance(value, Mapping) else []
        for name, part in parts:
            # A name that is none stays with the way to it, so that what is reported says where it was.
            yield (f"{key}/{name}" if isinstance(name, (str, int)) else (key, name)), part
        if not parts:
            yield key, value


def _parts(value: Mapping[Any, object], above: tuple[int, ...]) -> list[tuple[Any, object]]:
    """What lies in a mapping; nothing if it contains itself, or cannot be read."""
    if id(value) in above or len(above) > _DEEPEST:
        return []
    try:
        return list(flat_items(value, above))
    except Exception:  # noqa: BLE001 - whatever a foreign mapping raises; it is no number then, and reported as one
        return []
