"""What a person reads when a run starts and when it ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tailrace._messages.metrics import metric_lines, metric_words
from tailrace._messages.voice import shows
from tailrace._messages.waiting import leftover, short
from tailrace_agent.ledger import Ledger
from tailrace_agent.settings.uris import missing_file, resolve_uri
from tailrace_agent.text.sparkline import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace_agent.ipc.records import LogCost, RunSpec
    from tailrace_agent.ipc.status import RunStatus
    from tailrace_agent.settings.settings import Settings

__all__ = ["end_lines", "handed_line", "left_line", "link_line", "nested_left", "new_store", "start_line"]


_LEAST_WALL_NS = 100_000_000
"""A share of less than a tenth of a second is no measure of a training."""
_NOTHING = (
    "log() was not called, and the run has no metrics: were they logged to another run? A framework's own logger "
    "(mlflow.autolog, a callback for MLflow) starts a run of its own"
)
_FEWEST_SAMPLES = 3
"""The first calls meet cold caches: a run needs some more before a time means something."""


def new_store(spec: RunSpec) -> str | None:
    """The SQLite database that MLflow will have to create for this run first, which takes it some seconds; or None."""
    # MLflow's own default: plain files in `./mlruns` where there are some, else a database.
    uri = spec.tracking_uri or (None if Path(spec.cwd, "mlruns").exists() else "sqlite:///mlflow.db")
    try:
        file = missing_file(resolve_uri(uri, spec.cwd)) if uri else None
    except OSError:  # a directory that may not be entered
        return None
    return str(file) if file is not None else None


def start_line(spec: RunSpec, settings: Settings) -> str:
    """One line: which run, and where it goes."""
    name = f" {spec.run_name!r}" if spec.run_name else ""
    what = f"resuming run {spec.run_id}" if spec.run_id else f"run{name}"
    experiment = spec.experiment_name or (f"id {spec.experiment_id}" if spec.experiment_id else "Default")
    there = "" if spec.run_id else f" in experiment {experiment!r}"  # a run that there is stays in its own
    where = spec.tracking_uri or f"MLflow's default store in {spec.cwd}"
    new = (
        ""
        if spec.run_id or new_store(spec) is None
        else " (new: MLflow creates that database first, some seconds, once)"
    )
    agent = "" if settings.agent == "process" else f" (agent: {settings.agent})"
    port = settings.prometheus_port
    served = f", Prometheus at {settings.prometheus_host}:{port}" if port else ""
    return f"{what}{there} → {where}{new}{agent}{served}"


def link_line(status: RunStatus, spec: RunSpec, settings: Settings) -> str | None:
    """One line, as soon as MLflow knows the run: where to look while it goes on. None where nothing shows its store."""
    link = status.run_id and (status.url or _link(status.run_id, status.experiment_id or "0", spec, settings))
    name = status.run_name or spec.run_name or status.run_id
    return f"look at run {name!r} as it goes: {link}" if link else None


def end_lines(
    status: RunStatus, cost: LogCost, spec: RunSpec, nested: Sequence[RunStatus], settings: Settings
) -> list[str]:
    """How the metrics ended, what arrived, what `log()` cost, where to look; and one line on the runs below it, if any.

    Args:
        status: Of the run.
        cost: What logging cost it.
        spec: What the run is.
        nested: Those of its nested runs whose ends were handed over.
        settings: In force for the run.
    """
    if spec.parent is not None:  # one of many: its parent shows where to look
        name = spec.run_name or status.run_name
        ended = metric_words(status.metrics)
        return [f"run {name!r}: {f'{ended}; ' if ended else ''}{_arrived(status)}"]
    metrics = metric_lines(status.metrics, drawn=shows(BLOCKS))
    arrived, cost_, where = _arrived(status), _cost(status, cost), _where(status, spec, settings)
    if not nested:
        return [*metrics, arrived, *cost_, where]
    # The parent of a sweep often logs nothing: a line of zeros would look like a fault.
    of_its_own = status.ledger.total.accepted or status.ledger.calls
    return [
        *metrics,
        *([arrived] if of_its_own else []),
        _nested(nested),
        *(cost_ if status.ledger.calls else []),
        where,
    ]


def handed_line(*, in_process: bool) -> str:
    """One line for runs that wait for nothing at their end."""
    by = "the agent delivers them after their end" if in_process else "they are delivered while this program runs"
    return f"end_timeout is 0: runs end without a wait, and {by}; `tailrace status` shows how far"


def nested_left(known: Sequence[RunStatus], n: int) -> str | None:
    """How many of `n` nested runs MLflow does not know the end of yet, in words; None when there are none."""
    left = n - sum(status.over for status in known)
    points = [status.ledger.of("metric") for status in known]
    done, waiting = sum(each.delivered for each in points), sum(each.pending for each in points)
    so_far = f" ({done:,} of {done + waiting:,} points so far)" if waiting else ""
    return f"{left:,} of {n:,} nested run{'s' if n != 1 else ''}{so_far}" if left else None


def left_line(
    status: RunStatus | None,
    waited: float,
    *,
    in_process: bool,
    nested: str | None = None,
    interrupted: bool = False,
    unsent: str | None = None,
    trouble: str | None = None,
) -> str:
    """One line for a run of which something is left after the wait.

    Args:
        status: Of the run, if it is known.
        waited: Seconds.
        in_process: Whether the agent is a process of its own.
        nested: What is left of its nested runs.
        interrupted: Whether a person has ended the wait.
        unsent: What kept records from being handed over to the agent, if anything did.
        trouble: What keeps the agent from taking over what was handed over, or this program from seeing it.
    """
    if unsent:
        return (
            f"not everything could be handed to the agent ({unsent}): what found no room ends with this program. "
            "What was handed over is kept; `tailrace status` shows it."
        )
    left = "everything" if status is None else leftover(status.ledger) if status.ledger.pending else "the run's end"
    left = f"{nested} and {left}" if nested else left
    problem = trouble or (status.problem if status is not None else None)
    why = f" ({short(problem, 400)})" if problem else ""
    computing = status.computing if status is not None else 0
    if computing:
        why += f" ({computing:,} of them not computed by a GPU yet: what it has not computed ends with this program)"
    nothing = "Nothing else is lost" if computing else "Nothing is lost"
    goes_on = "the agent goes on" if in_process else "it goes on while this program runs"
    after = f"{waited:.1f} s, when the wait was interrupted" if interrupted else f"{waited:.1f} s"
    again = " (Ctrl-C again stops the program)" if interrupted else ""
    return (
        f"{left} not delivered after {after}{why}{again}. {nothing}: {goes_on}, "
        "`tailrace status` shows how far, `tailrace sync` or the next start delivers what is left."
    )


def _arrived(status: RunStatus) -> str:
    ledger = status.ledger
    metrics = ledger.of("metric")
    others = [
        f"{n:,} {kind}{'s' if n != 1 else ''}"
        for kind in ("param", "tag", "artifact")
        if (n := ledger.of(kind).delivered)
    ]
    also = f" with {', '.join(others)}" if others else ""
    requests = f"{ledger.requests:,} request{'s' if ledger.requests != 1 else ''}"
    text = f"{metrics.delivered:,} point{'s' if metrics.delivered != 1 else ''} delivered{also} in {requests}"
    if ledger.pending:
        text += f"; {leftover(ledger)} pending"
    if ledger.dead:
        text += f"; {ledger.dead:,} refused by MLflow (`tailrace dead list`)"
    for reason, n in ledger.dropped.items():
        text += f"; {n:,} dropped: {reason}"
    return text if ledger.pending or ledger.dead or ledger.dropped else f"{text}; nothing lost"


def _nested(runs: Sequence[RunStatus]) -> str:
    """All of them in one line."""
    total = Ledger()
    for run in runs:
        total = total.add(run.ledger)
    by_status = Counter(run.status for run in runs)
    ended = ", ".join(f"{n:,} {status}" for status, n in sorted(by_status.items()))
    left = f"; {leftover(total)} pending" if total.pending else ""
    dead = f"; {total.dead:,} refused by MLflow (`tailrace dead list`)" if total.dead else ""
    dropped = f"; {sum(total.dropped.values()):,} dropped" if total.dropped else ""
    points = total.of("metric").delivered
    runs_, points_ = f"run{'s' if len(runs) != 1 else ''}", f"point{'s' if points != 1 else ''}"
    return f"{len(runs):,} nested {runs_} ({ended}): {points:,} {points_} delivered{left}{dead}{dropped}"


def _cost(status: RunStatus, cost: LogCost) -> list[str]:
    """One line; none where values arrived that no call of log() brought: a monitor's, those of runs below it."""
    # The agent counts rows, and a call with values on a GPU may bring two. Rows that were dropped it has not seen.
    calls = max(status.ledger.calls - cost.halves, cost.odd)
    plain, timed = calls - cost.odd, cost.samples + cost.odd
    if not calls:
        return [] if status.ledger.of("metric").accepted or status.parent else [_NOTHING]
    counted = f"{calls:,} call{'s' if calls != 1 else ''}"
    wall = f"{cost.wall_ns / 1e9:.1f} s" if cost.wall_ns >= 1e9 else f"{cost.wall_ns / 1e6:.0f} ms"
    if timed < _FEWEST_SAMPLES or (plain > cost.odd and cost.samples < _FEWEST_SAMPLES):
        return [f"{counted} of log() in {wall}, too few to time"]
    # Plain calls are sampled, one in 200; each call that took the slow path was timed.
    took = plain * cost.typical_ns + cost.odd_ns
    of_all = f", {100 * took / cost.wall_ns:.2g} % of the run's {wall}" if cost.wall_ns >= _LEAST_WALL_NS else ""
    return [f"log() cost {took / calls / 1000:.1f} µs a call{of_all} ({counted}, {timed:,} of them timed)"]


def _where(status: RunStatus, spec: RunSpec, settings: Settings) -> str:
    if not status.run_id:
        return f"the run is not in MLflow: {status.gone or status.problem}"
    link = status.url or _link(status.run_id, status.experiment_id or "0", spec, settings)
    if link:
        return f"look at {link}"
    store = f" --tracking-uri {spec.tracking_uri}" if spec.tracking_uri else ""
    return f"look at run {(status.run_name or status.run_id)!r} with `tailrace ui{store}`"


def _link(run_id: str, experiment_id: str, spec: RunSpec, settings: Settings) -> str | None:
    """The run's page in a `tailrace ui` that shows the store now."""
    from tailrace_agent.mlflow.links import run_link

    return run_link(spec.tracking_uri, spec.cwd, experiment_id, run_id, settings)
