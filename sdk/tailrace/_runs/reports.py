"""What is said of a run beside its status: what logging cost, what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tailrace_agent.ipc.records import LogCost
from tailrace_agent.ipc.tags import THINNED_TAG
from tailrace_agent.text.masking import mask_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace._log.slow_path import SlowPath
    from tailrace._messages.voice import Voice

__all__ = ["log_cost", "message_of", "tell_thinned"]

_MAX_MESSAGE: Final = 5000  # characters; servers of MLflow 2 take no more in a tag


def message_of(error: BaseException) -> str:
    """The message of an error, without secrets, as long as a tag may be."""
    try:
        message = str(error)
    except Exception as another:  # noqa: BLE001 - a foreign __str__ may raise anything
        message = f"(its message cannot be had: {type(another).__name__})"
    return mask_text(message[: 2 * _MAX_MESSAGE])[:_MAX_MESSAGE]  # half a secret might not be known as one


def log_cost(timings: Sequence[int], wall_ns: int, slow: SlowPath) -> LogCost:
    """What the calls of `log()` of a run have cost this process.

    Args:
        timings: Nanoseconds that timed calls took.
        wall_ns: How long the run has lasted.
        slow: What has taken the others.
    """
    # The median: a page fault or a switch of threads in one call says nothing about the others.
    typical = sorted(timings)[len(timings) // 2] if timings else 0
    return LogCost(len(timings), typical, wall_ns, slow.calls, slow.took_ns, halves=slow.halves)


def tell_thinned(set_tags: Callable[[dict[str, str]], object], voice: Voice, run: int, text: str, first: bool) -> None:
    """Says what of a run is thinned: in its tag, and the first time to people."""
    set_tags({THINNED_TAG: text})
    if first:
        voice.warn(text, once=("thinned", run))
