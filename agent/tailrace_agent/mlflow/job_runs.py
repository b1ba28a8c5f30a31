"""Which run of a store is the one that a job shares, where several carry its mark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tailrace_agent.ipc.records import RunSpec
from tailrace_agent.ipc.tags import ATTEMPT_TAG, FALLEN_TAG, NONE_FELL

__all__ = ["attempt_of", "is_of_job", "is_over", "tags_of_restart"]

_CLOCKS: Final = 5 * 60_000
"""Milliseconds by which the clocks of two nodes may differ."""


def attempt_of(tags: Mapping[str, str]) -> int:
    """In which attempt of its job a run is, by its tags."""
    text = tags.get(ATTEMPT_TAG, "")
    return int(text) if text.isdecimal() else 0


def is_over(status: str) -> bool:
    """Whether MLflow has an end for a run of this status."""
    return status not in ("RUNNING", "SCHEDULED")


def is_of_job(spec: RunSpec, status: str, end_time: int | None) -> bool:
    """Whether a run that carries the mark of this spec is the job's, and not that of an earlier one with the same key.

    Args:
        spec: What was requested.
        status: What MLflow has of the run.
        end_time: When it ended, in milliseconds.

    Example:
        >>> from tailrace_agent.ipc.records import JobPart, RunSpec
        >>> spec = RunSpec(run=1, start_time=10**12, cwd="/", job=JobPart(key="torchelastic:100", weak=True))
        >>> is_of_job(spec, "FINISHED", 10**12 - 10**9), is_of_job(spec, "RUNNING", None)
        (False, True)
    """
    if spec.job is None or not spec.job.weak or not is_over(status):
        return True
    # Rank 0 comes before the run is there: a run that has ended is another job's. The others may be late.
    return not spec.owned and (end_time or 0) > spec.start_time - _CLOCKS


def tags_of_restart(spec: RunSpec, tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """What changes with a run in which a job goes on that was started anew: what fell before is none of this attempt's.

    Args:
        spec: What was requested.
        tags: What the run has.

    Example:
        >>> from tailrace_agent.ipc.records import RunSpec
        >>> spec = RunSpec(run=1, start_time=1, cwd="/", tags={"tailrace.attempt": "2"})
        >>> tags_of_restart(spec, {"tailrace.fallen.node1": "{}", "tailrace.fallen.node2": "none"})
        [('tailrace.fallen.node1', 'none'), ('tailrace.attempt', '2')]
    """
    changed = [(key, NONE_FELL) for key in tags if key.startswith(FALLEN_TAG) and tags[key] != NONE_FELL]
    attempt = spec.tags.get(ATTEMPT_TAG)
    if attempt is not None and tags.get(ATTEMPT_TAG) != attempt:
        changed.append((ATTEMPT_TAG, attempt))
    return changed
