"""What must hold at any moment: after each turn, at each answer to who waits, at each end that MLflow is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from simulation.best_values import fault_of_bests
from simulation.journal import Mark, Row, mark_of
from tailrace_agent.ipc.records import Point, run_hex
from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.sinks.memory import MemoryRun
from tailrace_agent.spool.blocks import decode_rows
from tailrace_agent.spool.store import Spool

if TYPE_CHECKING:
    from simulation.world import World

__all__ = ["VALUES", "Oracle", "Wrong"]

_TERMINAL = ("FINISHED", "FAILED", "KILLED")
_BOUND = "spool at its bound"
VALUES = ("metric", "param", "tag")


class Wrong(BaseException):
    """An invariant does not hold. Nothing in between handles it."""


class Oracle:
    """Compares what was logged with what became of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._settled: dict[tuple[str, int], int] = {}
        self._failed = False
        world.model.on_status = self.ended

    # -- while it runs -----------------------------------------------------------------------------------------------

    def heard(self, event: str, fields: dict[str, object]) -> None:
        """The agent's log has an error."""
        self._failed = self._failed or event == "step failed"
        if event == "step failed" and not str(fields["error"]).startswith(("OperationalError", "OSError")):
            raise Wrong(f"a step raised {fields['error']}")

    def after_turn(self, name: str) -> None:
        """Bounds."""
        agent, scenario = self._world.agent, self._world.scenario
        failed, self._failed = self._failed, False
        if name == "tailrace-drain" and agent is not None and not agent.left and not failed:
            spool = agent.pipeline.spool
            waiting = spool.waiting
            if waiting.bytes < 0 or waiting.points < 0:
                raise Wrong(f"the spool has {waiting.points} points, {waiting.bytes} bytes")
            if waiting.bytes > scenario.spool_max_bytes and not waiting.held:
                kinds = spool.database.rows("SELECT total(length(body)) FROM block WHERE kind = 'metric'")[0][0]
                if kinds:
                    raise Wrong(f"the spool holds {waiting.bytes} bytes, {kinds} of them metrics, beyond its bound")

    def ended(self, run: MemoryRun) -> None:
        """MLflow is told the end of a run: everything from before must be there."""
        mine = int(run.tags["tailrace.run"], 16)
        journal = self._world.journal
        if run.status not in _TERMINAL:
            return
        ends = [row for row in journal.of(mine, "end") if row.index is not None]
        start = journal.of(mine, "start")[0]
        order = ends[-1].order if ends else journal.deaths.get(start.ring, 0)
        what = f"MLflow is told that {run.run_name} is {run.status}"
        self._all_there(mine, order, what)
        if "tailrace.ledger" not in run.tags:
            raise Wrong(f"{what}, and has no ledger of it")
        if mine not in journal.deleted:
            agent = self._world.agent
            assert agent is not None
            dropped = agent.pipeline.spool.counts.ledger(mine).of("metric").dropped.get(_BOUND, 0)
            if fault := fault_of_bests(self._world, mine, run, order, dropped=dropped):
                raise Wrong(f"{what}, but {fault}")
        if not ends and not run.tags.get("tailrace.end_reason"):
            raise Wrong(f"{what}, and not why")
        late = self._world.points.struck["request: late"]  # a twin of such a run may arrive when all is over
        for below in journal.below(mine):
            ended = [row for row in journal.of(below, "end") if row.order < order and journal.kept(row)]
            there = self._world.model.of(run_hex(below)) if ended and not late else []
            if any(each.status not in _TERMINAL for each in there):
                raise Wrong(f"{what}, before the nested run {run_hex(below)} is ended")

    def told(self, told: RunStatus) -> None:
        """A status file says what is settled."""
        for ring, token in told.settled.items():
            if self._settled.get((ring, told.run), 0) >= token:
                continue
            self._settled[ring, told.run] = token
            flushes = [row for row in self._world.journal.of(told.run, "flush") if row.ring == ring]
            order = max((row.order for row in flushes if row.record.token == token), default=0)
            self._all_there(told.run, order, f"flush {token} of {ring} is answered", ring=ring)

    def _all_there(self, run: int, before: int, when: str, *, ring: str | None = None) -> None:
        agent = self._world.agent
        assert agent is not None
        rows = [
            row
            for row in self._world.journal.of(run, *VALUES)
            if row.order < before and self._world.journal.kept(row) and ring in (None, row.ring)
        ]
        self.explain(run, rows, agent.pipeline.spool, when)

    def explain(self, run: int, rows: list[Row], spool: Spool, when: str) -> None:
        """These values are in the store; or else dead or dropped, and counted so."""
        stored, ledger, dead = self._stored(run), spool.counts.ledger(run), _dead_marks(spool, run)
        buried = [(letter.kind, letter.n) for letter in spool.letters.all(run) if letter.key == "*"]
        for kind in VALUES:
            missing = {mark for row in rows if row.kind == kind for mark in row.marks} - stored[kind] - dead[kind]
            if kind == "tag":  # a later value has taken the place of an earlier one
                missing = {mark for mark in missing if mark[0] not in {key for key, _ in stored["tag"]}}
            # Those of a run that is gone are buried block by block; those at the bound are only counted.
            counts = ledger.of(kind)
            unnamed = counts.dropped.get(_BOUND, 0) + sum(n for each, n in buried if each == kind)
            if len(missing) > unnamed:
                some = sorted(missing, key=repr)[:3]
                raise Wrong(f"{when}, but of {run_hex(run)} {len(missing)} {kind}s are not there: {some}")

    def left(self) -> str:
        agent = self._world.agent
        if agent is None:
            return "there is none"
        states = [
            f"{run_hex(s.run)}: end={s.end is not None} closed={s.closed} finalized={s.finalized}"
            for s in agent.pipeline.book.all()
        ]
        return f"{agent.pipeline.spool.waiting.points} wait; {states}; rings {agent.pipeline.session.rings()}"

    def _stored(self, run: int) -> dict[str, set[Mark]]:
        stored: dict[str, set[Mark]] = {"metric": set(), "param": set(), "tag": set()}
        for found in self._world.model.runs.values():
            if found.tags.get("tailrace.run") == run_hex(run):
                stored["metric"] |= self._world.model.marks(found.run_id)
                stored["param"] |= set(found.params.items())
                stored["tag"] |= set(found.tags.items())
        return stored


def _dead_marks(spool: Spool, run: int) -> dict[str, set[Mark]]:
    """What lies dead, by kind."""
    marks: dict[str, set[Mark]] = {"metric": set(), "param": set(), "tag": set(), "artifact": set()}
    for letter in spool.letters.all(run):
        if letter.kind == "metric":
            for _, step, time_ns, values in decode_rows(letter.body):
                for key, value in values.items():
                    marks["metric"].add(mark_of(Point(key, float(value), time_ns // 1_000_000, step)))
        elif letter.kind != "artifact":
            marks[letter.kind] |= set(msgspec.msgpack.decode(letter.body, type=dict[str, str]).items())
    return marks
