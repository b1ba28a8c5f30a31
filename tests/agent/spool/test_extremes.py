"""The smallest and largest values that are noted with a run: those of all its points, or no note."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace_agent.ipc.records import Point
from tailrace_agent.spool.blocks import Outcome
from tailrace_agent.spool.extremes import NOTE, SHARED, Extreme, known, of, to_text, unbounded
from tailrace_agent.spool.store import Spool

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
POINTS = st.lists(
    st.builds(Point, st.sampled_from(["a", "b", 'c/ü"\\']), NUMBERS, st.integers(0, 20), st.integers(-5, 5)),
    max_size=40,
)


def plainly(points: list[Point]) -> dict[str, Extreme]:
    found = {}
    for key in {point.key for point in points}:
        own = [point for point in points if point.key == key]
        numbers = [point.value for point in own if not math.isnan(point.value)]
        step, timestamp = max((point.step, point.timestamp) for point in own)
        found[key] = Extreme(len(own), min(numbers, default=None), max(numbers, default=None), step, timestamp)
    return found


@given(POINTS)
def test_they_are_those_of_all_points_with_nan_left_out(points: list[Point]) -> None:
    assert of(points) == plainly(points)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(POINTS, max_size=5))
def test_the_spool_widens_them_batch_by_batch(batches: list[list[Point]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        spool = Spool(Path(directory) / "s.db")
        for batch in batches:
            found = of(batch)
            keys = [(key, extreme.n) for key, extreme in found.items()]
            spool.settle(Outcome(1, "metric", [], len(batch), keys=keys, extremes=found))
            spool.settle(Outcome(2, "metric", [], len(batch), keys=keys, extremes=found))
        assert spool.counts.extremes(1) == plainly([point for batch in batches for point in batch])
        spool.close()


def test_what_an_older_tailrace_has_delivered_leaves_a_metric_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    spool.settle(Outcome(1, "metric", [], 3, keys=[("a", 2), ("b", 1)]))
    new = of([Point("a", 1.0, 0, 0), Point("c", 1.0, 0, 0)])
    spool.settle(Outcome(1, "metric", [], 2, keys=[("a", 1), ("c", 1)], extremes=new))
    assert set(spool.counts.extremes(1)) == {"c"}


@given(POINTS)
def test_a_note_comes_back_as_it_was(points: list[Point]) -> None:
    found = of(points)
    last = {point.key: (point.step, point.timestamp, point.value) for point in sorted(points, key=_as_mlflow)}
    told = known({NOTE: to_text(found)}, last)
    assert told == {
        key: None if one.low is None or one.high is None else (unbounded(one.low), unbounded(one.high))
        for key, one in found.items()
    }


def _as_mlflow(point: Point) -> tuple[int, int, float]:
    """How MLflow's stores find the last point of a metric."""
    return point.step, point.timestamp, 0.0 if math.isnan(point.value) else point.value


def test_a_metric_that_somebody_else_has_gone_on_with_is_not_known() -> None:
    text = to_text(of([Point("a", 1.0, 5, 3), Point("b", 2.0, 5, 3), Point("nan", math.nan, 5, 3)]))
    last = {"a": (3, 5, 1.0), "b": (3, 6, 2.0), "c": (0, 0, 0.0), "nan": (3, 5, math.nan)}
    assert known({NOTE: text}, last) == {"a": (1.0, 1.0), "nan": None}
    assert known({NOTE: text}, {"a": (4, 5, 1.0)}) == {}
    assert known({NOTE: text}, {"a": (3, 5, 9.0), "nan": (3, 5, 9.0)}) == {}, "of the same step and time, but outside"
    assert known({NOTE: text, SHARED: "true"}, last) == {}
    assert known({}, last) == {}


DAMAGED = ["", "{", "[]", "null", "7", "[" * 4900, '{"a":1}', '{"a":[1,2]}', '{"a":[1,2,3,4,5]}', '{"a":["x",2,3,5]}']
DAMAGED += ['{"a":[null,2,3,5]}', '{"a":[1,"2",3,5]}', '{"a":[1,2,3.5,5]}', f'{{"a":[{"9" * 400},1,3,5]}}']


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:20] or "empty")
def test_a_note_that_is_damaged_is_none(text: str) -> None:
    assert known({NOTE: text}, {"a": (3, 5, 1.0)}) == {}


def test_a_note_keeps_the_limit_and_has_the_programs_metrics_first() -> None:
    names = [f"{prefix}{i:03}" for i in range(100) for prefix in ("system/", "m")]
    points = [Point(name, 1 / 3, 1_764_240_000_000, 100) for name in names]
    text = to_text(of(points))
    assert 4800 < len(text) <= 5000
    keys = list(json.loads(text))
    assert keys == [f"m{i:03}" for i in range(len(keys))]
    assert len(json.loads(to_text(of(points[:40])))) == 40
    long = of([Point("x" * 6000, 1.0, 0, 0), Point("y", 1.0, 0, 0)])
    assert list(json.loads(to_text(long))) == ["y"]
