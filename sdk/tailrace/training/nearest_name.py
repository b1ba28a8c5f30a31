"""The advice for a name that nobody knows: the nearest one that there is."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["advice"]

_MOST_LISTED = 12


def advice(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """What to add to the message: `did you mean 'f1_macro'?`, or what there is.

    Example:
        >>> advice("acuracy", ["accuracy", "f1_score"])
        "did you mean 'accuracy'?"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"there are: {', '.join(names[:_MOST_LISTED])}{more}" if names else "there is none"
