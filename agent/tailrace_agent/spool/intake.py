"""From rows as they come out of a ring to blocks as they go into the spool: pure, and it never raises for a bad row.

Good metrics rows are not even re-encoded: a block is a MessagePack array header followed by the rows' own bytes.
What is no number, no string, no step is counted as dropped, with a reason and one notice a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn
from zlib import crc32

import msgspec

from tailrace_agent.ipc.curves import At
from tailrace_agent.ipc.device_slots import Place, place_of
from tailrace_agent.ipc.nested import flat_items
from tailrace_agent.ipc.notices import Notice, Topic, not_logged
from tailrace_agent.ipc.reasons import Reason, of_the_trainer
from tailrace_agent.ipc.records import (
    RAW,
    Alert,
    Artifact,
    Control,
    Drop,
    End,
    Flush,
    Goals,
    JobPart,
    Kind,
    Monitor,
    Params,
    Rank,
    RunSpec,
    Samples,
    Start,
    Tags,
    decode_control,
    decode_row,
    encode,
)
from tailrace_agent.ipc.staging import is_staged_name
from tailrace_agent.ledger import as_dropped
from tailrace_agent.runtime.job import own_run
from tailrace_agent.sinks.base import Limits
from tailrace_agent.spool.blocks import BLOCK_POINTS, DEVICE, SYSTEM, NewBlock, Tally, encode_rows
from tailrace_agent.spool.device_rows import DeviceRow, DeviceRows
from tailrace_agent.spool.rank_rows import RankPlace, RankRows, RankSteps
from tailrace_agent.text.quoting import quoted

__all__ = ["Changes", "Intake"]

_LIMITS: Final = Limits()
_SHOWN: Final = 100
_METRICS: Final = b"\x94"
"""How a metrics row begins: a MessagePack array of four."""
_MAX_STEP: Final = 2**63 - 1
"""The largest integer that SQLite and MLflow's databases hold."""
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_POINTER: Final = " … [cut by tailrace; whole in the artifact {path}]"


class Changes:
    """What one drain brought, ready for `Spool.ingest`, and what the run book has to know."""

    def __init__(self) -> None:
        self.blocks: list[NewBlock] = []
        self.starts: list[tuple[Start, str]] = []
        self.ends: list[End] = []
        self.ranks: list[tuple[Rank, str]] = []
        self.flushes: list[tuple[Flush, str]] = []
        self.monitors: list[Monitor] = []
        self.alerts: list[Alert] = []
        self.goals: list[Goals] = []
        self.bests: dict[int, dict[str, At]] = {}
        self.bests_ms: dict[int, int] = {}
        self.notices: list[tuple[int, Notice | str]] = []
        self.last_ns: dict[int, int] = {}
        self.progress: dict[int, dict[str, Samples]] = {}
        self.steps: dict[int, RankSteps] = {}
        self.done: set[int] = set()
        self.aside: list[DeviceRow] = []
        self.landed: list[tuple[int, DeviceRow]] = []
        self.safe: dict[str, list[Place]] = {}
        self._tally: dict[tuple[int, Kind, str], int] = {}

    def count(self, run: int, kind: Kind, what: str, n: int) -> None:
        """Adds to the ledger."""
        key = (run, kind, what)
        self._tally[key] = self._tally.get(key, 0) + n

    def drop(self, run: int, kind: Kind, reason: Reason, n: int = 1) -> None:
        """Counts something as accepted and given up."""
        self.count(run, kind, "accepted", n)
        self.count(run, kind, as_dropped(reason), n)

    def hand_on(self, record: End | Monitor | Alert | Goals) -> None:
        """Takes a record that the run book, or who looks on, has to know as it is."""
        if isinstance(record, End):
            self.ends.append(record)
        elif isinstance(record, Monitor):
            self.monitors.append(record)
        elif isinstance(record, Alert):
            self.alerts.append(record)
        else:
            self.goals.append(record)

    @property
    def tallies(self) -> Iterator[Tally]:
        """The counts, as the spool takes them."""
        return ((run, kind, what, n) for (run, kind, what), n in self._tally.items())

    @property
    def _control(self) -> bool:
        handed_on = self.ends or self.monitors or self.alerts or self.goals
        return bool(self.starts or handed_on or self.ranks or self.flushes)

    def add(self, other: Changes) -> None:
        """Takes blocks, counts and notices of other rows along, none of them with values on devices."""
        self.blocks += other.blocks
        self.notices += other.notices
        self.steps |= other.steps
        for run, kind, what, n in other.tallies:
            self.count(run, kind, what, n)

    @property
    def runs(self) -> set[int]:
        """Runs whose ledger changes."""
        return {run for run, _, _ in self._tally}

    @property
    def blocks_aside(self) -> list[NewBlock]:
        """The rows that are put aside, as the spool takes them."""
        return [(row.run, DEVICE, len(row.places), row.time_ns, encode(row)) for row in self.aside]

    def __bool__(self) -> bool:
        written = self.blocks or self._tally or self.steps or self.bests or self.landed
        return bool(written or self._control or self.notices)


