"""What was put comes out once and in order, and nothing is believed that cannot be true."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.rings import BASE, HEAD, TAIL, RingRig, fill, new_rig, number_of, quick, row
from tailrace_agent.errors import SessionError
from tailrace_agent.files.holes import punch
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.ring_reader import RingReader

# -- rows come out once and in order -----------------------------------------------------------------------------------


def test_a_row_comes_out_as_it_was_put(rig: RingRig) -> None:
    rig.writer.put(b"hello")
    frames = rig.reader.read()
    assert frames.rows == [b"hello"]
    assert (frames.damaged, frames.more) == (0, False)


def test_nothing_moves_before_the_reader_says_that_the_rows_are_safe(rig: RingRig) -> None:
    rig.writer.put(b"hello")
    before = rig.reader.position
    assert rig.reader.read().rows == rig.reader.read().rows == [b"hello"]
    assert rig.reader.position == before
    frames = rig.reader.read()
    rig.reader.commit(frames.tail, frames.spill)
    assert rig.reader.read().rows == []
    assert rig.reader.unread == rig.writer.unread == 0


def test_a_second_reader_begins_where_the_first_one_committed(rig: RingRig) -> None:
    rig.writer.put(b"one")
    rig.take()
    rig.writer.put(b"two")
    successor = RingReader(rig.path, rig.spill)
    assert successor.read().rows == [b"two"]
    assert successor.pid == os.getpid()
    successor.close()


@quick
@given(st.lists(st.integers(8, 2000), min_size=1, max_size=80), st.integers(1, 20_000))
def test_small_readings_add_up(sizes: list[int], budget: int) -> None:
    with new_rig() as rig:
        expected = [row(number, size) for number, size in enumerate(sizes)]
        for body in expected:
            rig.writer.put(body)
        readings = 0
        while rig.take(budget).more:
            readings += 1
            assert readings <= len(sizes)
        assert rig.rows == expected


# -- when the ring is full ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 3, 500, 1500])
def test_a_spill_file_that_was_cut_short_is_given_up_and_counted(rig: RingRig, keep: int) -> None:
    rows = fill(rig)
    for _ in range(3):
        rig.writer.put(row(len(rows), 1000))
    os.truncate(rig.spill, keep)
    damaged = 0
    for _ in range(20):
        frames = rig.take()
        damaged += frames.damaged
        if not frames.more:
            break
    else:
        pytest.fail("the reader waits for ever")
    assert damaged == 1
    assert rig.rows == rows[: len(rig.rows)]
    assert rig.reader.unread == 0
    rig.writer.put(b"later")
    assert rig.take_all()[-1] == b"later"


class _Killed(BaseException):
    """The agent's process is gone."""


@pytest.mark.parametrize("noted", [False, True], ids=["by its header", "by the spool"])
@pytest.mark.parametrize("moment", ["before the hole", "after the hole", "after the header"])
def test_a_kill_around_a_hole_in_the_spill_file_loses_and_doubles_no_row(
    rig: RingRig, monkeypatch: pytest.MonkeyPatch, moment: str, *, noted: bool
) -> None:
    rows = _spilled(rig)
    while rig.reader.position[1] < 40_000:  # all of the ring, and a part of the file
        rig.take(20_000)

    def killed(reader: RingReader, fd: int, end: int) -> bool:
        assert moment == "before the hole" or punch(fd, 0, end)
        raise _Killed

    frames = rig.reader.read(20_000)
    with monkeypatch.context() as patch, contextlib.suppress(_Killed):
        if moment != "after the header":
            patch.setattr(RingReader, "_punch", killed)
        rig.reader.commit(frames.tail, frames.spill)
    rig.reader.close()
    rig.reader = RingReader(rig.path, rig.spill)
    if noted:  # what the spool knows to be taken over is not read again
        rig.reader.resume(frames.tail, frames.spill)
    if noted or moment == "after the header":
        rig.rows += frames.rows
    assert rig.take_all() == rows
    assert rig.take().damaged == 0


