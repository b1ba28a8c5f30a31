"""What was put on a ring is there, whatever happens in between; and `put` never raises or waits."""

from __future__ import annotations

import contextlib
import errno
import gc
import inspect
import itertools
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import adler32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.rings import BASE, RingRig, fill, new_rig, number_of, quick, row
from tailrace._log.log import python_log
from tailrace_agent.ipc import ring_writer as ring
from tailrace_agent.ipc.ring_format import MIN_BYTES, SPILL_BASE, SPILLED
from tailrace_agent.ipc.ring_reader import RingReader
from tailrace_agent.ipc.ring_writer import RingWriter

# -- rows come out once and in order -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(1, 25), 4000, 15_000, 15_359, 15_360, 15_361])
def test_rows_of_every_alignment_wrap_around(rig: RingRig, size: int) -> None:
    laps = 3 * (MIN_BYTES // (size + 8)) + 10 if size > 1000 else 9000
    expected = []
    for number in range(laps):
        expected.append(row(number, size)[:size])
        rig.writer.put(expected[-1])
        if number % 3 == 0:
            rig.take()
    assert rig.take_all() == expected


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(8, 3000), st.integers(1, 30)),
        st.tuples(st.just("put"), st.integers(8, 40_000), st.just(1)),
        st.tuples(st.just("take"), st.integers(1, 80_000), st.integers(1, 3)),
    ),
    max_size=60,
)


@quick
@given(OPERATIONS)
def test_rows_come_out_once_and_in_order_whatever_the_sizes_and_the_commits(
    operations: list[tuple[str, int, int]],
) -> None:
    with new_rig() as rig:
        count = itertools.count()
        expected = []
        for what, size, times in operations:
            for _ in range(times):
                if what == "put":
                    expected.append(row(next(count), size))
                    rig.writer.put(expected[-1])
                else:
                    assert rig.take(size).damaged == 0
            assert rig.rows == expected[: len(rig.rows)]
            assert rig.writer.unread == rig.reader.unread
        assert rig.take_all() == expected
        assert rig.writer.unread == rig.reader.unread == 0


# -- when the ring is full ---------------------------------------------------------------------------------------------


def test_a_full_ring_spills_and_comes_back(rig: RingRig) -> None:
    rows = fill(rig)
    for _ in range(50):  # room in the ring would change nothing: order is kept
        rows.append(row(len(rows), 100))
        rig.writer.put(rows[-1])
    assert rig.spill.stat().st_mode & 0o777 == 0o600
    assert rig.take_all() == rows
    written = rig.writer.words[9]
    for _ in range(10):
        rows.append(row(len(rows), 100))
        rig.writer.put(rows[-1])
    assert rig.writer.words[9] == written  # back on the ring
    assert rig.take_all() == rows


def test_while_rows_spill_each_may_be_left_out_and_with_room_in_the_ring_again_none_is_asked_about(
    rig: RingRig,
) -> None:
    asked: list[bytes] = []

    def every_other(body: bytes, put: Callable[[bytes], None]) -> None:
        asked.append(body)
        if len(asked) % 2:
            put(body)

    rows = fill(rig)
    rig.writer.put(row(len(rows), 100))  # so that there is something in the file
    rows.append(row(len(rows), 100))
    rig.writer._on_spill = every_other
    more = [row(number, 100) for number in range(len(rows), len(rows) + 50)]
    for body in more:
        rig.writer.put(body)
    assert asked == more
    rows += more[::2]
    assert rig.take_all() == rows
    for number in range(1000, 1010):
        rows.append(row(number, 100))
        rig.writer.put(rows[-1])
    assert (asked, rig.take_all()) == (more, rows)


def test_a_row_larger_than_a_quarter_of_the_ring_goes_to_the_spill_file(rig: RingRig) -> None:
    rows = [row(0, 100), row(1, 200_000), row(2, 100), row(3, 15_000)]
    for body in rows:
        rig.writer.put(body)
    assert rig.take_all() == rows


def test_the_spill_file_gives_its_blocks_back_when_it_was_read(rig: RingRig) -> None:
    expected = []
    for lap in range(4):
        for _ in range(100):
            expected.append(row(len(expected), 2000))
            rig.writer.put(expected[-1])
        rig.take_all()
        assert rig.spill.stat().st_blocks * 512 <= 220_000 * (lap < 3) + 220_000
    assert rig.rows == expected


