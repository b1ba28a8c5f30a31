"""What must hold in the end, when the agent has left: MLflow, the ledgers and what was logged say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock
from zlib import adler32

import msgspec

from simulation.best_values import fault_of_bests, is_best
from simulation.journal import Row
from simulation.model import POISON
from simulation.oracle import VALUES, Wrong
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ledger import Ledger
from tailrace_agent.sinks.memory import MemoryRun
from tailrace_agent.spool import database
from tailrace_agent.spool import schema as spool_schema
from tailrace_agent.spool.store import Spool

if TYPE_CHECKING:
    from simulation.world import World

__all__ = ["Verdict"]

_CUT = "[cut by tailrace"


class Verdict:
    """Compares, run by run."""

    def __init__(self, world: World) -> None:
        self._world, self._journal = world, world.journal
        # What is under way for long is overtaken: an older tag may arrive last, a run be created when all is over.
        self._late = bool(world.points.struck["request: late"])

    def check(self) -> None:
        world = self._world
        if not world.session.dir.exists():
            known = [row for run in world.journal.runs for row in self._begun(run)]
            if known:
                raise Wrong(f"the session is deleted, and {known[0]} with it")
            return
        with mock.patch.object(database, "connect", spool_schema.connect):
            left = Spool(world.session.dir / "spool.db")
        try:
            for run in world.journal.runs:
                if self._begun(run):
                    self._check_run(run, left)
            if left.waiting.points:
                raise Wrong(f"{left.waiting.points} wait for ever")
        finally:
            left.close()

    def _begun(self, run: int) -> list[Row]:
        return [row for row in self._journal.of(run, "start", "again") if self._journal.kept(row)]

    def _check_run(self, run: int, spool: Spool) -> None:
        world, ledger = self._world, spool.counts.ledger(run)
        self._check_counts(run, ledger)
        rows = [row for row in self._journal.of(run, *VALUES) if self._journal.kept(row)]
        world.oracle.explain(run, rows, spool, "in the end")
        mine = [each for each in world.model.runs.values() if each.tags.get("tailrace.run") == run_hex(run)]
        found = [each for each in mine if not each.deleted]
        if run in self._journal.deleted:
            return
        self._check_dead(run, spool)
        if self._late:  # a creation that arrives when all is over leaves an empty twin
            found = [each for each in found if each.metrics or each.status != "RUNNING"] or found
        if len(found) != 1 and len(found) == len(mine):
            raise Wrong(f"{len(found)} runs of {run_hex(run)}")
        for stored in found:
            dropped = ledger.of("metric").dropped.get("spool at its bound", 0)
            if fault := fault_of_bests(world, run, stored, self._journal.order, dropped=dropped):
                raise Wrong(f"in the end {fault}")
            self._check_invented(run, stored)
            self._check_keys(run, stored, spool, ledger)
            if not (self._late and ledger.dropped):  # what was dropped while it was under way for long
                self._check_order(run, stored)
            self._check_status(run, stored)
            self._check_texts(run, "param", stored.params)
            self._check_texts(run, "tag", stored.tags)
            self._check_artifacts(run, stored, ledger)
            self._check_note(stored, ledger)

    def _check_note(self, stored: MemoryRun, ledger: Ledger) -> None:
        noted = msgspec.json.decode(stored.tags["tailrace.ledger"])
        said = msgspec.to_builtins(ledger.summary())
        if noted != said and not self._late:
            raise Wrong(f"the ledger with the run says {noted}, and not {said}")

    def _check_dead(self, run: int, spool: Spool) -> None:
        """Nothing is buried but what MLflow refuses."""
        for letter in spool.letters.all(run):
            changed = letter.kind == "param" and letter.reason.startswith("Changing param")
            stubborn = letter.kind == "artifact" and any(
                act[0] == "upload_fault" for act in self._world.scenario.actions
            )
            if not (changed or stubborn or letter.key.startswith(POISON)):
                raise Wrong(f"{letter.kind} {letter.key} lies dead: {letter.reason}")

    def _check_counts(self, run: int, ledger: Ledger) -> None:
        """What was logged was counted."""
        journal = self._journal
        for kind in (*VALUES, "artifact"):
            counts = ledger.of(kind)
            if counts.pending or counts.delivered < 0 or counts.dead < 0:
                raise Wrong(f"the ledger of {run_hex(run)} does not add up: {kind} {counts}")
            rows = journal.of(run, kind)
            size = 1 if kind == "artifact" else None
            sure = sum(size or len(row.marks) + row.bad for row in rows if journal.kept(row))
            most = sum(size or len(row.marks) + row.bad for row in rows if journal.kept(row) or journal.cut or row.lost)
            if kind == "artifact":  # files of a directory that are refused count by themselves
                long = journal.of(run, "param")
                sure += sum(row.bad for row in long if journal.kept(row))
                most += sum(len(row.marks) for row in rows) + sum(row.bad for row in long)
            if kind == "metric":
                most += len(journal.torn) + self._best_values(run)
            if not sure <= counts.accepted <= most:
                raise Wrong(f"{run_hex(run)}: {sure} to {most} {kind}s were logged, and {counts.accepted} counted")

    def _best_values(self, run: int) -> int:
        """The most that a run may have been given: of two metrics, with each end and what is read after the first."""
        if not self._world.scenario.bests:
            return 0
        ends = [row.order for row in self._journal.of(run, "end")] or list(self._journal.deaths.values())
        late = self._journal.read_late(run, min(ends, default=0), "metric", "goals")
        return 4 * (1 + len(ends) + len(late))

    def _check_invented(self, run: int, stored: MemoryRun) -> None:
        logged = {mark for row in self._journal.of(run, "metric") for mark in row.marks}
        invented = {mark for mark in self._world.model.marks(stored.run_id) if not is_best(mark[0])} - logged
        if invented:
            raise Wrong(f"MLflow has what nobody logged to {run_hex(run)}: {sorted(invented, key=repr)[:3]}")

    def _check_keys(self, run: int, stored: MemoryRun, spool: Spool, ledger: Ledger) -> None:
        """What `tailrace verify` compares."""
        counted = {key: n for key, n in spool.counts.delivered_keys(run).items() if n}
        there = {key: len(points) for key, points in stored.metrics.items()}
        metric = ledger.of("metric")
        if sum(counted.values()) != metric.delivered - metric.merged:
            raise Wrong(f"{run_hex(run)}: delivered {metric.delivered}, merged {metric.merged}, by key {counted}")
        if counted == there:
            return
        # An agent remembers what it sent last, and forgets it with its death.
        twins = self._journal.twins(run) if self._world.deaths or self._journal.cut else {}
        for key in {*counted, *there}:
            more = counted.get(key, 0) - there.get(key, 0)
            # What was dropped when its answer had been lost may be there all the same.
            dropped = metric.dead + sum(metric.dropped.values())
            if more > twins.get(key, 0) or (-more > dropped and not self._journal.cut):
                raise Wrong(
                    f"{run_hex(run)}: {key} was delivered {counted.get(key, 0)} times, MLflow has {there.get(key, 0)}"
                )

    def _check_order(self, run: int, stored: MemoryRun) -> None:
        """The values of one program arrive as they were logged."""
        order = {mark: (row.ring, row.order) for row in self._journal.of(run, "metric") for mark in row.marks}
        last: dict[tuple[str, Any], int] = {}
        for mark in self._world.model.arrivals.get(stored.run_id, ()):
            if is_best(mark[0]):
                continue
            ring, at = order[mark]
            if at < last.get((ring, mark[0]), -1):
                raise Wrong(f"{run_hex(run)}: {mark} of {ring} arrived after a later one")
            last[ring, mark[0]] = at

    def _check_status(self, run: int, stored: MemoryRun) -> None:
        journal = self._journal
        ends = [row.record.status for row in journal.of(run, "end") if journal.kept(row)]
        maybe = [row.record.status for row in journal.of(run, "end")]
        allowed = ends[:1] or ["KILLED", *maybe]
        if stored.status not in allowed:
            raise Wrong(f"{run_hex(run)} is {stored.status} in MLflow, and ended as {allowed}")

    def _check_texts(self, run: int, kind: str, there: dict[str, str]) -> None:
        rows = [row for row in self._journal.of(run, kind) if row.index is not None]
        logged = {mark for row in rows for mark in row.marks}
        for key, value in there.items():
            if not key.startswith(("tailrace.", "mlflow.")) and (key, value) not in logged and _CUT not in value:
                raise Wrong(f"MLflow has the {kind} {key}={value} that nobody logged")
        if len({row.ring for row in rows}) != 1 or self._late or self._journal.cut:
            return
        # The first value of a param stays, and the last one of a tag.
        expected = dict(mark for row in (rows if kind == "tag" else rows[::-1]) for mark in row.marks)
        wrong = {key: (value, there.get(key)) for key, value in expected.items() if there.get(key) != value}
        if any(not key.startswith(POISON) for key in wrong):
            raise Wrong(f"{kind}s of {run_hex(run)} are not what they should be: {wrong}")

    def _check_artifacts(self, run: int, stored: MemoryRun, ledger: Ledger) -> None:
        there = {(path, adler32(body)) for path, body in stored.artifacts.items()}
        rows = [row for row in self._journal.of(run, "artifact") if self._journal.kept(row)]
        missing = [row for row in rows if not set(row.marks) <= there]
        counts = ledger.of("artifact")
        if len(missing) > counts.dead or counts.dropped:
            raise Wrong(f"{len(missing)} artifacts of {run_hex(run)} are not in MLflow, and {counts}")
