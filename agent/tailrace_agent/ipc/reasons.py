"""Why something that was accepted is given up: the closed set of reasons that the ledger counts by.

The words are what spools hold and what people read (`tailrace status`, the line at a run's end, the tag
`tailrace.ledger`): one that is changed makes two counts out of one. A dead letter has no such reason: MLflow refused
it, or its run is gone; what was answered is kept with it, and nobody counts by that.
"""

from __future__ import annotations

from typing import Literal, cast

__all__ = ["Reason", "because", "of_the_trainer"]

Reason = Literal[
    # in the training process
    "value is no number",
    "step is no integer",
    "metrics are no mapping",
    "params are no mapping",
    "could not be read",
    "could not be read or drawn",
    "could not be saved",
    "device failed",
    "too many waiting",
    # where its rows go
    "ring closed",
    "disk full",
    "spill file at its bound",
    "spill file",
    "this process cannot log to the run",
    "thinned to keep overhead_budget",
    # when the agent takes them over
    "damaged in the ring",
    "unreadable row",
    "key is no string",
    "step is too large",
    "staged elsewhere",
    "after its step's statistics",
    "not computed by its device",
    # while they wait
    "spool at its bound",
    "lost with a damaged spool",
    "unreadable block",
    "cut short by a power cut",
    "staged copy is gone",
    "discarded by the user",
]


def because(reason: Reason, error: object) -> Reason:
    """The reason, with the system's message behind: these are counted apart.

    Example:
        >>> because("spill file", "Input/output error")
        'spill file: Input/output error'
    """
    return cast("Reason", f"{reason}: {error}")


def of_the_trainer(text: str) -> Reason:
    """The reason in a `Drop`: of a program that may be older or newer than this agent, so its words are kept."""
    return cast("Reason", text)