def test_a_spill_file_takes_the_room_of_what_waits_though_its_reader_never_catches_up(rig: RingRig) -> None:
    rows = fill(rig)
    for _ in range(40):
        for _ in range(50):
            rows.append(row(len(rows), 2000))
            rig.writer.put(rows[-1])
        while rig.reader.unread > 150_000:
            assert rig.take(20_000).more
        assert rig.spill.stat().st_blocks * 512 < 350_000
    assert rig.writer.words[SPILLED] > 3_500_000
    assert rig.take_all() == rows


def test_a_spill_files_room_is_back_as_soon_as_the_ring_has_room_again(rig: RingRig) -> None:
    rows = fill(rig)
    for _ in range(100):
        rows.append(row(len(rows), 2000))
        rig.writer.put(rows[-1])
    rig.take_all()
    rows.append(row(len(rows), 100))
    rig.writer.put(rows[-1])
    assert rig.spill.stat().st_size == 0
    assert rig.take_all() == rows
    while rig.writer.words[SPILL_BASE] == rig.writer.words[SPILLED]:
        rows.append(row(len(rows), 1000))
        rig.writer.put(rows[-1])
    assert rig.take_all() == rows


def test_a_disk_that_does_not_give_the_spill_files_room_back_costs_no_row(
    rig: RingRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = fill(rig)
    rig.take_all()

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("tailrace_agent.ipc.ring_writer.os.ftruncate", refuse)
        for _ in range(10):
            rows.append(row(len(rows), 100))
            rig.writer.put(rows[-1])
    assert rig.take_all() == rows


def test_what_exceeds_the_spill_files_bound_is_given_up_with_a_reason() -> None:
    dropped: list[tuple[bytes, str]] = []
    with new_rig(spill_max=5000, on_drop=lambda body, reason: dropped.append((body, reason))) as rig:
        rows = [row(number, 1000) for number in range(100)]
        for body in rows:
            rig.writer.put(body)
        assert {reason for _, reason in dropped} == {"spill file at its bound"}
        assert rig.take_all() + [body for body, _ in dropped] == rows
        assert rig.spill.stat().st_size <= 6000
        rig.writer.put(b"later")
        assert rig.take_all()[-1] == b"later"


def test_a_record_larger_than_the_spill_files_bound_goes_alone_and_metrics_of_that_size_are_given_up() -> None:
    dropped: list[bytes] = []
    with new_rig(spill_max=5000, on_drop=lambda body, reason: dropped.append(body)) as rig:
        record, metrics, small = b"\xa6" + bytes(20_000), b"\x94" + bytes(20_000), b"\xa6" + bytes(100)
        for body in (record, metrics, small):
            rig.writer.put(body)
        assert dropped == [metrics, small]
        assert rig.take_all() == [record]
        rig.writer.put(small)
        assert rig.take_all()[-1] == small


@pytest.mark.parametrize("call", ["open", "pwrite", "ftruncate", "short"])
def test_disk_errors_give_rows_up_with_a_reason_and_never_raise(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    dropped: list[tuple[bytes, str]] = []

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with new_rig(on_drop=lambda body, reason: dropped.append((body, reason))) as rig:
        with monkeypatch.context() as patch:
            if call == "short":
                patch.setattr("tailrace_agent.ipc.ring_writer.os.pwrite", lambda *_: 3)
            else:
                patch.setattr(f"tailrace_agent.ipc.ring_writer.os.{call}", full)
            rows = [row(number, 1000) for number in range(100)]
            for body in rows:
                rig.writer.put(body)
        assert dropped
        assert {reason for _, reason in dropped} == (
            {"disk full"} if call == "short" else {"spill file: No space left on device"}
        )
        more = [row(1000 + number, 1000) for number in range(100)]
        for body in more:  # the disk has room again
            rig.writer.put(body)
        assert rig.take_all() == [body for body in rows if body not in {b for b, _ in dropped}] + more


def test_a_disk_that_fails_in_the_middle_of_the_spill_loses_only_what_was_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dropped: list[bytes] = []
    real = os.pwrite
    calls = itertools.count()

    def moody(fd: int, data: bytes, at: int) -> int:
        if next(calls) % 3 == 1:
            real(fd, data[: len(data) // 2], at)
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, data, at)

    monkeypatch.setattr("tailrace_agent.ipc.ring_writer.os.pwrite", moody)
    with new_rig(on_drop=lambda body, _: dropped.append(body)) as rig:
        rows = [row(number, 1000) for number in range(150)]
        for body in rows:
            rig.writer.put(body)
        assert len(dropped) > 20
        assert rig.take_all() == [body for body in rows if body not in dropped]


# -- making and closing ------------------------------------------------------------------------------------------------


def test_room_that_cannot_be_had_is_an_error_at_once_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tailrace_agent.ipc.ring_writer.os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        RingWriter(tmp_path / "r", MIN_BYTES, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_ring_is_private_and_never_takes_over_a_file(tmp_path: Path) -> None:
    writer = RingWriter(tmp_path / "r", 100_001, tmp_path / "s")
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "r").stat().st_size == 100_000
    with pytest.raises(FileExistsError):
        RingWriter(tmp_path / "r", MIN_BYTES, tmp_path / "s")
    writer.close()
    small = RingWriter(tmp_path / "r2", 1, tmp_path / "s")
    assert (tmp_path / "r2").stat().st_size == MIN_BYTES
    small.close()


@pytest.mark.parametrize("spilled", [False, True])
def test_after_close_rows_are_given_up_with_a_reason_and_the_earlier_ones_stay_readable(*, spilled: bool) -> None:
    dropped: list[tuple[bytes, str]] = []
    with new_rig(on_drop=lambda body, reason: dropped.append((body, reason))) as rig:
        rows = fill(rig) if spilled else [b"before"]
        if not spilled:
            rig.writer.put(b"before")
        rig.writer.close()
        rig.writer.close()
        rig.writer.put(b"after")
        rig.writer.put(b"again")
        assert dropped == [(b"after", "ring closed"), (b"again", "ring closed")]
        assert rig.take_all() == rows


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_a_sample_brings_the_row_and_sane_times_if_it_is_of_a_log_call() -> None:
    seen: list[tuple[bytes, int, int]] = []
    with new_rig(size=1 << 20, on_sample=lambda *sample: seen.append(sample)) as rig:
        rows = [row(number, 100) for number in range(5000)]
        for body in rows:
            rig.writer.put(body)
        assert 10 < len(seen) < 200
        assert {body for body, _, _ in seen} <= set(rows)
        assert {(entered, took) for _, entered, took in seen} == {(0, 0)}
        seen.clear()
        rig.writer.put_slowly(rows[0])
        ((body, entered, took),) = seen
        assert body == rows[0]
        assert entered > 1e18
        assert took >= 0


def test_a_put_from_within_a_sample_is_kept() -> None:
    inner = itertools.count(1_000_000)
    rig_box: list[RingRig] = []

    def on_sample(*_: object) -> None:
        for _ in range(3):
            rig_box[0].writer.put(row(next(inner), 60))

    with new_rig(on_sample=on_sample) as rig:
        rig_box.append(rig)
        for number in range(5000):
            rig.writer.put(row(number, 60))
            if number % 100 == 0:
                rig.take()
        numbers = [number_of(body) for body in rig.take_all()]
        assert [n for n in numbers if n < 1_000_000] == list(range(5000))
        assert [n for n in numbers if n >= 1_000_000] == list(range(1_000_000, next(inner)))
        assert len(numbers) > 5000


def test_a_put_from_within_a_drop_is_kept_when_there_is_room_for_it() -> None:
    rig_box: list[RingRig] = []
    dropped: list[bytes] = []

    def on_drop(body: bytes, _: str) -> None:
        dropped.append(body)
        if len(body) > 500:
            rig_box[0].writer.put(row(1_000_000 + number_of(body), 20))

    with new_rig(spill_max=8000, on_drop=on_drop) as rig:
        rig_box.append(rig)
        for number in range(100):
            rig.writer.put(row(number, 1000))
        large = [body for body in dropped if len(body) > 500]
        assert large
        out = [number_of(body) for body in rig.take_all()]
        lost = {number_of(body) for body in dropped}
        everything = [*range(100), *(1_000_000 + number_of(body) for body in large)]
        assert sorted([*out, *lost]) == sorted(everything)


def test_a_callback_that_raises_loses_no_row_that_was_put_before(rig: RingRig) -> None:
    def on_sample(*_: object) -> None:
        rig.writer.put(row(next(inner)))  # accepted, parked
        raise ValueError("a bug of the caller's")

    inner = itertools.count(1_000_000)
    rig.writer._on_sample = on_sample
    raised = 0
    for number in range(2000):
        try:
            rig.writer.put(row(number))
        except ValueError:
            raised += 1
        if number % 100 == 0:
            rig.take()
    rig.writer._on_sample = None
    for number in range(2000, 4000):
        rig.writer.put(row(number))
        rig.take()
    assert raised
    numbers = Counter(number_of(body) for body in rig.take_all())
    assert numbers.keys() == {*range(4000), *range(1_000_000, 1_000_000 + raised)}
    assert set(numbers.values()) == {1}


# -- interruptions -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alarms(handler: Callable[[int, types.FrameType | None], None], seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_put_from_a_signal_handler_at_any_moment_loses_nothing_and_doubles_nothing(rig: RingRig) -> None:
    inner = itertools.count(1_000_000)
    depth = 0

    def interrupt(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth == 3:  # on a slow machine they would strike faster than they end, for ever
            signal.setitimer(signal.ITIMER_REAL, 0)
        rig.writer.put(row(next(inner), 30))
        depth -= 1
        if not depth and not done:
            signal.setitimer(signal.ITIMER_REAL, 0.00007, 0.00007)

    done = False
    with alarms(interrupt, 0.00007):
        for number in range(20_000):
            rig.writer.put(row(number, 20 + number % 50))
            if number % 700 == 699:
                rig.take()
        done = True  # one that comes while the alarms are being put off must not set another
    numbers = [number_of(body) for body in rig.take_all()]
    handled = [n for n in numbers if n >= 1_000_000]
    assert [n for n in numbers if n < 1_000_000] == list(range(20_000))
    assert sorted(handled) == list(range(1_000_000, next(inner)))
    assert len(handled) > 20


def test_a_put_from_a_finalizer_during_a_put_loses_nothing_and_doubles_nothing(rig: RingRig) -> None:
    inner = itertools.count(1_000_000)

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            rig.writer.put(row(next(inner), 30))

    thresholds = gc.get_threshold()
    try:
        for number in range(5000):
            Cycle()
            gc.set_threshold(1 + number % 3, 1000, 1000)
            rig.writer.put(row(number, 20 + number % 50))
            if number % 300 == 299:
                rig.take()
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()
    numbers = [number_of(body) for body in rig.take_all()]
    assert [n for n in numbers if n < 1_000_000] == list(range(5000))
    assert sorted(n for n in numbers if n >= 1_000_000) == list(range(1_000_000, next(inner)))


class Interrupted(BaseException):
    """Ctrl-C, but only inside of the ring, so that the test keeps its own books in peace."""


@pytest.mark.slow
def test_an_interruption_at_any_moment_leaves_the_ring_usable_and_the_lock_free(rig: RingRig) -> None:
    codes = {id(f.__code__) for f in vars(RingWriter).values() if isinstance(f, types.FunctionType)}

    # Python 3.10 looks for signals between an exception and its handler, too: no second one may strike there.
    apart = sys.version_info < (3, 11)

    def interrupt(_: int, frame: types.FrameType | None) -> None:
        if frame is not None and id(frame.f_code) in codes:
            if apart:
                signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interrupted

    returned, interrupted = set(), set()
    with alarms(interrupt, 0.00005):
        for number in range(30_000):
            try:
                rig.writer.put(row(number, 20 + number % 50))
            except Interrupted:
                interrupted.add(number)
                if apart:
                    signal.setitimer(signal.ITIMER_REAL, 0.00005, 0.00005)
            else:
                returned.add(number)
            if number % 2000 == 1999:  # the ring is full by then
                rig.take_all()
    assert interrupted
    assert_lock_is_free(rig.writer)
    rig.writer.put(row(30_000))
    returned.add(30_000)
    numbers = [number_of(body) for body in rig.take_all()]
    assert numbers == sorted(set(numbers))  # in order, none twice
    assert returned <= set(numbers) <= returned | interrupted


def test_an_interruption_while_another_thread_has_the_lock_leaves_it_to_that_thread(rig: RingRig) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with rig.writer._lock:
            rig.writer.limit = -1  # as it is while somebody makes room
            holding.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(10)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Interrupted):
            rig.writer.put(b"never")
        assert not rig.writer._lock.acquire(blocking=False)
    finally:
        signal.signal(signal.SIGALRM, before)
        done.set()
        thread.join(10)
    assert_lock_is_free(rig.writer)
    rig.writer.put(b"later")
    assert rig.take_all() == [b"later"]


def assert_lock_is_free(writer: RingWriter) -> None:
    got: list[bool] = []
    probe = threading.Thread(target=lambda: got.append(writer._lock.acquire(timeout=5)) or writer._lock.release())
    probe.start()
    probe.join()
    assert got == [True]


# -- threads and processes ---------------------------------------------------------------------------------------------


def test_four_threads_lose_nothing_and_each_ones_rows_stay_in_order() -> None:
    four_threads_write(20_000)


def test_four_threads_lose_nothing_without_a_gil_to_order_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_GIL", False)
    four_threads_write(2_000)


def test_four_threads_lose_nothing_under_a_debugger_that_lets_others_run_at_every_line() -> None:
    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        if frame.f_code is not RingWriter.put.__code__:
            return None
        if event == "line":
            time.sleep(0)  # gives up the GIL
        return trace

    threading.settrace(trace)
    try:
        four_threads_write(400)
    finally:
        threading.settrace(None)  # type: ignore[arg-type]


def test_the_body_of_put_stands_in_log_word_for_word() -> None:
    def lines(function: Any, first: str) -> list[str]:
        code = [line.strip() for line in inspect.getsource(function.__code__).splitlines()]
        body = code[code.index(first) :]
        body = [line.replace("self.", "ring.").replace(", timed=False", "") for line in body]
        return [line for line in body[: body.index("return None") + 1] if line[:1] != "#"]

    log = python_log(types.SimpleNamespace(own=None, shared=None))  # type: ignore[arg-type]
    assert lines(RingWriter.put, "size = len(row)") == lines(log, "size = len(row)")


def four_threads_write(each: int, threads: int = 4) -> None:
    with new_rig(size=256 * 1024) as rig:

        def work(thread: int) -> None:
            put = rig.writer.put
            for number in range(each):
                put(row(thread * 1_000_000 + number, 16))

        workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            assert rig.take(100_000).damaged == 0
            workers[0].join(0.001)
        numbers = [number_of(body) for body in rig.take_all()]
        assert len(numbers) == each * threads
        for thread in range(threads):
            mine = [n - thread * 1_000_000 for n in numbers if n // 1_000_000 == thread]
            assert mine == list(range(each))


CHILD = """
import os, sys
from pathlib import Path
from tailrace_agent.ipc.ring_writer import RingWriter
folder, count, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
ring = RingWriter(folder / "r.ring", 1 << 16, folder / "spill")
print("ready", flush=True)
for number in range(count):
    ring.put(number.to_bytes(8, "little") + bytes(size))
    if number % 50 == 0:
        os.write(1, b"%d\\n" % number)
os.kill(os.getpid(), 9)
"""


def start_child(folder: Path, count: int, size: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, str(folder), str(count), str(size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


@pytest.mark.parametrize("size", [50, 2000])
def test_the_rows_of_a_process_that_kills_itself_are_all_there(tmp_path: Path, size: int) -> None:
    child = start_child(tmp_path, 500, size)
    child.communicate(timeout=20)
    assert child.returncode == -signal.SIGKILL
    reader = RingReader(tmp_path / "r.ring", tmp_path / "spill")
    assert reader.pid == child.pid
    frames = reader.read()
    assert [number_of(body) for body in frames.rows] == list(range(500))
    assert not frames.damaged
    reader.close()


def test_a_process_killed_at_any_moment_leaves_every_row_that_it_knew_to_be_put(tmp_path: Path) -> None:
    child = start_child(tmp_path, 10_000_000, 100)
    assert child.stdout is not None
    told = -1
    for line in itertools.islice(child.stdout, 40):
        told = int(line) if line[:1].isdigit() else told
    child.kill()
    rest, _ = child.communicate(timeout=20)
    complete = rest[: rest.rfind(b"\n") + 1].split()
    told = max([told, *map(int, complete)])
    reader = RingReader(tmp_path / "r.ring", tmp_path / "spill")
    rows: list[bytes] = []
    while True:
        frames = reader.read(give_up=True)
        rows += frames.rows
        reader.commit(frames.tail, frames.spill)
        if not frames.more:
            break
    assert [number_of(body) for body in rows] == list(range(len(rows)))
    assert len(rows) > told
    reader.close()


# -- weak memory ordering ----------------------------------------------------------------------------------------------


def test_the_format_is_what_the_module_says(rig: RingRig) -> None:
    rig.writer.put(b"hello")
    with rig.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        words = [int.from_bytes(view[8 * i : 8 * i + 8], "little") for i in range(19)]
        assert view[:8] == b"tailrace"
        assert words[1:4] == [1, MIN_BYTES, os.getpid()]
        assert (words[8], words[16]) == (BASE + 16, BASE)
        word = (5).to_bytes(4, "little") + adler32(b"hello").to_bytes(4, "little")
        assert view[BASE : BASE + 16] == word + b"hello" + bytes(3)
