"""Closer looks: what is on the screen is read once more, in pieces, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from tailrace_agent.errors import Unavailable
from tailrace_agent.reading import sqlite_reads
from tailrace_agent.reading.reader import Reader, open_reader
from tailrace_agent.top.courses import Course, course_of_points
from tailrace_agent.top.windows import Window, Windows

AT = 1_700_000_000_000
SPIKE = 1234


@pytest.fixture
def uri(sqlite_uri: str, quiet_mlflow: None) -> str:
    return sqlite_uri


@pytest.fixture
def run_id(uri: str) -> str:
    client = MlflowClient(uri)
    run_id: str = client.create_run("0").info.run_id
    _log(uri, run_id, range(3000))
    return run_id


def _log(uri: str, run_id: str, steps: range) -> None:
    for begin in range(steps.start, steps.stop, 1000):
        some = range(begin, min(steps.stop, begin + 1000))
        points = [Metric("x", 99.0 if n == SPIKE else n % 7, AT + n, n) for n in some]
        MlflowClient(uri).log_batch(run_id, points)


@pytest.fixture
def windows() -> Windows:
    return _windows(own_process=True)


def _windows(*, own_process: bool) -> Windows:
    readers: dict[str, Reader] = {}

    def opened(uri: str) -> Reader:
        if uri not in readers:
            readers[uri] = open_reader(uri, "/", own_process=own_process)
        return readers[uri]

    return Windows(opened)


def _sampled() -> Course:
    """What a store gave that thins: every hundredth of 3000 points."""
    course = course_of_points([(n, 0, n % 7) for n in (*range(0, 3000, 100), 2999)])
    return Course(course.drawn, sampled=True)


def _read(windows: Windows, wanted: list[Window], now: float = 0.0) -> int:
    """Reads all that is due; how many pieces that were."""
    windows.want(wanted)
    pieces = 0
    while windows.step(now) <= now:
        pieces += 1
        assert pieces < 1000
    return pieces


def _window(uri: str, run_id: str, first: int, last: int, *, all_: bool = False, live: bool = False) -> Window:
    return Window("a", "x", uri, run_id, first, last, all_, live)


def test_a_window_is_drawn_with_every_point_that_it_has(windows: Windows, uri: str, run_id: str) -> None:
    course = _sampled()
    windows.want([_window(uri, run_id, 1200, 1300)])
    assert not windows.idle
    _read(windows, [_window(uri, run_id, 1200, 1300)])
    assert windows.idle
    found = windows.closer("a", {"x": course, "other": course})
    assert found["other"] is course
    inside = [span for span in found["x"].line if 1200 <= span.step <= 1300]
    assert [span.step for span in inside] == list(range(1200, 1301))
    assert max(span.high for span in inside) == 99.0
    assert not found["x"].sampled
    assert [span for span in found["x"].line if span.step < 1150] == [s for s in course.line if s.step < 1150]
    assert found["x"].line[-1] == course.line[-1]
    assert windows.closer("a", {"x": course})["x"] is found["x"], "a chart that is drawn stands"


def test_a_small_move_needs_no_other_look_and_a_closer_one_only_where_it_shows_more(
    windows: Windows, uri: str, run_id: str
) -> None:
    assert _read(windows, [_window(uri, run_id, 1000, 2000)]) == 1
    for first, last, pieces in ((1000, 2000, 0), (1100, 2100, 0), (1500, 1510, 1), (1505, 1506, 0), (0, 900, 1)):
        assert _read(windows, [_window(uri, run_id, first, last)]) == pieces, (first, last)


def test_of_all_that_was_sampled_the_extremes_are_found_in_pieces_and_shown_once_they_are_whole(
    windows: Windows, uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_reads, "_AT_ONCE", 700)
    course, wanted = _sampled(), [_window(uri, run_id, 0, 2999, all_=True)]
    windows.want(wanted)
    assert windows.step(0.0) == 0.0
    assert windows.closer("a", {"x": course})["x"] is course
    assert _read(windows, wanted) == 4
    found = windows.closer("a", {"x": course})["x"]
    assert max(span.high for span in found.line) == 99.0
    assert (found.sampled, found.last_step) == (False, 2999)
    assert len(found.line) <= 1024
    _read(windows, [_window(uri, run_id, 100, 110)])
    assert max(span.high for span in windows.closer("a", {"x": course})["x"].line) == 99.0
    assert _read(windows, wanted) == 0, "it is kept while a window is looked at"


def test_a_store_that_only_thins_gives_more_points_of_a_window_and_none_of_all(
    uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailrace_agent.reading import thinned

    monkeypatch.setattr(thinned, "_WHOLE", 200)
    windows, course = _windows(own_process=False), _sampled()
    assert _read(windows, [_window(uri, run_id, 0, 2999, all_=True)]) == 1
    assert windows.closer("a", {"x": course})["x"] is course
    _read(windows, [_window(uri, run_id, 0, 1500)])
    found = windows.closer("a", {"x": course})["x"]
    assert found.sampled
    assert len(found.line) > 2 * len(course.line)


def test_of_a_run_that_goes_on_what_has_come_since_is_read_every_few_seconds(
    windows: Windows, uri: str, run_id: str
) -> None:
    course = _sampled()
    for all_, last in ((True, 2999), (False, 3100)):
        wanted = [_window(uri, run_id, 0 if all_ else 2900, last, all_=all_, live=True)]
        _read(windows, wanted, 0.0)
        end = windows.closer("a", {"x": course})["x"].line[-1].step
        _log(uri, run_id, range(end + 1, end + 11))
        assert _read(windows, wanted, 4.0) == 0
        assert _read(windows, wanted, 6.0) == 1
        assert windows.closer("a", {"x": course})["x"].line[-1].step >= end + 8
    ended = [window._replace(live=False) for window in wanted]
    assert _read(windows, ended, 100.0) == 0


def test_what_is_not_in_the_store_yet_stays_as_it_was(windows: Windows, uri: str, run_id: str) -> None:
    course = course_of_points([(n, 0, 1.0) for n in range(5000, 5100)])
    _read(windows, [_window(uri, run_id, 5000, 5100)])
    assert windows.closer("a", {"x": course})["x"] is course


def test_a_store_that_is_away_is_said_and_asked_again_later_and_no_more_when_nothing_is_wanted() -> None:
    def away(uri: str) -> Reader:
        raise Unavailable(f"{uri} is away")

    windows = Windows(away)
    windows.want([_window("http://a", "1" * 32, 0, 9)])
    assert windows.step(10.0) == 15.0
    assert windows.fault == "http://a is away"
    windows.want([])
    assert windows.fault is None
    assert windows.step(20.0) > 20.0


def test_no_more_is_kept_than_some_pages_of_charts(
    windows: Windows, uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace_agent.top.windows._KEPT", 2)
    names: Callable[[int], str] = "run-{}".format
    for n in range(4):
        _read(windows, [_window(uri, run_id, 0, 9)._replace(key=names(n))])
        assert windows.closer(names(n), {"x": _sampled()})["x"].line[1].step == 1
    assert _read(windows, [_window(uri, run_id, 0, 9)._replace(key=names(3))]) == 0
    assert _read(windows, [_window(uri, run_id, 0, 9)._replace(key=names(0))]) == 1
