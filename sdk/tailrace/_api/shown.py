"""How a run shows itself: one line, or in a notebook a card that goes on while the run does.

By what is known now; nothing is waited for, and nothing printed.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tailrace._messages.notebook import cells
from tailrace._messages.outputs import Drawn
from tailrace._runs.run_part import RunPart
from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.text.cards import brief

if TYPE_CHECKING:
    from tailrace._messages.run_card import RunFacts
    from tailrace._runs.core import RunCore
    from tailrace_agent.ipc.status import MetricEnds

__all__ = ["Shown", "known_facts"]


class Shown(RunPart):
    """How a run shows itself. A base of `Run`."""

    def __repr__(self) -> str:
        name, facts = known_facts(self._core)
        run_id = facts["run_id"]
        where = facts["link"] or (f"run_id={run_id}" if run_id else f"id={self._core.id}")
        return brief("Run", name, facts["status"], where, "tracking is off" if self._core.connection is None else None)

    def _repr_html_(self) -> str:
        """Its card, as it is now."""
        return self._drawn().html

    def _ipython_display_(self) -> None:
        """Its card, kept up to date until the run is over.

        Raises:
            NotImplementedError: No notebook shows it; IPython then prints the line.
        """
        notebook = cells()
        if notebook is None:
            raise NotImplementedError
        notebook.outputs.keep(self._drawn, self._core.spec.run)

    def _drawn(self) -> Drawn:
        from tailrace._messages.run_card import run_card  # with `html`, which only a notebook needs

        status = _known(self._core)
        over = status.over or self._core.connection is None
        return Drawn(run_card(_card_facts(self._core, status, getattr(self, "_goals", {}))), repr(self), over)


def known_facts(run: RunCore) -> tuple[str | None, dict[str, str | None]]:
    """The name of a run, and what else is known now; nothing is waited for, and nothing printed."""
    spec, known = run.spec, _known(run)
    facts = {
        "status": run.outcome or known.status,
        "experiment": spec.experiment_name,
        "experiment_id": known.experiment_id or spec.experiment_id,
        "run_id": known.run_id or spec.run_id,
        "link": known.url,
    }
    return spec.run_name or known.run_name, facts


def _known(run: RunCore) -> RunStatus:
    # Not by `status`, which prints notices: this is called by `repr`, in a debugger for instance.
    known = (run.connection.status(run.spec.run) if run.connection is not None else None) or run.seen
    return known or RunStatus(run=run.spec.run)


def _card_facts(run: RunCore, status: RunStatus, defined: dict[str, str]) -> RunFacts:
    from tailrace._messages.run_card import RunFacts

    name, facts = known_facts(run)
    above = run.parent
    where = [
        *([f"experiment {facts['experiment']}"] if facts["experiment"] else []),
        *([f"nested in {above.spec.run_name or above.id}"] if above is not None else []),
    ]
    return RunFacts(
        name or "run without a name yet",
        facts["status"] or "RUNNING",
        where,
        _link(run, status),
        _metrics(run, status, defined),
        _notes(run, status),
        status.refused or status.gone or status.problem,
    )


def _link(run: RunCore, status: RunStatus) -> str | None:
    if status.url or not status.run_id:
        return status.url
    from tailrace_agent.mlflow.links import run_link

    spec = run.spec
    return run_link(spec.tracking_uri, spec.cwd, status.experiment_id or "0", status.run_id, run.settings)


def _metrics(run: RunCore, status: RunStatus, defined: dict[str, str]) -> MetricEnds:
    if run.connection is None or status.metrics.shown:
        return status.metrics
    from tailrace._messages.metrics import metrics_now
    from tailrace_agent.ipc import curve_files

    shared = run.connection.session.shared
    with contextlib.suppress(OSError):  # gone, or full: the card is without metrics then
        curve_files.ask(shared)
    curves = curve_files.read(shared, run.spec.run)
    if curves is None:
        return status.metrics
    return metrics_now(curves, defined, by_name=run.settings.best_metrics)


def _notes(run: RunCore, status: RunStatus) -> list[str]:
    if run.connection is None:
        return ["tracking is off"]
    points, ledger = status.ledger.of("metric"), status.ledger
    notes = [f"{points.delivered:,} point{'s' if points.delivered != 1 else ''} delivered"]
    if ledger.pending:
        notes.append(f"{ledger.pending:,} waiting")
    if ledger.dead:
        notes.append(f"{ledger.dead:,} refused by MLflow")
    if ledger.dropped:
        notes.append(f"{sum(ledger.dropped.values()):,} dropped")
    if not status.run_id and not status.refused:
        notes.append("MLflow has not created it yet")
    return notes
