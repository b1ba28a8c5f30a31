"""Lists that MLflow gives page by page, read to their end, which a faulty server may never reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from tailrace_agent.errors import Unavailable

__all__ = ["PAGES_AT_MOST", "pages"]

_EMPTY: Final = 100
"""Pages in a row with nothing on them: a store that filters after it has cut its pages may have some."""

PAGES_AT_MOST: Final = 10_000
"""For whoever has more to do than to read a list: of a metric's history these are 250 million points."""


def pages(fetch: Callable[[Any], Any], most: int | None = None) -> Iterator[Any]:
    """Pages, each a list with a `token` for the next.

    Args:
        fetch: Requests the page of a token; the first one has None.
        most: Pages to read. Without it somebody waits who can stop it: whatever is new on each page is read for ever.

    Raises:
        Unavailable: They go round in a circle, or on and on with nothing on them, or there are more than `most`.
        Exception: What `fetch` raises.
    """
    # All tokens, not the last alone: a circle may be longer than one page.
    seen: set[object] = set()
    empty, token = 0, None
    while True:
        page = fetch(token)
        yield page
        token = page.token or None
        if token is None:
            return
        empty = 0 if page else empty + 1
        if token in seen or empty > _EMPTY:
            raise Unavailable("MLflow's list has no end: each page names another one that was read, or is empty")
        seen.add(token)
        if len(seen) == most:
            raise Unavailable(f"MLflow's list has no end: {most:,} pages were read, and each names another one")
