"""What must hold, whatever happens: checked after each turn, at each answer, at each status, and in the end."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any
from zlib import adler32

import msgspec

from simulation.journal import Mark, Row, mark_of
from simulation.model import POISON
from tailrace_agent.intake import decode_rows
from tailrace_agent.ledger import Ledger
from tailrace_agent.memory_sink import MemoryRun
from tailrace_agent.records import Point, run_hex
from tailrace_agent.spool import Spool
from tailrace_agent.status import RunStatus

if TYPE_CHECKING:
    from simulation.world import World

__all__ = ["Oracle", "Wrong"]

_TERMINAL = ("FINISHED", "FAILED", "KILLED")
_CUT = "[cut by tailrace"
_VALUES = ("metric", "param", "tag")


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
            if spool.bytes < 0 or spool.points < 0:
                raise Wrong(f"the spool has {spool.points} points, {spool.bytes} bytes")
            if spool.bytes > scenario.spool_max_bytes and not spool._held:
                kinds = spool._all("SELECT total(length(body)) FROM block WHERE kind = 'metric'")[0][0]
                if kinds:
                    raise Wrong(f"the spool holds {spool.bytes} bytes, {kinds} of them metrics, beyond its bound")

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
        if not ends and not run.tags.get("tailrace.end_reason"):
            raise Wrong(f"{what}, and not why")
        for below in journal.below(mine):
            ended = [row for row in journal.of(below, "end") if row.order < order and journal.kept(row)]
            if ended and any(each.status not in _TERMINAL for each in self._world.model.of(run_hex(below))):
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
            for row in self._world.journal.of(run, *_VALUES)
            if row.order < before and self._world.journal.kept(row) and ring in (None, row.ring)
        ]
        self._explain(run, rows, agent.pipeline.spool, when)

    def _explain(self, run: int, rows: list[Row], spool: Spool, when: str) -> None:
        """These values are in the store; or else dead or dropped, and counted so."""
        stored, ledger = self._stored(run), spool.ledger(run)
        dead = _dead_marks(spool, run)
        for kind in _VALUES:
            missing = {mark for row in rows if row.kind == kind for mark in row.marks} - stored[kind] - dead[kind]
            if kind == "tag":  # a later value has taken the place of an earlier one
                missing = {mark for mark in missing if mark[0] not in {key for key, _ in stored["tag"]}}
            if kind == "param":  # MLflow keeps the first value; another one is dead
                missing = {mark for mark in missing if mark not in dead[kind]}
            dropped = sum(ledger.of(kind).dropped.values()) + ("*" in dead) * ledger.of(kind).dead
            if len(missing) > dropped:
                raise Wrong(f"{when}, but of {run_hex(run)} {len(missing)} {kind}s are not there: {sorted(missing, key=repr)[:3]}")

    # -- in the end --------------------------------------------------------------------------------------------------

    def left(self) -> str:
        agent = self._world.agent
        if agent is None:
            return "there is none"
        states = [
            f"{run_hex(s.run)}: end={s.end is not None} closed={s.closed} finalized={s.finalized}"
            for s in agent.pipeline.book.all()
        ]
        return f"{agent.pipeline.spool.points} wait; {states}; rings {agent.pipeline.session.rings()}"

    def check(self) -> None:
        world = self._world
        if not world.session.dir.exists():
            known = [row for run in world.journal.runs for row in world.journal.of(run, "start") if world.journal.kept(row)]
            if known:
                raise Wrong(f"the session is deleted, and {known[0]} with it")
            return
        with _reading(world) as spool:
            for run in world.journal.runs:
                starts = [row for row in world.journal.of(run, "start", "again") if world.journal.kept(row)]
                if starts:
                    self._check_run(run, spool)
            if spool.points:
                raise Wrong(f"{spool.points} wait for ever")

    def _check_run(self, run: int, spool: Spool) -> None:
        journal, found = self._world.journal, self._world.model.of(run_hex(run))
        ledger = spool.ledger(run)
        self._check_counts(run, ledger)
        rows = [row for row in journal.of(run, *_VALUES) if journal.kept(row)]
        self._explain(run, rows, spool, "in the end")
        if any(r.deleted for r in self._world.model.runs.values() if r.tags.get("tailrace.run") == run_hex(run) and r.metrics):
            return
        if self._world.points.struck["request: late"]:  # a creation that arrives when all is over leaves an empty twin
            found = [each for each in found if each.metrics or each.status != "RUNNING"] or found
        if len(found) != 1 and not self._deleted(run):
            raise Wrong(f"{len(found)} runs of {run_hex(run)}")
        if not found:
            return
        (stored,) = found
        self._check_invented(run, stored)
        self._check_keys(run, stored, spool, ledger)
        self._check_order(run, stored)
        self._check_status(run, stored)
        self._check_texts(run, stored)
        self._check_artifacts(run, stored, ledger)
        noted = msgspec.json.decode(stored.tags["tailrace.ledger"])
        late = self._world.points.struck["request: late"]  # an older one may arrive last
        if noted != msgspec.json.decode(msgspec.json.encode(ledger.summary())) and not late:
            raise Wrong(f"the ledger with the run says {noted}, and not {ledger.summary()}")

    def _deleted(self, run: int) -> bool:
        return any(r.deleted for r in self._world.model.runs.values() if r.tags.get("tailrace.run") == run_hex(run))

    def _check_counts(self, run: int, ledger: Ledger) -> None:
        """What was logged was counted."""
        journal = self._world.journal
        for kind in (*_VALUES, "artifact"):
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
                most += len(journal.torn)
            if not sure <= counts.accepted <= most:
                raise Wrong(f"{run_hex(run)}: {sure} to {most} {kind}s were logged, and {counts.accepted} counted")

    def _check_invented(self, run: int, stored: MemoryRun) -> None:
        logged = {mark for row in self._world.journal.of(run, "metric") for mark in row.marks}
        invented = self._world.model.marks(stored.run_id) - logged
        if invented:
            raise Wrong(f"MLflow has what nobody logged to {run_hex(run)}: {sorted(invented, key=repr)[:3]}")

    def _check_keys(self, run: int, stored: MemoryRun, spool: Spool, ledger: Ledger) -> None:
        """What `tailrace verify` compares."""
        counted = {key: n for key, n in spool.delivered_keys(run).items() if n}
        there = {key: len(points) for key, points in stored.metrics.items()}
        metric = ledger.of("metric")
        if sum(counted.values()) != metric.delivered - metric.merged:
            raise Wrong(f"{run_hex(run)}: delivered {metric.delivered}, merged {metric.merged}, by key {counted}")
        if counted == there:
            return
        # An agent remembers what it sent last, and forgets it with its death.
        twins = self._world.journal.twins(run) if self._world.deaths or self._world.journal.cut else {}
        for key in {*counted, *there}:
            more = counted.get(key, 0) - there.get(key, 0)
            # What was dropped when its answer had been lost may be there all the same.
            dropped = metric.dead + sum(metric.dropped.values())
            if more > twins.get(key, 0) or (-more > dropped and not self._world.journal.cut):
                raise Wrong(f"{run_hex(run)}: {key} was delivered {counted.get(key, 0)} times, MLflow has {there.get(key, 0)}")

    def _check_order(self, run: int, stored: MemoryRun) -> None:
        """The values of one program arrive as they were logged."""
        order = {mark: (row.ring, row.order) for row in self._world.journal.of(run, "metric") for mark in row.marks}
        last: dict[tuple[str, Any], int] = {}
        for mark in self._world.model.arrivals.get(stored.run_id, ()):
            ring, at = order[mark]
            if at < last.get((ring, mark[0]), -1):
                raise Wrong(f"{run_hex(run)}: {mark} of {ring} arrived after a later one")
            last[ring, mark[0]] = at

    def _check_status(self, run: int, stored: MemoryRun) -> None:
        journal = self._world.journal
        ends = [row.record.status for row in journal.of(run, "end") if journal.kept(row)]
        maybe = [row.record.status for row in journal.of(run, "end")]
        allowed = ends[:1] or ["KILLED", *maybe]
        if stored.status not in allowed:
            raise Wrong(f"{run_hex(run)} is {stored.status} in MLflow, and ended as {allowed}")

    def _check_texts(self, run: int, stored: MemoryRun) -> None:
        journal = self._world.journal
        late = self._world.points.struck["request: late"]
        for kind, there in (("param", stored.params), ("tag", stored.tags)):
            rows = [row for row in journal.of(run, kind) if row.index is not None]
            logged = {mark for row in rows for mark in row.marks}
            for key, value in there.items():
                if not key.startswith(("tailrace.", "mlflow.")) and (key, value) not in logged and _CUT not in value:
                    raise Wrong(f"MLflow has the {kind} {key}={value} that nobody logged")
            if len({row.ring for row in rows}) == 1 and not late and not journal.cut:
                first: dict[str, str] = {}
                for key, value in (mark for row in (rows if kind == "tag" else rows[::-1]) for mark in row.marks):
                    first[key] = value
                wrong = {k: (v, there.get(k)) for k, v in first.items() if there.get(k) != v and not k.startswith(POISON)}
                if wrong:
                    raise Wrong(f"{kind}s of {run_hex(run)} are not what they should be: {wrong}")

    def _check_artifacts(self, run: int, stored: MemoryRun, ledger: Ledger) -> None:
        journal, counts = self._world.journal, ledger.of("artifact")
        there = {(path, adler32(body)) for path, body in stored.artifacts.items()}
        rows = [row for row in journal.of(run, "artifact") if journal.kept(row)]
        missing = [row for row in rows if not set(row.marks) <= there]
        if len(missing) > counts.dead + sum(counts.dropped.values()):
            raise Wrong(f"{len(missing)} artifacts of {run_hex(run)} are not in MLflow, and {counts}")

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
    for letter in spool.dead_letters(run):
        if letter.kind == "metric":
            for _, step, time_ns, values in decode_rows(letter.body):
                for key, value in values.items():
                    marks["metric"].add(mark_of(Point(key, float(value), time_ns // 1_000_000, step)))
        elif letter.kind != "artifact":
            marks[letter.kind] |= set(msgspec.msgpack.decode(letter.body, type=dict[str, str]).items())
    return marks


class _reading:  # noqa: N801
    """The spool of an agent that has left."""

    def __init__(self, world: World) -> None:
        self._path = world.session.dir / "spool.db"

    def __enter__(self) -> Spool:
        from simulation.disk import spool_schema
        from tailrace_agent import spool

        spool.connect, self._before = spool_schema.connect, spool.connect
        try:
            self._spool = Spool(self._path)
        finally:
            spool.connect = self._before
        return self._spool

    def __exit__(self, *_: object) -> None:
        self._spool.close()


_ = sqlite3