def test_without_holes_in_files_the_rows_come_all_the_same(rig: RingRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace_agent.ipc.ring_reader.punch", lambda *_: False)
    rows = _spilled(rig)
    before = rig.spill.stat().st_blocks
    while rig.take(20_000).more:
        assert rig.spill.stat().st_blocks == before
    assert rig.rows == rows


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_hole_that_fails_costs_no_row_and_is_tried_again(
    rig: RingRig, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    tried: list[int] = []

    def fails(_: int, __: int, end: int) -> bool:
        tried.append(end)
        raise OSError(error, "no hole")

    monkeypatch.setattr("tailrace_agent.ipc.ring_reader.punch", fails)
    rows = _spilled(rig)
    while rig.take(20_000).more:
        pass
    assert rig.rows == rows
    assert len(tried) > 2


def _spilled(rig: RingRig) -> list[bytes]:
    """Rows of which most are in the spill file."""
    rows = fill(rig)
    for _ in range(100):
        rows.append(row(len(rows), 2000))
        rig.writer.put(rows[-1])
    return rows


def test_a_spill_file_that_was_deleted_is_given_up_and_counted(rig: RingRig) -> None:
    rows = fill(rig)
    rig.spill.unlink()
    assert rig.take().damaged == 1
    assert rig.rows == rows[:-1]
    rig.writer.put(b"later")
    assert rig.take_all()[-1] == b"later"


@quick
@given(st.data())
def test_a_flipped_byte_in_the_spill_file_is_never_decoded(data: st.DataObject) -> None:
    with new_rig() as rig:
        rows = fill(rig, 3000)
        for _ in range(3):
            rows.append(row(len(rows), 50))
            rig.writer.put(rows[-1])
        at = data.draw(st.integers(0, rig.spill.stat().st_size - 1))
        with rig.spill.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ data.draw(st.integers(1, 255))]))
        frames = rig.take()
        assert (frames.damaged, frames.more) == (1, False)
        assert rig.rows == rows[: len(rig.rows)]
        assert len(rig.rows) >= len(rows) - 4


# -- what cannot be believed -------------------------------------------------------------------------------------------


def is_subsequence(part: list[bytes], whole: list[bytes]) -> bool:
    rest = iter(whole)
    return all(body in rest for body in part)


def over_old_frames(rig: RingRig, before: int, sizes: list[int]) -> tuple[int, list[bytes]]:
    """Puts rows where old frames lie around; where the first begins, and the rows."""
    for number in range(before):
        rig.writer.put(row(number, 500))
        rig.take()
    rig.rows.clear()
    rows = [row(1000 + number, size) for number, size in enumerate(sizes)]
    start = rig.reader.position[0]
    for body in rows:
        rig.writer.put(body)
    return start, rows


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    before=st.integers(0, 180),
    sizes=st.lists(st.integers(8, 1200), min_size=1, max_size=20),
    where=st.floats(0, 1, exclude_max=True),
    mask=st.integers(1, 255),
)
def test_a_flipped_byte_is_never_decoded(before: int, sizes: list[int], where: float, mask: int) -> None:
    with new_rig() as rig:
        start, rows = over_old_frames(rig, before, sizes)
        head = rig.writer.words[HEAD]
        spots = range(start, head) if head > start else [*range(start, MIN_BYTES), *range(BASE, head)]
        at = spots[int(where * len(spots))]
        rig.writer.memory[at] ^= mask
        patient = rig.reader.read()
        assert patient.rows == rows[: len(patient.rows)]  # waits in front of it
        rig.take_all(give_up=True)
        assert is_subsequence(rig.rows, rows)
        assert len(rig.rows) >= len(patient.rows)
        rig.writer.put(b"afterwards")
        assert rig.take_all(give_up=True)[-1] == b"afterwards"


@settings(max_examples=300, deadline=None)
@given(
    before=st.integers(0, 180),
    sizes=st.lists(st.integers(8, 1200), min_size=1, max_size=20),
    garbage=st.binary(min_size=1, max_size=64),
    where=st.floats(0, 1, exclude_max=True),
)
def test_a_torn_write_is_never_decoded(before: int, sizes: list[int], garbage: bytes, where: float) -> None:
    with new_rig() as rig:
        start, rows = over_old_frames(rig, before, sizes)
        head = rig.writer.words[HEAD]
        if head < start:
            return
        at = start + int(where * (head - start))
        garbage = garbage[: head - at]
        rig.writer.memory[at : at + len(garbage)] = garbage
        rig.take_all(give_up=True)
        assert is_subsequence(rig.rows, rows)


