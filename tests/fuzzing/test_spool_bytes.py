"""Each byte of a spool or a spill file flipped: it opens, nothing is decoded that was not written, nothing hangs."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fuzzing.flips import flips, spots
from tailrace_agent.delivery.batches import body_of
from tailrace_agent.delivery.run_records import restored
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.errors import SessionError
from tailrace_agent.ipc.records import Artifact, Point, RunSpec, encode
from tailrace_agent.ipc.ring_format import BASE, HEAD, MIN_BYTES
from tailrace_agent.ipc.ring_reader import RingReader
from tailrace_agent.ipc.ring_writer import RingWriter
from tailrace_agent.ipc.stored import UNREADABLE
from tailrace_agent.spool.blocks import Outcome, decode_rows, encode_rows
from tailrace_agent.spool.store import Spool

KINDS = ("metric", "param", "tag", "artifact")
ROWS = [(1, step, 10**18 + step, {"loss": 0.5 / (step + 1), "acc": 0.25}) for step in range(6)]
TEXTS = [{"lr": "0.1", "seed": "3"}, {"model": "digits"}]
ARTIFACT = Artifact(1, "staged-1", "plots/a.png")
DECODE: dict[str, Callable[[bytes], Any]] = {
    "metric": decode_rows,
    "param": msgspec.msgpack.Decoder(dict[str, str]).decode,
    "tag": msgspec.msgpack.Decoder(dict[str, str]).decode,
    "artifact": msgspec.msgpack.Decoder(Artifact).decode,
}
WRITTEN: dict[str, list[Any]] = {
    "metric": [ROWS[:2], ROWS[2:4], ROWS[4:], [(1, 9, 9_000_000, {"bad": 1.0})]],
    "param": [TEXTS[0]],
    "tag": [TEXTS[1]],
    "artifact": [ARTIFACT],
}
some_or_all = pytest.mark.parametrize("most", [40, pytest.param(None, marks=pytest.mark.faults)], ids=["some", "all"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A spool with something in every table, in pages that are as small as can be."""
    path = tmp_path_factory.mktemp("whole") / "s.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA page_size = 512; CREATE TABLE first(a); DROP TABLE first;")
    spool = Spool(path)
    blocks = [
        *((1, "metric", 4, 5, encode_rows([encode(row) for row in rows])) for rows in WRITTEN["metric"][:3]),
        (1, "param", 2, 5, encode(TEXTS[0])),
        (1, "tag", 1, 5, encode(TEXTS[1])),
        (1, "artifact", 1, 5, encode(ARTIFACT)),
    ]
    counts = [(1, kind, "accepted", n) for _, kind, n, _, _ in blocks]
    state = msgspec.json.encode(RunState(spec=RunSpec(run=1, start_time=5, cwd="/"), ring="r"))
    spool.ingest(blocks, [*counts, (1, "metric", "accepted", 3)], [(1, state)], [("r", 4096, 0)], sync=True)
    bad = [("bad", 1, body_of(1, Point("bad", 1.0, 9, 9)), "it is bad")]
    spool.settle(Outcome(1, "metric", [], 2, requests=1, keys=[("loss", 2)], dead=bad))
    spool.artifacts.failed(6, 1, "no")
    spool.close()
    return path.read_bytes()


def looked_through(path: Path) -> dict[str, int]:
    """All that is read of a spool; how much of each kind was what had been written."""
    found = dict.fromkeys((*KINDS, "dead"), 0)
    with closing(Spool(path)) as spool:
        for run, body in spool.runs().items():
            state = restored(run, body)
            assert state.run == run
            spool.counts.ledger(run).summary()
            spool.counts.extremes(run)
            spool.counts.delivered_keys(run)
            spool.waiting.backlog(run)
            spool.waiting.oldest_ns(run)
            spool.waiting.first(run)
            blocks = [block for kind in KINDS for block in spool.waiting.oldest(run, kind, 10**6)]
            for block in blocks:
                found[block.kind] += is_what_was_written(block.kind, block.body)
            for block in blocks:
                spool.settle(Outcome(run, block.kind, [block.id], block.n))
        for letter in spool.letters.all():
            found["dead"] += is_what_was_written(letter.kind, letter.body)
        spool.artifacts.all(failed=False)
        spool.ring_positions()
        spool.artifacts.failures()
        assert isinstance(spool.waiting.last_id() + spool.waiting.points + spool.letters.number, int)
    return found


def is_what_was_written(kind: str, body: bytes) -> bool:
    try:
        decoded = DECODE[kind](body)
    except (*UNREADABLE, KeyError):  # a kind that is none
        return False
    assert decoded in WRITTEN[kind]
    return True


@pytest.mark.timeout(3600)
@some_or_all
def test_of_a_spool_with_one_flipped_byte_nothing_is_taken_that_was_not_written(whole: bytes, most: int | None) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder, "s.db")
        path.write_bytes(whole)
        everything = looked_through(path)
        assert everything == {"metric": 3, "param": 1, "tag": 1, "artifact": 1, "dead": 1}
        for at, body in flips(whole, most):
            for old in Path(folder).iterdir():
                old.unlink()
            path.write_bytes(body)
            try:
                found = looked_through(path)
            except Exception as error:
                raise AssertionError(f"byte {at} of {len(whole)}") from error
            # One page at most is lost; and where that is the root of a table, the table.
            assert all(found[kind] <= n for kind, n in everything.items()), at


