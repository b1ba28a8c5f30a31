"""What becomes of the metrics of ranks: under a name of their own, as statistics of a step, or nothing."""

from __future__ import annotations

import math

import pytest
from msgspec.json import decode, encode

from tailrace_agent.spool.rank_rows import RankPlace, RankRows, RankSteps, Step, routed

NAN = math.nan


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def place(rank: int, ranks: int = 2, node: str = "") -> RankPlace:
    return RankPlace(1, rank, ranks, node, {"*": "stats"})


def add(rows: RankRows, rank: int, step: int, time_ns: int, values: dict[str, float], ring: str = "") -> int:
    ring = ring or f"ring{rank}"
    rows.put_place(ring, place(rank))
    return rows.add(ring, step, time_ns, values)


def out(rows: RankRows, *, done: bool = False) -> list[dict[str, float]]:
    return [step.row for _, step in rows.complete(lambda _: done)]


def test_a_step_goes_out_when_all_ranks_have_said_it() -> None:
    rows = RankRows(Clock())
    add(rows, 0, 7, 100, {"loss": 1.0})
    assert out(rows) == []
    add(rows, 1, 7, 101, {"loss": 3.0})
    assert out(rows) == [{"loss.mean": 2.0, "loss.min": 1.0, "loss.max": 3.0, "loss.max_rank": 1.0}]
    assert not rows.waiting


def test_a_step_that_a_rank_does_not_say_waits_five_seconds_and_what_comes_later_is_late() -> None:
    clock = Clock()
    rows = RankRows(clock)
    add(rows, 0, 7, 100, {"loss": 1.0})
    clock.now = 5.1
    assert out(rows) == [{"loss.mean": 1.0, "loss.min": 1.0, "loss.max": 1.0, "loss.max_rank": 0.0}]
    assert add(rows, 1, 7, 101, {"loss": 3.0}) == 1
    assert out(rows) == []


def test_all_that_waits_goes_out_when_the_ranks_have_done_their_part() -> None:
    rows = RankRows(Clock())
    add(rows, 0, 7, 100, {"loss": 1.0})
    assert len(out(rows, done=True)) == 1


def test_no_more_than_ten_thousand_steps_wait_and_the_oldest_go_first() -> None:
    rows = RankRows(Clock())
    for step in range(10_003):
        add(rows, 0, step, 100, {"loss": float(step)})
    assert [row["loss.mean"] for row in out(rows)] == [0.0, 1.0, 2.0]


def test_the_rank_with_no_number_is_the_one_that_is_named() -> None:
    row = Step("loss", 1, 1, 3, "/node1", {0: 5.0, 1: "nan", 2: 1.0}).row
    assert math.isnan(row["loss.mean/node1"])
    assert (row["loss.min/node1"], row["loss.max/node1"], row["loss.max_rank/node1"]) == (1.0, 5.0, 1.0)
    assert math.isnan(Step("loss", 1, 1, 1, "", {0: "nan"}).row["loss.max"])
    assert math.isnan(Step("loss", 1, 1, 2, "", {0: "inf", 1: "-inf"}).row["loss.mean"])


def test_what_was_not_written_is_taken_once_more_and_counts_once() -> None:
    rows = RankRows(Clock())
    add(rows, 0, 7, 100, {"loss": 1.0})
    kept = rows.keep()
    add(rows, 1, 7, 101, {"loss": 3.0})
    assert len(out(rows)) == 1
    rows.restore(kept)
    add(rows, 1, 7, 101, {"loss": 3.0})
    assert out(rows)[0]["loss.mean"] == 2.0


def test_what_waits_is_stored_and_another_agent_goes_on_with_it() -> None:
    rows, later = RankRows(Clock()), RankRows(Clock())
    add(rows, 0, 7, 100, {"loss": NAN})
    later.resume(1, rows.take_changed()[1])
    add(later, 1, 7, 101, {"loss": 3.0})
    assert out(later)[0]["loss.max_rank"] == 0.0
    assert rows.take_changed() == {}


@pytest.mark.parametrize(("rank", "kept"), [(0, {"loss": 1.0, "grad/rank0": 2.0}), (3, {"grad/rank3": 2.0})])
def test_patterns_say_what_becomes_of_which_metric(rank: int, kept: dict[str, float]) -> None:
    modes = {"grad": "each", "time*": "stats"}
    rows = RankRows(Clock())
    rows.put_place("ring", RankPlace(1, rank, 4, "", modes))
    assert rows.route("ring", {"loss": 1.0, "grad": 2.0, "time/step": 3}) == (kept, {}, {"time/step": 3.0})


def test_a_rank_of_its_own_run_keeps_its_names() -> None:
    values = {"loss": 1.0}
    assert routed(RankPlace(1, 0, 4, "", {}), values, {"loss": "runs"}) == (values, {}, {})
    assert routed(RankPlace(1, 3, 4, "", {}), values, {"loss": "runs"}) == ({}, values, {})


def test_a_step_that_is_out_is_not_sent_once_more_by_the_next_agent() -> None:
    clock = Clock()
    rows, later = RankRows(clock), RankRows(clock)
    add(rows, 0, 7, 100, {"loss": 1.0})
    clock.now = 5.1
    assert len(out(rows)) == 1
    later.resume(1, decode(encode(rows.take_changed()[1]), type=RankSteps))
    assert add(later, 1, 7, 101, {"loss": 3.0}) == 1
    assert out(later) == []


def test_infinity_outlives_an_agent() -> None:
    rows, later = RankRows(Clock()), RankRows(Clock())
    add(rows, 0, 7, 100, {"loss": math.inf})
    later.resume(1, decode(encode(rows.take_changed()[1]), type=RankSteps))
    assert out(later, done=True)[0]["loss.mean"] == math.inf


def test_ranks_that_are_started_anew_may_do_a_step_once_more() -> None:
    rows = RankRows(Clock())
    for again in ("", "again"):
        for rank in (0, 1):
            assert add(rows, rank, 7, 100, {"loss": float(rank)}, f"ring{rank}{again}") == 0
        assert [row["loss.mean"] for row in out(rows)] == [0.5]
    assert add(rows, 0, 7, 100, {"loss": 9.0}) == 1, "a row of the round before that is read late"


def test_what_waits_for_ranks_that_are_gone_goes_out_at_once() -> None:
    rows = RankRows(Clock())
    add(rows, 0, 7, 100, {"loss": 1.0})
    rows.close_all_but({"ring0"})
    assert out(rows) == []
    rows.close_all_but({"ring of another run"})
    assert [row["loss.mean"] for row in out(rows)] == [1.0]