class Intake:
    """Turns rows into changes.

    Args:
        stage_text: Writes a text that is too long for MLflow into the session's `artifacts/` under a file name, and
            returns the name of the staged entry.
        limits: MLflow's limits for the length of values.
        saw: Called with each row's `(run, step, time_ns, values, system=…)`.
        devices: The rows that wait for values on devices.

    Not thread-safe: one drain at a time.
    """

    def __init__(
        self,
        stage_text: Callable[[str, str], str],
        limits: Limits = _LIMITS,
        saw: Callable[..., None] | None = None,
        devices: DeviceRows | None = None,
    ) -> None:
        self._stage_text, self._limits, self._saw = stage_text, limits, saw
        self.devices = DeviceRows(_no_slots) if devices is None else devices
        self._coming: Counter[int] = Counter()  # rows with values on devices, by run, since `feed_landed`
        self._open: dict[tuple[int, Kind], tuple[list[bytes], int, int]] = {}
        self._lane: Kind = "metric"
        self._warned: set[tuple[int, object]] = set()
        self._changes = Changes()
        self.ranks = RankRows()
        self._jobs: dict[int, JobPart] = {}
        self._done: dict[int, dict[int, bool]] = {}

    def resume_rank(self, spec: RunSpec, record: Rank, ring: str) -> None:
        """An earlier agent has taken over that this ring is a rank's."""
        if spec.job is not None:
            self._jobs[spec.run] = spec.job
        self._place(record, ring)

    def feed_samples(self, rows: list[bytes]) -> None:
        """Takes rows of the system monitor."""
        self._lane = SYSTEM
        try:
            self.feed("", rows)
        finally:
            self._lane = "metric"

    def feed(self, ring: str, rows: list[bytes]) -> None:
        """Takes the rows of one ring, in order."""
        for body in rows:
            try:
                # First, since nearly all rows are metrics; a control record fails at its first element.
                run, step, time_ns, values = decode_row(body)
            except _UNREADABLE:
                if not self._has_places(ring, body):
                    self._other(ring, body)
                continue
            self._metrics(ring, run, step, time_ns, values, body)

    def feed_landed(self, now: float) -> None:
        """Takes the rows whose values devices have written since; before those that rings bring."""
        self._coming.clear()
        for block, row, found, reason in self.devices.look(now):
            self._changes.landed.append((block, row))
            self._coming[row.run] -= 1
            # They were counted when they were put aside, and are counted once more where they go.
            self._changes.count(row.run, "metric", "accepted", -len(row.places))
            if found.lost:
                self._changes.drop(row.run, "metric", reason, found.lost)
            if found.values:
                self._note_safe(row.ring, row.places, found.values)
                self._changes.count(row.run, "metric", "calls", -row.rest)
                self._metrics(row.ring, row.run, row.step, row.time_ns, found.values)

    def drop(self, run: int, reason: Reason, n: int) -> None:
        """Counts metrics that could not even be read."""
        self._changes.drop(run, "metric", reason, n)

    def take(self) -> Changes:
        """Everything since the last `take`."""
        for run, step in self.ranks.complete(self._nothing_comes):
            if self._saw is not None:
                self._saw(run, step.step, step.time_ns, step.row, system=False)
            self._split(run, step.step, step.time_ns, step.row)
        for run, lane in list(self._open):
            self._cut(run, lane)
        self._changes.steps = self.ranks.take_changed()
        changes, self._changes = self._changes, Changes()
        return changes

    def _metrics(
        self,
        ring: str,
        run: int,
        step: int,
        time_ns: int,
        values: Mapping[str, float | bool],
        body: bytes | None = None,
    ) -> None:
        body = encode((run, step, time_ns, values)) if body is None else body
        place = self.ranks.place_of(ring)
        if place is None or place.run != run:
            self._row(run, step, time_ns, values, body)
        else:
            self._of_rank(ring, place, body, step, time_ns, values)

    def _row(self, run: int, step: int, time_ns: int, values: Mapping[str, float | bool], body: bytes) -> None:
        # MessagePack has unsigned numbers of 64 bits, and SQLite has none.
        if run > _MAX_STEP or time_ns > _MAX_STEP:
            self._changes.drop(0, "metric", "unreadable row")  # 0: no run's, since none of its fields is believed
            return
        if step > _MAX_STEP:
            self._bad(run, "metric", next(iter(values), ""), "step is too large", len(values))
            return
        if self._saw is not None:
            self._saw(run, step, time_ns, values, system=self._lane == SYSTEM)
        if len(values) <= BLOCK_POINTS:
            self._add(run, time_ns, len(values), body)
        else:
            self._split(run, step, time_ns, values)

    def _of_rank(
        self, ring: str, place: RankPlace, body: bytes, step: int, time_ns: int, values: Mapping[str, float | bool]
    ) -> None:
        """A rank's row: what of it goes on, under which name; the rest is a part of statistics, or not for MLflow."""
        run = place.run
        if step > _MAX_STEP or time_ns > _MAX_STEP:  # it is dropped, and counted, as any other
            return self._row(run, step, time_ns, values, body)
        row, own, stats = self.ranks.route(ring, values)
        if stats and (late := self.ranks.add(ring, step, time_ns, stats)):
            self._changes.drop(run, "metric", "after its step's statistics", late)
        if row:
            # Nearly all of rank 0's rows go on as they are.
            whole = len(row) == len(values) and row.keys() == values.keys()
            self._row(run, step, time_ns, row, body if whole else encode((run, step, time_ns, row)))
        if own:
            self._row(place.own_run, step, time_ns, own, encode((place.own_run, step, time_ns, own)))
        return None

    # -- metrics -----------------------------------------------------------------------------------------------------

    def _add(self, run: int, time_ns: int, n: int, body: bytes) -> None:
        bodies, points, first = self._open.get((run, self._lane)) or ([], 0, time_ns)
        # A row is never divided: one of more points than a block holds comes by `_split`.
        if points + n > BLOCK_POINTS:
            self._cut(run, self._lane)
            bodies, points, first = [], 0, time_ns
        bodies.append(body)
        self._open[run, self._lane] = bodies, points + n, first
        if self._lane != SYSTEM:  # a sample is no sign of life of the training process
            self._changes.last_ns[run] = time_ns

    def _cut(self, run: int, lane: Kind) -> None:
        entry = self._open.pop((run, lane), None)
        if entry is None or not entry[1]:
            return
        bodies, points, first = entry
        self._changes.blocks.append((run, lane, points, first, encode_rows(bodies)))
        self._changes.count(run, "metric", "accepted", points)
        if lane != SYSTEM:
            self._changes.count(run, "metric", "calls", len(bodies))

    def _split(self, run: int, step: int, time_ns: int, values: Mapping[str, float | bool]) -> None:
        items = list(values.items())
        starts = range(0, len(items), BLOCK_POINTS)
        for at in starts:
            part = dict(items[at : at + BLOCK_POINTS])
            self._add(run, time_ns, len(part), encode((run, step, time_ns, part)))
        if len(starts) > 1 and self._lane != SYSTEM:  # each part is counted as a call where its block is cut
            self._changes.count(run, "metric", "calls", 1 - len(starts))

    # -- values on devices -------------------------------------------------------------------------------------------

    def _has_places(self, ring: str, body: bytes) -> bool:
        """Takes a row that names places in the stead of some values; whether it was one."""
        if body[:1] != _METRICS:
            return False
        try:
            run, step, time_ns, values = RAW.decode(body)
            places = {key: place for key, value in values.items() if (place := place_of(value)) is not None}
            run, step, time_ns = _as_id(run), _as_step(step), _as_id(time_ns)
            good = all(isinstance(key, str) for key in places)
        except (*_UNREADABLE, ValueError, TypeError, AttributeError):
            return False
        if not places or not good:
            return False
        rest = {key: value for key, value in values.items() if key not in places}
        found = self.devices.find(ring, places)
        if found.waits:
            row = DeviceRow(ring, run, step, time_ns, places, rest=bool(rest))
            self._changes.aside.append(row)
            self._coming[run] += 1
            self._changes.count(run, "metric", "accepted", len(places))
            self._changes.last_ns[run] = time_ns
        else:
            if found.lost:
                self._changes.drop(run, "metric", "damaged in the ring", found.lost)
            self._note_safe(ring, places, found.values)
            # In the order of the call.
            rest = {
                key: found.values.get(key, value)
                for key, value in values.items()
                if key not in places or key in found.values
            }
        if rest and all(isinstance(value, (float, int)) for value in rest.values()):
            self._metrics(ring, run, step, time_ns, rest)
        elif rest:
            self._other(ring, encode((run, step, time_ns, rest)))
        return True

    def _note_safe(self, ring: str, places: Mapping[str, Place], values: Mapping[str, float]) -> None:
        """These values are here, so their slots are free when all this is written."""
        self._changes.safe.setdefault(ring, []).extend(places[key] for key in values)

    def _other(self, ring: str, body: bytes) -> None:
        try:
            record = decode_control(body)
        except _UNREADABLE:
            return self._salvage(body)
        if _run_of(record) > _MAX_STEP or (isinstance(record, Drop) and not 0 <= record.count <= _MAX_STEP):
            self._changes.drop(0, "metric", "unreadable row")
        elif isinstance(record, Start):
            self._changes.starts.append((record, ring))
            if record.spec.job is not None:
                self._jobs[record.spec.run] = record.spec.job
        elif isinstance(record, Rank):
            self._changes.ranks.append((record, ring))
            self._place(record, ring)
        elif isinstance(record, Flush):
            self._changes.flushes.append((record, ring))
        elif isinstance(record, End | Monitor | Alert | Goals):
            self._changes.hand_on(record)
        else:
            self._entries(record)
        return None

    def _place(self, record: Rank, ring: str) -> None:
        job = self._jobs.get(record.run)
        self._done.setdefault(record.run, {})[record.rank] = record.state != "began"
        if self._all_done(record.run):
            self._changes.done.add(record.run)
        if job is not None and record.state == "began":
            node = f"/{job.node}" if job.several_nodes else ""
            own = own_run(record.run, record.rank)
            self.ranks.put_place(
                ring, RankPlace(record.run, record.rank, job.local_world_size, node, record.modes, own)
            )

    def _all_done(self, run: int) -> bool:
        job, done = self._jobs.get(run), self._done.get(run, {})
        # One that has not come yet may have something to say.
        return len(done) >= (job.local_world_size if job is not None else 0) and all(done.values())

    def _nothing_comes(self, run: int) -> bool:
        """All ranks have done their part, and devices have written all of their values."""
        return self._all_done(run) and self.devices.of_run(run) + self._coming[run] <= 0

    def _salvage(self, body: bytes) -> None:
        """A metrics row with nested values, or with some that are no numbers: the good ones go on."""
        try:
            run, step, time_ns, values = RAW.decode(body)
            run, step, time_ns = _as_id(run), _as_step(step), _as_id(time_ns)
            items = list(flat_items(values))
        except (*_UNREADABLE, ValueError, TypeError, AttributeError):
            return self._bad_row(body)
        good: dict[str, float | bool] = {}
        for key, value in items:
            if not isinstance(key, str):
                self._bad(run, "metric", repr(key), "key is no string")
            elif not isinstance(value, (int, float)):
                self._bad(run, "metric", key, "value is no number", found=type(value).__name__)
            else:
                good[key] = float(value)
        if good:
            if self._saw is not None:
                self._saw(run, step, time_ns, good, system=self._lane == SYSTEM)
            self._split(run, step, time_ns, good)
        return None

    def _bad_row(self, body: bytes) -> None:
        try:
            row: Any = RAW.decode(body)
            run, step, _, values = row
            if values:
                key = str(next(iter(values.keys())))
                self._bad(_as_id(run), "metric", key, "step is no integer", len(values), found=repr(step))
        except (*_UNREADABLE, ValueError, LookupError, TypeError, AttributeError):
            self._changes.drop(0, "metric", "unreadable row")

    def _bad(self, run: int, kind: Kind, key: str, reason: Reason, n: int = 1, *, found: str | None = None) -> None:
        self._changes.drop(run, kind, reason, n)
        # Bounded: a program may have a new name at every step.
        if (run, key) not in self._warned and len(self._warned) < 10_000:
            self._warned.add((run, key))
            text = f"{kind} {quoted(key)} was not logged: {reason}" + (f" but {found}" if found else "")
            self._changes.notices.append((run, Notice(text, Topic(not_logged(kind, key)))))

    # -- everything else ---------------------------------------------------------------------------------------------

    def _entries(self, record: Control) -> None:
        if isinstance(record, Params):
            self._texts(record.run, "param", record.params, self._limits.param_chars, self._limits.params)
        elif isinstance(record, Tags):
            self._texts(record.run, "tag", record.tags, self._limits.tag_chars, self._limits.tags)
        elif isinstance(record, Artifact) and not is_staged_name(record.staged):
            self._bad(record.run, "artifact", record.staged[:_SHOWN], "staged elsewhere")
        elif isinstance(record, Artifact):
            self._changes.count(record.run, "artifact", "accepted", 1)
            # A block of its own, since an upload deals with one at a time.
            self._changes.blocks.append((record.run, "artifact", 1, 0, encode(record)))
        elif isinstance(record, Drop):
            self._changes.drop(record.run, record.kind, of_the_trainer(record.reason), record.count)
            if record.detail and (record.run, record.detail) not in self._warned:
                self._warned.add((record.run, record.detail))
                self._changes.notices.append((record.run, record.detail))

    def _texts(self, run: int, kind: Kind, texts: dict[str, str], longest: int, per_request: int) -> None:
        self._cut(run, self._lane)
        fitting = {
            key: value if len(value) <= longest else self._cut_text(run, kind, key, value, longest)
            for key, value in texts.items()
        }
        self._changes.count(run, kind, "accepted", len(fitting))
        items = list(fitting.items())
        for at in range(0, len(items), per_request):
            part = dict(items[at : at + per_request])
            self._changes.blocks.append((run, kind, len(part), 0, encode(part)))

    def _cut_text(self, run: int, kind: Kind, key: str, value: str, longest: int) -> str:
        """The value as long as MLflow allows, with a pointer to an artifact that holds it whole."""
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in key)[:100]
        name += ".txt" if name == key else f"-{crc32(key.encode()):08x}.txt"  # `a/b` and `a b` are not one
        folder = f"tailrace/{kind}s"
        self._entries(Artifact(run=run, staged=self._stage_text(name, value), artifact_path=folder))
        # [20:-1] below is the pointer without its bracket and "cut by tailrace".
        pointer = _POINTER.format(path=Path(folder, name).as_posix())
        self._changes.notices.append((run, f"{kind} {quoted(key)} has {len(value)} characters: cut,{pointer[20:-1]}"))
        return value[: longest - len(pointer)] + pointer


def _no_slots(ring: str) -> NoReturn:
    raise LookupError(ring)


def _run_of(record: Control) -> int:
    return record.spec.run if isinstance(record, Start) else record.run


def _as_id(number: object) -> int:
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= _MAX_STEP:
        return number
    raise ValueError("no run, or no time")


def _as_step(step: object) -> int:
    if isinstance(step, (int, float)) and -_MAX_STEP <= step <= _MAX_STEP and step == int(step):
        return int(step)
    raise ValueError("no step")
