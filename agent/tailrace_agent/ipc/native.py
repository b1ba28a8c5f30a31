"""The hot path in C where it was built, and what stands in its place where it was not.

`Cursor`, `Route`, `Selector` and `Group` hold what a `log()` reads and moves. `Log` is a `log()` in C over them, or
None: then the one in Python does all the work, at two to five times the cost. Both write the same bytes. `Steps` counts
for several processes at once, or is None, too; so is `Slots`, which has a GPU write values by itself.
`TAILRACE_NATIVE=0` in the environment of a program does without C. Its source is in agent/native.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

__all__ = ["Cursor", "Group", "Log", "Route", "Selector", "Slots", "Steps", "why_not"]

_INTERFACE = 4
"""Of agent/native/log.c; raise both when what C and Python share changes."""

why_not: str | None = None
"""Why there is no C here, for `tailrace doctor`; None where there is."""

if TYPE_CHECKING:
    from tailrace_agent._native import Cursor, Group, Log, Route, Selector, Slots, Steps
else:
    try:
        if os.environ.get("TAILRACE_NATIVE") == "0":
            raise ImportError("switched off by TAILRACE_NATIVE=0")
        from tailrace_agent._native import INTERFACE, Cursor, Group, Log, Route, Selector, Slots, Steps

        # A checkout that is installed in place and then updated keeps the module that was built before.
        if INTERFACE != _INTERFACE:
            raise ImportError("it was built for another version of tailrace: install that again")
    except ImportError as error:
        why_not = str(error)
        Log = Slots = Steps = None

        class Cursor:
            """Where the next frame of a ring goes."""

            slots: Slots | None = None

        class Route:
            """Where a run's rows go."""

            __slots__ = ("encode", "known", "latest", "page", "ring", "run", "seen", "selection", "steps")

        class Selector:
            """Which values of a run are logged."""

        class Group:
            """Keys that are logged together, and how far they are."""

            __slots__ = ("every", "held", "interval", "left", "logged_at", "owners", "parts")