def test_a_flipped_bit_in_a_waiting_value_costs_that_block_and_is_no_other_value(whole: bytes, tmp_path: Path) -> None:
    row = encode(ROWS[2])
    at = whole.index(row)
    path = tmp_path / "s.db"
    for offset in range(len(row)):
        path.write_bytes(whole[: at + offset] + bytes([whole[at + offset] ^ 1]) + whole[at + offset + 1 :])
        with closing(Spool(path)) as spool:
            assert spool.set_aside == []
            bodies = [block.body for block in spool.waiting.oldest(1, "metric", 100)]
            assert [bool(body) for body in bodies] == [True, False, True]
            assert spool.letters.bury(1, "gone")
            assert [bool(letter.body) for letter in spool.letters.all() if letter.kind == "metric"].count(False) == 1


def test_what_an_older_version_has_written_has_no_checksum_and_is_believed(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(whole)
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE block_sum; DROP TABLE dead_sum;")
    assert looked_through(path)["metric"] == 3


# -- spill files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[RingWriter, Callable[[], RingReader], Path]]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ring, spill = Path(folder, "ring"), Path(folder, "spill")
        writer = RingWriter(ring, MIN_BYTES, spill)
        yield writer, lambda: RingReader(ring, spill), spill
        writer.close()


def taken(reader: RingReader) -> tuple[list[bytes], int]:
    """All rows that there are, and how often something was given up; within so many readings."""
    rows, damaged = [], 0
    for _ in range(20):
        frames = reader.read(give_up=True)
        rows += frames.rows
        damaged += frames.damaged
        reader.commit(frames.tail, frames.spill)
        if not frames.more:
            return rows, damaged
    pytest.fail("it is never read to its end")


@some_or_all
def test_of_a_spill_file_with_one_flipped_byte_no_row_is_taken_that_was_not_written(
    ends: tuple[RingWriter, Callable[[], RingReader], Path], most: int | None
) -> None:
    writer, opened, spill = ends
    big = encode((1, 0, 5, {"k" * 250 + str(n): 0.5 for n in range(80)}))  # more than a quarter of the ring: it spills
    rows = [big, *(encode((1, step, 5, {"loss": step / 3})) for step in range(10))]
    for row in rows:
        writer.put(row)
    header, whole = bytes(writer.memory), spill.read_bytes()
    assert whole.count(big) == 1
    tail = whole[: 8 + 40] + whole[8 + len(big) - 40 :]
    assert len(tail) > 100
    for at, _ in flips(tail, most):
        place = at if at < 48 else at - len(tail) + len(whole)
        for mask in (0xFF, 1 << at % 8):
            spill.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            writer.memory[:] = header
            reader = opened()
            found, damaged = taken(reader)
            reader.close()
            assert found == rows[: len(found)]
            assert (len(found) < len(rows), damaged) == (True, 1)


# -- rings -------------------------------------------------------------------------------------------------------------

ROOM = 144
"""Bytes of the header that say something."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("spilled", [False, True], ids=["ring", "spilled"])
@pytest.mark.parametrize("most", [60, pytest.param(None, marks=pytest.mark.faults)], ids=["some", "all"])
def test_of_a_ring_with_one_flipped_byte_no_row_is_taken_that_was_not_written(
    ends: tuple[RingWriter, Callable[[], RingReader], Path], most: int | None, spilled: bool
) -> None:
    writer, opened, spill = ends
    for step in range(1200):  # so that what is unread goes beyond the end, and on at the first frame
        if step == 1180:
            reader = opened()
            taken(reader)
            before = reader.position
            reader.close()
        writer.put(encode((1, step, 5, {"loss": 0.5, "k" * 20: step / 3})))
    rows = [encode((1, step, 5, {"loss": 0.5, "k" * 20: step / 3})) for step in range(1180, 1200)]
    if spilled:
        rows.append(bytes(20_000))
        writer.put(rows[-1])
    whole, beside = bytes(writer.memory), spill.read_bytes() if spilled else b""
    unread = range(BASE, MIN_BYTES) if most is None else [at for at in range(BASE, MIN_BYTES) if whole[at]]
    spots_ = [*range(ROOM), *unread]
    for at in [*range(0, ROOM, 1 if most is None else 5), *(spots_[spot] for spot in spots(len(spots_), most))]:
        for mask in (0xFF, 1 << at % 8):
            writer.memory[:] = whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :]
            if spilled:
                spill.write_bytes(beside)
            try:
                reader = opened()
            except SessionError:
                assert at < 24  # the magic word, the format, the end
                continue
            reader.resume(*before)  # as the spool has it
            found, damaged = taken(reader)
            reader.close()
            rest = iter(rows)
            assert all(row in rest for row in found), at
            # A head that is an earlier frame's beginning cannot be told from the head. (The next `put` writes it anew.)
            assert damaged or found == rows or at // 8 == HEAD, at
