"""A ring whose page another process has written over: nobody hangs, nobody raises, and what can be found is read."""

from __future__ import annotations

import errno
import os
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tailrace._log.channel import Channel
from tailrace._log.log import LogCall, make_log, python_log
from tailrace_agent.ipc.ring_format import BASE, HEAD, MIN_BYTES, PAD, SPILL_BASE, SPILLED, TAIL, UNSPILLED
from tailrace_agent.ipc.ring_reader import Frames, RingReader
from tailrace_agent.ipc.ring_writer import RingWriter

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

positions = st.one_of(
    st.sampled_from([0, 1, 8, BASE - 8, BASE, BASE + 8, MIN_BYTES - 8, MIN_BYTES, MIN_BYTES + 8, 1 << 48, 1 << 63]),
    st.integers(BASE // 8, MIN_BYTES // 8).map(lambda word: word * 8),
    st.integers(0, 2 * MIN_BYTES),
    st.integers(0, 2**64 - 1),
)
WORDS = (HEAD, SPILLED, SPILL_BASE, TAIL, UNSPILLED)
words_of_frames = st.one_of(st.just(PAD), st.integers(0, 2 * MIN_BYTES), st.integers(0, 2**64 - 1))
steps = st.one_of(
    st.tuples(st.just("log"), st.integers(1, 300)),
    st.tuples(st.just("big"), st.integers(1, 3)),
    st.tuples(st.just("take"), st.booleans()),
    st.tuples(st.just("reopen"), st.one_of(st.none(), st.tuples(positions, positions))),
    st.tuples(st.just("header"), st.tuples(st.sampled_from([2, 3, *WORDS]), positions)),
    st.tuples(st.just("frame"), st.tuples(st.integers(BASE // 8, MIN_BYTES // 8 - 1), words_of_frames)),
    st.tuples(st.just("spill"), st.one_of(st.none(), st.integers(0, 5000))),
)


class DamagedRingRig:
    """Both ends of a ring, and a `log()` that leads there."""

    def __init__(self, folder: Path, make: Callable[[Any], LogCall]) -> None:
        self.path, self.spill = folder / "ring", folder / "spill"
        self.dropped: list[str] = []
        self.writer = RingWriter(
            self.path, MIN_BYTES, self.spill, on_drop=lambda _row, reason: self.dropped.append(reason)
        )
        self.reader = RingReader(self.path, self.spill)
        channel = Channel(7, self.writer.put, lambda *odd: pytest.fail(f"log() stumbled: {odd}"))
        channel.lead_to(self.writer)
        self._log = make(types.SimpleNamespace(home=None, own=None, shared=channel))
        self.logged = 0

    def log(self, n: int) -> None:
        for _ in range(n):
            self.logged += 1
            self._log(step=self.logged, loss=0.5)

    def take(self, give_up: bool) -> Frames:
        frames = self.reader.read(give_up=give_up)
        self.reader.commit(frames.tail, frames.spill)
        assert self.reader.unread >= 0
        assert isinstance(self.writer.unread, int)
        return frames

    def header(self, change: tuple[int, int]) -> None:
        self.writer.words[change[0]] = change[1]

    frame = header

    def big(self, n: int) -> None:
        for _ in range(n):
            self.writer.put(bytes(20_000))

    def reopen(self, resumed: tuple[int, int] | None) -> None:
        self.reader.close()
        self.reader = RingReader(self.path, self.spill)
        if resumed is not None:
            self.reader.resume(*resumed)

    def cut(self, size: int | None) -> None:
        if not self.spill.exists():
            return
        if size is None:
            self.spill.unlink()
        else:
            os.truncate(self.spill, size)

    def steps_taken(self, give_up: bool) -> list[int]:
        rows = self.take(give_up).rows
        return [msgspec.msgpack.decode(row)[1] for row in rows if row[:1] == b"\x94"]

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


@pytest.fixture(params=[make_log, python_log], ids=["c", "python"])
def make(request: pytest.FixtureRequest) -> Callable[[Any], LogCall]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def rig(tmp_path: Path, make: Callable[[Any], LogCall]) -> Iterator[DamagedRingRig]:
    rig = DamagedRingRig(tmp_path, make)
    yield rig
    rig.close()


@given(script=st.lists(steps, max_size=25))
@example(script=[("log", 3), ("header", (BASE // 8, PAD)), ("header", (HEAD, BASE + 8)), ("take", True)])
@example(script=[("header", (UNSPILLED, 1 << 63)), ("header", (SPILLED, 1 << 63)), ("big", 1), ("take", True)])
@example(script=[("log", 300), ("header", (TAIL, 2**64 - 1)), ("log", 300), ("log", 300)])
@quick
def test_whatever_stands_in_the_ring_reading_ends_and_logging_goes_on(
    make: Callable[[Any], LogCall], script: list[tuple[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        rig = DamagedRingRig(Path(folder), make)
        for name, value in script:
            getattr(rig, {"spill": "cut"}.get(name, name))(value)
        for _ in range(200):  # what is put afterwards comes out again
            rig.log(60)
            if rig.logged in rig.steps_taken(give_up=True):
                break
        else:
            pytest.fail("the ring does not recover")
        rig.close()


@pytest.mark.parametrize("word", [0, 3, BASE + 4, MIN_BYTES + 8, 1 << 40, 2**64 - 1])
def test_a_head_that_is_none_costs_no_row_of_a_dead_writer(rig: DamagedRingRig, word: int) -> None:
    rig.log(5)
    rig.writer.words[HEAD] = word
    waiting = rig.take(give_up=False)
    assert (waiting.rows, waiting.damaged, waiting.more) == ([], 0, True)
    assert rig.reader.unread
    frames = rig.take(give_up=True)
    assert (len(frames.rows), frames.damaged, frames.more) == (5, 1, False)
    again = rig.take(give_up=True)
    assert (again.rows, again.damaged, again.more, rig.reader.unread) == ([], 0, False, 0)


@pytest.mark.parametrize("word", [0, 3, 1 << 60, 2**64 - 1])
@pytest.mark.parametrize("which", [SPILLED, UNSPILLED])
def test_positions_in_the_spill_file_that_are_none_cost_no_row(rig: DamagedRingRig, which: int, word: int) -> None:
    while not rig.writer.words[SPILLED]:
        rig.log(1)
    rig.log(3)
    rig.writer.words[which] = word
    taken: list[int] = []
    for _ in range(5):
        rig.log(1)
        taken += rig.steps_taken(give_up=False)
    assert taken == list(range(1, rig.logged + 1))
    assert rig.writer.words[SPILLED] == rig.writer.words[UNSPILLED]


@pytest.mark.parametrize("word", [1 << 30, 1 << 39, 1 << 47, 1 << 62])
@pytest.mark.parametrize("which", [SPILLED, UNSPILLED, SPILL_BASE])
def test_a_wrong_position_in_the_spill_file_that_could_be_true_costs_only_what_waits_there(
    rig: DamagedRingRig, which: int, word: int
) -> None:
    def fill_until_it_spills() -> None:
        before = rig.writer.words[SPILLED]
        while rig.writer.words[SPILLED] == before:
            rig.log(1)

    fill_until_it_spills()
    rig.writer.words[which] = word
    for _ in range(5):
        rig.take(give_up=True)
        rig.log(1)
    rig.take(give_up=True)
    begin = rig.logged + 1
    fill_until_it_spills()
    rig.log(3)
    taken: list[int] = []
    for _ in range(5):
        taken += rig.steps_taken(give_up=False)
    assert taken == list(range(begin, rig.logged + 1))
    assert not rig.dropped


def test_a_spill_file_that_was_deleted_is_made_again_once_it_was_given_up(rig: DamagedRingRig) -> None:
    for _ in range(2):
        rig.log(1)
        while rig.writer.words[SPILLED] == rig.writer.words[UNSPILLED]:
            rig.log(1)
        rig.spill.unlink()
        rig.take(give_up=True)
    rig.log(1)
    assert rig.steps_taken(give_up=True)[-1] == rig.logged
    begin = rig.logged + 1
    while rig.writer.words[SPILLED] == rig.writer.words[UNSPILLED]:
        rig.log(1)
    assert rig.steps_taken(give_up=False) == list(range(begin, rig.logged + 1))


def test_positions_of_an_earlier_reader_that_do_not_fit_the_ring_are_passed_over(rig: DamagedRingRig) -> None:
    rig.log(5)
    for tail, spill in [(0, -1), (3, 1 << 63), (MIN_BYTES + 8, 2**64), (-8, -(2**70))]:
        rig.reader.resume(tail, spill)
    assert rig.steps_taken(give_up=False) == [1, 2, 3, 4, 5]


def test_an_earlier_reader_that_came_further_than_it_could_tell_is_gone_on_from(rig: DamagedRingRig) -> None:
    rig.log(5)
    frames = rig.reader.read()  # and written into the spool, but not told
    rig.log(2)
    rig.writer.words[TAIL] = 7
    rig.reader.close()
    rig.reader = RingReader(rig.path, rig.spill)
    rig.reader.resume(frames.tail, frames.spill)
    assert rig.steps_taken(give_up=False) == [6, 7]


@pytest.mark.parametrize("reason", [errno.EIO, errno.EMFILE])
def test_a_ring_that_cannot_be_opened_now_is_not_taken_for_none(
    rig: DamagedRingRig, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: object, flags: int) -> int:
        raise OSError(reason, os.strerror(reason), str(path))

    rig.log(3)
    with monkeypatch.context() as disk:
        disk.setattr("tailrace_agent.ipc.ring_reader.open_own", broken)
        with pytest.raises(OSError, match=r"error|files"):
            RingReader(rig.path, rig.spill)
    assert rig.steps_taken(give_up=False) == [1, 2, 3]
