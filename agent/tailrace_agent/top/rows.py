"""What is known of runs: plain data, whatever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from tailrace_agent.top.courses import Course

__all__ = ["Known", "RunRow"]


class RunRow(msgspec.Struct, kw_only=True):
    """A run in the list.

    Attributes:
        key: Whatever its source finds it by.
        name: What people call it.
        state: MLflow's word, or `UNKNOWN`.
        live: Whether an agent holds it, or its store says that it runs.
        started: Seconds since the epoch.
        step: The last one that was logged; None where that is not known.
        rate: Steps a second, lately.
        pending: Entries on their way.
        accepted: Entries that its program has logged; None where only MLflow knows the run.
        delivered: Of these, in MLflow.
        dead: Of these, refused.
        dropped: Of these, given up, by reason.
        lag: Seconds for which the oldest has waited.
        problem: What keeps it from being delivered.
        notices: What its user was told.
        url: Its page.
        program: What ran.
        run_id: MLflow's id.
        store: Its tracking URI, without secrets.
        console: The file with what it prints, where there is one.
    """

    key: str
    name: str
    state: str
    live: bool = False
    started: float = 0.0
    step: int | None = None
    rate: float | None = None
    pending: int = 0
    accepted: int | None = None
    delivered: int = 0
    dead: int = 0
    dropped: dict[str, int] = {}
    lag: float = 0.0
    problem: str | None = None
    notices: list[str] = []
    url: str | None = None
    program: str = ""
    run_id: str | None = None
    store: str | None = None
    console: Path | None = None


class Known(msgspec.Struct):
    """All that a frame shows.

    Attributes:
        runs: In the order of the list.
        courses: Of the metrics of some runs, by run and metric.
        left_out: Metrics of a run of which no course is known, by run.
        tails: The last lines of consoles, by run.
        place: Where the runs are, for the title.
        fault: What keeps it from being up to date.
        of: How many runs there are, where not all of them are in the list.
        more: Whether there may be more runs than were asked for.
        empty: What is said where there are none.
    """

    runs: list[RunRow] = []
    courses: dict[str, Mapping[str, Course]] = {}
    left_out: dict[str, int] = {}
    tails: dict[str, list[str]] = {}
    place: str = ""
    fault: str | None = None
    of: int | None = None
    more: bool = False
    empty: str = "no runs yet: they appear here as soon as a program logs"
