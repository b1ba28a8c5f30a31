"""What a person reads when a run starts and when it ends."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tailrace._wait import leftover, short

if TYPE_CHECKING:
    from tailrace_agent.records import LogCost, RunSpec
    from tailrace_agent.settings import Settings
    from tailrace_agent.status import RunStatus

__all__ = ["end_lines", "left_line", "start_line"]


_FEWEST_SAMPLES = 3
"""The first calls meet cold caches: a run needs some more before a time says something of it."""


def start_line(spec: RunSpec, settings: Settings) -> str:
    """One line: which run, and where it goes."""
    name = f" {spec.run_name!r}" if spec.run_name else ""
    what = f"resuming run {spec.run_id}" if spec.run_id else f"run{name}"
    experiment = spec.experiment_name or (f"id {spec.experiment_id}" if spec.experiment_id else "Default")
    there = "" if spec.run_id else f" in experiment {experiment!r}"  # a run that there is stays in its own
    where = spec.tracking_uri or f"MLflow's default store in {spec.cwd}"
    agent = "" if settings.agent == "process" else f" (agent: {settings.agent})"
    port = settings.prometheus_port
    served = f", Prometheus at {settings.prometheus_host}:{port}" if port else ""
    return f"{what}{there} → {where}{agent}{served}"


def end_lines(status: RunStatus, cost: LogCost, spec: RunSpec, settings: Settings | None = None) -> list[str]:
    """Three lines: what arrived, what `log()` cost, where to look."""
    return [_arrived(status), _cost(status, cost), _where(status, spec, settings)]


def left_line(status: RunStatus | None, timeout: float, settings: Settings, unsent: str | None = None) -> str:
    """One line for a run that could not be delivered within its time-out."""
    if unsent:
        return (
            f"not everything could be handed to the agent ({unsent}): what found no room ends with this program. "
            "What was handed over is kept; `tailrace status` shows it."
        )
    left = "everything" if status is None else leftover(status.ledger) if status.ledger.pending else "the run's end"
    why = f" ({short(status.problem, 200)})" if status is not None and status.problem else ""
    goes_on = "the agent goes on" if settings.agent == "process" else "it goes on while this program runs"
    return (
        f"{left} not delivered after {timeout:.1f} s{why}. Nothing is lost: {goes_on}, "
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


def _cost(status: RunStatus, cost: LogCost) -> str:
    calls = max(status.ledger.calls - cost.halves, cost.odd)
    plain, timed = calls - cost.odd, cost.samples + cost.odd
    counted = f"{calls:,} call{'s' if calls != 1 else ''}"
    wall = f"{cost.wall_ns / 1e9:.1f} s" if cost.wall_ns >= 1e9 else f"{cost.wall_ns / 1e6:.0f} ms"
    if timed < _FEWEST_SAMPLES or (plain > cost.odd and cost.samples < _FEWEST_SAMPLES):
        return f"{counted} of log() in {wall}, too few to time"
    took = plain * cost.typical_ns + cost.odd_ns
    return (
        f"log() cost {took / calls / 1000:.1f} µs a call, {100 * took / cost.wall_ns:.2g} % of the run's {wall} "
        f"({counted}, {timed:,} of them timed)"
    )


def _where(status: RunStatus, spec: RunSpec, settings: Settings | None) -> str:
    if not status.run_id:
        return f"the run is not in MLflow: {status.gone or status.problem}"
    link = status.url or _link(status.run_id, status.experiment_id or "0", spec, settings)
    if link:
        return f"look at {link}"
    store = f" --tracking-uri {spec.tracking_uri}" if spec.tracking_uri else ""
    return f"look at run {(status.run_name or status.run_id)!r} with `tailrace ui{store}`"


def _link(run_id: str, experiment_id: str, spec: RunSpec, settings: Settings | None) -> str | None:
    """The run's page in a `tailrace ui` that shows the store now."""
    from tailrace_agent.errors import SettingsError
    from tailrace_agent.links import run_link
    from tailrace_agent.settings import load_settings

    with contextlib.suppress(SettingsError):  # a file that has changed since the run began
        return run_link(spec.tracking_uri, spec.cwd, experiment_id, run_id, settings or load_settings())
    return None
