"""The hot path in C where it was built, and what stands in its place where it was not.

`Cursor` and `Route` hold what a `log()` reads and moves; `Log` is a `log()` in C over both, or None: then the Python
one does all the work, at two to three times the cost. Both write the same bytes. `TAILRACE_NATIVE=0` in the environment
of a program does without C.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

__all__ = ["Cursor", "Log", "Route", "why_not"]

why_not: str | None = None
"""Why there is no C here, for `tailrace doctor`; None where there is."""

if TYPE_CHECKING:
    from tailrace_agent._native import Cursor, Log, Route
else:
    try:
        if os.environ.get("TAILRACE_NATIVE") == "0":
            raise ImportError("switched off by TAILRACE_NATIVE=0")
        from tailrace_agent._native import Cursor, Log, Route
    except ImportError as error:
        why_not = str(error)
        Log = None

        class Cursor:
            """Where the next frame of a ring goes."""

        class Route:
            """Where a run's rows go."""

            __slots__ = ("encode", "known", "latest", "ring", "run", "steps")
