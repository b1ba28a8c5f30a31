"""How far a run is, and what may happen to it: every transition there is, in one table.

```
                        REPORTED            SETTLED
    RUNNING ──► ENDED ──────────► CLOSED ──────────► FINALIZED
       │          │ ▲               │ │                  │
       │          │ └── ENDED ──────┼─┴──────────────────┘  an end that is reported, after one that was inferred
       │ LOST     │ LOST            │ LOST
       ▼          ▼                 ▼       SETTLED
      GONE ──► GONE_ENDED ◄─────────┘ ──────────────► BURIED
```

`RESTARTED` takes ENDED, CLOSED and FINALIZED back to RUNNING. `CAME` takes FINALIZED back to CLOSED and BURIED to
GONE_ENDED; `REVIVED` takes the three at the bottom back to RUNNING or ENDED.

The phase is not stored: it follows from fields that older versions read and write, too (`phase_of`). No phases are
`refused` (its store cannot be used: a matter of the destination), `explained` (whether MLflow has the reason) and
`rebuilt` (how much of a record was readable): each may be so in any phase.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

__all__ = ["PHASE_FIELDS", "Event", "Phase", "after", "flags_of", "phase_of"]


class Phase(Enum):
    """How far a run is."""

    RUNNING = "running"
    """Its end is not known."""
    ENDED = "ended"
    """Its end is known here; it is reported to MLflow when that has everything that came before."""
    CLOSED = "closed"
    """MLflow knows the end; what came late is still to be delivered, or the ledger to be stored."""
    FINALIZED = "finalized"
    """Nothing is left to do."""
    GONE = "gone"
    """MLflow takes nothing for it any more, while its program may go on logging: dead letters."""
    GONE_ENDED = "gone, ended"
    """The same, and its end is known."""
    BURIED = "buried"
    """The same, and nothing is left to do."""


class Event(Enum):
    """What happens to a run."""

    ENDED = "ended"
    """Its end was reported, or inferred."""
    REPORTED = "reported"
    """The end was reported to MLflow."""
    SETTLED = "settled"
    """Nothing of it waits, and its ledger is stored."""
    CAME = "came"
    """Something came for it."""
    LOST = "lost"
    """MLflow will take nothing more for it."""
    REVIVED = "revived"
    """Its dead letters are to be sent once more."""
    RESTARTED = "restarted"
    """Its job was started anew, and goes on in it."""


PHASE_FIELDS: Final = frozenset({"end", "end_reason", "closed", "finalized", "gone"})
"""Fields of a run's state from which its phase follows, and that change with it alone."""

_AFTER: Final[Mapping[Phase, Mapping[Event, Phase]]] = {
    Phase.RUNNING: {
        Event.ENDED: Phase.ENDED,
        Event.CAME: Phase.RUNNING,
        Event.LOST: Phase.GONE,
        Event.REVIVED: Phase.RUNNING,
        Event.RESTARTED: Phase.RUNNING,
    },
    Phase.ENDED: {
        Event.ENDED: Phase.ENDED,
        Event.REPORTED: Phase.CLOSED,
        Event.CAME: Phase.ENDED,
        Event.LOST: Phase.GONE_ENDED,
        Event.REVIVED: Phase.ENDED,
        Event.RESTARTED: Phase.RUNNING,
    },
    Phase.CLOSED: {
        Event.ENDED: Phase.ENDED,
        Event.SETTLED: Phase.FINALIZED,
        Event.CAME: Phase.CLOSED,
        Event.LOST: Phase.GONE_ENDED,
        Event.REVIVED: Phase.CLOSED,
        Event.RESTARTED: Phase.RUNNING,
    },
    Phase.FINALIZED: {
        Event.ENDED: Phase.ENDED,
        Event.CAME: Phase.CLOSED,
        Event.REVIVED: Phase.CLOSED,
        Event.RESTARTED: Phase.RUNNING,
    },
    Phase.GONE: {
        Event.ENDED: Phase.GONE_ENDED,
        Event.CAME: Phase.GONE,
        Event.REVIVED: Phase.RUNNING,
    },
    Phase.GONE_ENDED: {
        Event.ENDED: Phase.GONE_ENDED,
        Event.SETTLED: Phase.BURIED,
        Event.CAME: Phase.GONE_ENDED,
        Event.REVIVED: Phase.ENDED,
    },
    Phase.BURIED: {
        Event.ENDED: Phase.GONE_ENDED,
        Event.CAME: Phase.GONE_ENDED,
        Event.REVIVED: Phase.ENDED,
    },
}

_FLAGS: Final[Mapping[Event, Mapping[str, Any]]] = {
    Event.ENDED: {"closed": False, "finalized": False},
    Event.REPORTED: {"closed": True},
    Event.SETTLED: {"closed": True, "finalized": True},
    Event.CAME: {"finalized": False},
    Event.RESTARTED: {"end": None, "end_reason": None, "closed": False, "finalized": False},
    Event.LOST: {"closed": True},  # there is nothing more that could be reported to MLflow
}


def phase_of(*, ended: bool, closed: bool, finalized: bool, gone: bool) -> Phase:
    """The phase that stored fields stand for, also where only a damaged record can hold them together."""
    if gone:
        if finalized:
            return Phase.BURIED
        return Phase.GONE_ENDED if ended else Phase.GONE
    if finalized:
        return Phase.FINALIZED
    if closed:
        return Phase.CLOSED
    return Phase.ENDED if ended else Phase.RUNNING


def after(phase: Phase, event: Event) -> Phase | None:
    """The phase after an event; None where it cannot happen.

    Example:
        >>> after(Phase.ENDED, Event.REPORTED)
        <Phase.CLOSED: 'closed'>
        >>> after(Phase.ENDED, Event.SETTLED) is None  # not before MLflow knows the end
        True
    """
    return _AFTER[phase].get(event)


def flags_of(event: Event, then: Phase) -> Mapping[str, Any]:
    """What an event that has led to a phase changes in the fields of a run's state, its words and its end aside."""
    if event is Event.REVIVED:
        return {"gone": None, "refused": None, "closed": then is Phase.CLOSED, "finalized": False}
    return _FLAGS[event]