def test_a_length_that_points_past_the_head_leads_to_no_old_frame(rig: RingRig) -> None:
    for number in range(100):  # every old frame of the first lap is still there
        rig.writer.put(row(number, 500))
        rig.take()
    rig.writer.off = rig.writer.words[HEAD]
    rig.rows.clear()
    rows = [row(1000 + number, 500) for number in range(40)]
    start = rig.reader.position[0]
    for body in rows:
        rig.writer.put(body)
    assert rig.writer.words[HEAD] < start  # wrapped: the frames of the lap before follow the head
    broken = BASE
    rig.writer.words[broken >> 3] = 508 * 2 * 20 - 8 | 7 << 32
    rig.take_all(give_up=True)
    assert is_subsequence(rig.rows, rows)


def test_the_reader_waits_for_a_damaged_frame_until_it_is_told_to_give_up(rig: RingRig) -> None:
    rows = [row(number, 40) for number in range(5)]
    for body in rows:
        rig.writer.put(body)
    third = BASE + 2 * 48 + 20
    rig.writer.memory[third] ^= 1
    for _ in range(3):
        frames = rig.take()
        assert frames.damaged == 0
        assert frames.more
    assert rig.rows == rows[:2]
    rig.writer.memory[third] ^= 1  # it was only late
    assert rig.take_all() == rows
    for body in rows:
        rig.writer.put(body)
    rig.rows.clear()
    rig.writer.memory[BASE + 7 * 48 + 20] ^= 1
    frames = rig.take(give_up=True)
    assert (frames.damaged, frames.more) == (1, False)
    assert rig.rows == [*rows[:2], *rows[3:]]


def test_rows_behind_a_frame_without_a_believable_length_are_given_up_together(rig: RingRig) -> None:
    for number in range(5):
        rig.writer.put(row(number, 40))
    rig.writer.words[(BASE + 48) >> 3] = 0
    frames = rig.take(give_up=True)
    assert [number_of(body) for body in frames.rows] == [0]
    assert (frames.damaged, frames.more) == (1, False)
    rig.writer.put(b"afterwards")
    assert rig.take().rows == [b"afterwards"]


def test_spilled_rows_wait_behind_a_damaged_frame(rig: RingRig) -> None:
    rows = fill(rig)
    rig.writer.memory[BASE + 20] ^= 1
    assert rig.take().rows == []
    frames = rig.take(give_up=True)
    assert frames.damaged == 1
    assert rig.take_all(give_up=True) == rows[1:]


@pytest.mark.parametrize("offset", [3, 4097, 1 << 40, 8])
def test_a_tail_that_is_no_position_is_not_followed(rig: RingRig, offset: int) -> None:
    rig.writer.put(b"before")
    rig.take()
    rig.writer.put(b"hello")
    rig.writer.words[TAIL] = offset
    later = RingReader(rig.path, rig.spill)
    assert later.read().rows == [b"hello"]
    later.close()
    frames = rig.take()
    assert (frames.rows, frames.damaged, frames.more) == ([b"hello"], 0, False)
    assert rig.writer.words[TAIL] == rig.writer.words[HEAD]


@pytest.mark.parametrize(("word", "value"), [(0, 1), (1, 99)], ids=str)
def test_what_is_no_ring_is_refused(rig: RingRig, word: int, value: int) -> None:
    rig.writer.words[word] = value
    with pytest.raises(SessionError, match="no ring"):
        RingReader(rig.path, rig.spill)


@pytest.mark.parametrize("size", [0, 1, 4096, MIN_BYTES - 1])
def test_a_file_too_small_for_a_ring_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "r").write_bytes(bytes(size))
    with pytest.raises(SessionError, match="no ring"):
        RingReader(tmp_path / "r", tmp_path / "s")


# -- weak memory ordering ----------------------------------------------------------------------------------------------


def test_a_head_that_is_seen_before_its_frame_brings_no_frame_of_the_lap_before(rig: RingRig) -> None:
    while rig.writer.words[HEAD] + 4 * 48 < MIN_BYTES:
        rig.writer.put(row(1, 40))
        rig.take()
    while rig.writer.words[HEAD] > BASE + 4 * 48:
        rig.writer.put(row(2, 40))
        rig.take()
    rig.rows.clear()
    rig.writer.words[HEAD] += 48  # on a machine with weak ordering, the head may be seen before the frame
    assert rig.take().rows == []
