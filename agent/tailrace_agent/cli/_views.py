"""What the command line shows of sessions and runs; `--json` prints these as they are."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["RunView", "SessionView"]


class RunView(msgspec.Struct, kw_only=True):
    """A run, as the command line shows it. `problem` is what keeps it from being delivered.

    `started` is in seconds since the epoch, and that of the session while an agent holds it. `state` is MLflow's word,
    or `UNKNOWN` when its program is gone and how it ended may still be in its ring.
    """

    run: str
    run_id: str | None
    run_name: str | None
    state: str
    store: str | None
    url: str | None
    accepted: int
    delivered: int
    pending: int
    dead: int
    dropped: dict[str, int]
    lag: float
    problem: str | None
    started: float = 0.0


class SessionView(msgspec.Struct, kw_only=True):
    """A session, as the command line shows it.

    `state` is `live` (an agent holds it), `starting` (its program lives, an agent is about to), `leftover` (something
    is undelivered and nobody is there), `finished`, `elsewhere` (of another host) or `unreadable`. `problem` is what
    is wrong with it, and `mend` what to do. `runs` are those that were looked at: none of a finished session in which
    nothing is left, unless it is shown.
    """

    id: str
    state: Literal["live", "starting", "leftover", "finished", "elsewhere", "unreadable"]
    program: str
    host: str
    created: float
    directory: str
    agent_pid: int | None = None
    metrics_url: str | None = None
    trainer_alive: bool = False
    in_ring_bytes: int = 0
    problem: str | None = None
    mend: str | None = None
    runs: list[RunView] = []

    @property
    def pending(self) -> int:
        """Entries of all runs that are on the way."""
        return sum(run.pending for run in self.runs)

    @property
    def needs_you(self) -> bool:
        """Whether `status` and `sync` call it left over: nobody delivers it, or something is in the way."""
        wrong = self.state in ("leftover", "unreadable") or self.problem is not None or self.dead > 0
        return wrong or any(run.problem for run in self.runs)

    @property
    def dead(self) -> int:
        """Dead letters of all runs."""
        return sum(run.dead for run in self.runs)
