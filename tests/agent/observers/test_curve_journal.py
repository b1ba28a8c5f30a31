"""What curves have taken in survives their agent, whatever becomes of the file's end, and stops nothing."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.kept_log import KeptLog
from tailrace_agent.files import whole_files
from tailrace_agent.ipc.curves import Curve, telling
from tailrace_agent.observers import curve_journal
from tailrace_agent.observers.curve_journal import CurveJournal
from tailrace_agent.observers.curves import Curves

POINTS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 9), st.floats(width=16)), max_size=60)


class JournalRig:
    """Curves with a journal, and the agents that follow."""

    def __init__(self, path: Path) -> None:
        self.path, self.log = path, KeptLog()
        self.curves = self.agent()

    def agent(self) -> Curves:
        curves = Curves(CurveJournal(self.path, self.log))
        curves.resume({1, 2})
        return curves

    def see(self, *values: float, run: int = 1, first: int = 0) -> None:
        for n, value in enumerate(values, first):
            self.curves.saw(run, n, n, {"loss": value})
        self.curves.take_in()

    def line(self, run: int = 1) -> list[float]:
        found = self.curves.of(run)
        return [span.last for span in found["loss"].line] if found else []


@pytest.fixture
def journal(tmp_path: Path) -> JournalRig:
    return JournalRig(tmp_path / "curves.journal")


def test_each_agent_draws_on_where_the_one_before_was_killed(journal: JournalRig) -> None:
    for n in range(4):
        journal.see(float(n), float(-n), first=2 * n)
        journal.see(7.0, run=2)
        journal.see(9.0, run=3)  # is over before the next one comes
        journal.curves = journal.agent()
    assert journal.line() == [0.0, 0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0]
    assert (journal.line(2), journal.line(3)) == ([7.0], [])
    assert journal.curves.of(1)["loss"].low == (-3.0, 7)
    assert not journal.log.lines


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_a_torn_end_costs_that_end_alone(journal: JournalRig, cut: int) -> None:
    journal.see(1.0, 2.0)
    whole = journal.path.stat().st_size
    journal.see(3.0, first=2)
    body = journal.path.read_bytes()
    journal.path.write_bytes(body[: whole + cut])
    journal.curves = journal.agent()
    assert journal.line() == [1.0, 2.0]
    journal.see(3.0, first=2)
    journal.curves = journal.agent()
    assert journal.line() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("body", [b"", b"x" * 100, b"\0" * 8, b"\xff" * 9])
def test_whatever_its_bytes_are_an_agent_begins(journal: JournalRig, body: bytes) -> None:
    journal.path.write_bytes(body)
    journal.curves = journal.agent()
    assert journal.line() == []
    journal.see(1.0)
    assert journal.line() == [1.0]


def test_a_full_disk_stops_nothing_and_once_there_is_room_all_is_kept(
    journal: JournalRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_journal, "_REST", 3)

    def full(fd: int, body: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(whole_files, "write_all", full)
        for n in range(10):
            journal.see(float(n), first=n)
    assert len(journal.log.lines) == 1
    for n in range(10, 15):
        journal.see(float(n), first=n)
    journal.curves = journal.agent()
    assert journal.line() == [float(n) for n in range(15)]


def test_the_file_stays_small_however_long_the_run_is(journal: JournalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_journal, "_GROWS_BY", 1000)
    sizes = []
    for n in range(3000):
        journal.see(float(n), first=n)
        sizes.append(journal.path.stat().st_size)
    assert max(sizes) < 3 * 7000 + 1000 + 100
    line = journal.line()
    journal.curves = journal.agent()
    assert journal.line() == line


def test_nothing_is_left_where_every_run_is_over(journal: JournalRig) -> None:
    journal.see(1.0)
    journal.curves.keep_only([])
    journal.curves.close()
    assert not journal.path.exists()


@given(st.lists(POINTS, max_size=8))
def test_what_is_kept_of_points_draws_as_all_of_them_do(batches: list[list[tuple[int, int, float]]]) -> None:
    whole, kept = Curve(), Curve()
    for batch in batches:
        whole.add(batch)
        kept.add(told := telling(batch, whole.width))
        assert set(map(str, told)) <= set(map(str, batch))
    assert (kept.low, kept.high) == (whole.low, whole.high)
    assert repr(kept.last) == repr(whole.last)
    spans: dict[int, tuple[float, float, float]] = {}
    for span in kept.line:  # it may be finer
        at = span.step // whole.width * whole.width
        low, high, _ = spans.get(at, (math.inf, -math.inf, 0.0))
        spans[at] = (min(low, span.low), max(high, span.high), span.last)
    assert spans == {span.step: (span.low, span.high, span.last) for span in whole.line}


@given(POINTS)
def test_a_curve_that_was_handed_on_is_the_same(points: list[tuple[int, int, float]]) -> None:
    curve = Curve()
    curve.add(points)
    again = Curve.of(curve.drawn)
    assert repr(again.drawn) == repr(curve.drawn)
    for each in (curve, again):
        each.add([(7000, 1, 2.5)])
    assert repr(again.drawn) == repr(curve.drawn)
