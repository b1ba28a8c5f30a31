"""Who of a job is in a run, and what that means for it."""

from __future__ import annotations

import os

import msgspec
import pytest

from tailrace_agent.delivery.run_jobs import (
    awaited,
    fallen,
    goes_on,
    join,
    not_there,
    note_rank,
    rank_record,
    reason_of,
    status_of_fallen,
)
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_state import RankState, RunState
from tailrace_agent.ipc.records import End, JobPart, Rank, RunSpec, Start
from tailrace_agent.runtime.processes import process
from tailrace_agent.sinks.base import RunRef

GONE = 2**22 + 1  # no process has such an id


def spec(*, owned: bool = True, attempt: int = 0, rank: int = 0) -> RunSpec:
    part = JobPart(key="k", name="night", rank=rank, attempt=attempt)
    return RunSpec(run=1, start_time=1, cwd="/", owned=owned, job=part)


def began(rank: int, pid: int = 10, attempt: int = 0, state: str = "began", started: int = 5) -> Rank:
    return Rank(1, rank, pid, started, attempt, state, 1000 + rank)


def test_rank_zero_owns_the_run_whoever_came_first() -> None:
    state = RunState(spec=spec(owned=False, rank=3), ring="three")
    join(state, spec(), "zero")
    assert (state.spec.owned, state.ring) == (True, "zero")
    join(state, spec(owned=False, rank=2), "two")
    assert (state.spec.owned, state.ring) == (True, "zero")


def test_the_next_attempt_takes_an_end_back() -> None:
    state = RunState(spec=spec(), ring="zero")
    state.advance(Event.ENDED)
    state.end, state.end_reason, state.closed = End(1, "KILLED", 5), "rank 0", True
    join(state, spec(attempt=1), "again")
    assert (state.end, state.end_reason, state.closed, state.finalized) == (None, None, False, False)
    assert state.attempts == 1, "it is looked for before it is created"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["rank 0 first", "rank 0 last"])
def test_the_owner_of_a_later_attempt_looks_for_the_run_once_more_so_that_mlflow_knows_the_attempt(
    order: tuple[int, int],
) -> None:
    state = RunState(spec=spec(), ring="zero", ref=RunRef("a1", "0", "night", None))
    for rank in order:
        join(state, spec(owned=rank == 0, rank=rank, attempt=1), f"ring{rank}")
    assert (state.ref, state.attempts, state.spec.owned) == (None, 1, True)


def test_in_the_first_attempt_a_run_that_was_found_stays_found() -> None:
    state = RunState(spec=spec(owned=False, rank=1), ring="one", ref=RunRef("a1", "0", "night", None))
    join(state, spec(), "zero")
    assert state.ref is not None


def test_a_sessions_ledger_keeps_its_tag_when_nodes_change_places() -> None:
    def at(node: int, rank: int, attempt: int) -> RunSpec:
        part = JobPart(key="k", node=f"node{node}", several_nodes=True, rank=rank, attempt=attempt)
        return RunSpec(run=1, start_time=1, cwd="/", owned=rank == 0, job=part)

    first = RunState.begun(Start(at(0, 1, 0)), "one")
    assert first.ledger_tag == "tailrace.ledger.node0"
    join(first, at(0, 0, 0), "zero")
    assert first.ledger_tag == "tailrace.ledger"
    second = RunState.begun(Start(at(1, 2, 0)), "two")
    for state, node, rank in ((first, 1, 2), (second, 0, 1), (second, 0, 0)):
        join(state, at(node, rank, 1), "again")
    assert (first.ledger_tag, second.ledger_tag) == ("tailrace.ledger", "tailrace.ledger.node1")
    late = RunState.begun(Start(at(1, 2, 1)), "late")
    assert late.ledger_tag == "tailrace.ledger.node1.1"


def test_a_rank_that_comes_twice_at_once_is_told() -> None:
    state = RunState(spec=spec(), ring="zero")
    note_rank(state, began(0), "zero")
    here = process(os.getpid())
    note_rank(state, began(0, pid=here.pid, started=here.began, attempt=1), "again")
    assert state.notices == []
    note_rank(state, began(0, pid=12, attempt=1), "other")
    assert f"two processes ({here.pid} and 12) say that they are rank 0 of job 'night'" in state.notices[0]


def test_a_rank_that_is_started_anew_is_no_second_one_and_who_fell_before_is_forgotten() -> None:
    state = RunState(spec=spec(), ring="zero")
    for rank in (0, 1, 2):
        note_rank(state, began(rank, pid=GONE + rank), f"ring{rank}")
    state.ranks = [msgspec.structs.replace(each, state="gone") for each in state.ranks if each.rank] + state.ranks[:1]
    note_rank(state, began(0, pid=12), "again")  # of the same attempt: a node came, and the ranks have new numbers
    assert ([each.rank for each in state.ranks], state.notices) == ([0], [])


def test_rank_zero_opens_a_run_again_that_has_ended_and_another_one_does_not() -> None:
    state = RunState(spec=spec(), ring="zero")
    state.advance(Event.ENDED)
    state.end = End(1, "FINISHED", 5)
    join(state, spec(owned=False, rank=2), "late")
    assert state.end is not None
    join(state, spec(), "zero")  # the record that it sends once more at its end
    assert state.end is not None
    join(state, spec(), "again")
    assert (state.end, state.ring) == (None, "again")


def test_ranks_are_awaited_until_they_have_done_their_part() -> None:
    state = RunState(spec=spec(), ring="zero")
    for rank in range(2):
        note_rank(state, began(rank), f"ring{rank}")
    assert awaited(state)
    for rank in range(2):
        note_rank(state, began(rank, state="done"), f"ring{rank}")
    assert not awaited(state)
    assert fallen(state) == []


@pytest.mark.parametrize(
    ("first", "status", "text"),
    [
        ({"state": "gone", "signal": 9}, "KILLED", "rank 1 (process 7 on box) was killed by SIGKILL; after it rank 0"),
        ({"state": "gone", "code": 3}, "FAILED", "rank 1 (process 7 on box) ended with exit code 3; after it rank 0"),
        ({"state": "failed", "detail": "ValueError: x"}, "FAILED", "rank 1 (process 7 on box) failed: ValueError: x; "),
    ],
)
def test_the_rank_that_fell_first_is_named(first: dict[str, object], status: str, text: str) -> None:
    state = RunState(spec=spec(), ring="zero")
    one = msgspec.convert({"rank": 1, "ring": "r1", "pid": 7, "time_ms": 1, **first}, RankState)
    state.ranks = [RankState(rank=0, ring="r0", pid=6, state="gone", time_ms=2, signal=15), one]
    ranks = fallen(state)
    assert status_of_fallen(ranks) == status
    assert reason_of(ranks, JobPart(key="k"), "box").startswith(text)


def test_where_nobody_saw_who_fell_first_none_is_named_so() -> None:
    ranks = [RankState(rank=rank, ring="r", pid=rank, state="gone") for rank in range(12)]
    text = reason_of(ranks, JobPart(key="k"), "box")
    assert text.startswith("ranks 0, 1, 2, 3, 4, 5, 6, 7 and 4 more on box are gone without a word")


def test_of_earlier_attempts_nobody_is_counted() -> None:
    state = RunState(spec=spec(), ring="zero")
    state.ranks = [
        RankState(rank=0, ring="r0", pid=6, state="gone", attempt=0),
        RankState(rank=1, ring="r1", pid=7, state="done", attempt=1),
    ]
    assert fallen(state) == []
    assert rank_record(1, state.ranks[0]).state == "began"


def test_ranks_that_differ_in_what_they_log_are_told() -> None:
    state, here = RunState(spec=spec(), ring="zero"), process(os.getpid())
    for rank, modes in ((0, {"*": "stats"}), (1, {})):
        record = began(rank, pid=here.pid, started=here.began)
        note_rank(state, msgspec.structs.replace(record, modes=modes), f"ring{rank}")
    assert "ranks 0 and 1 differ in the setting `ranks`: *=stats and zero" in state.notices[0]


@pytest.mark.parametrize("first", [0, 1])
def test_ranks_that_mean_different_stores_are_told_where_all_goes(first: int) -> None:
    stores = {0: "http://zeros", 1: "http://ones"}
    specs = [msgspec.structs.replace(spec(owned=not n, rank=n), tracking_uri=stores[n]) for n in (0, 1)]
    state = RunState(spec=specs[first], ring=str(first))
    join(state, specs[1 - first], str(1 - first))
    join(state, msgspec.structs.replace(spec(owned=False, rank=2), tracking_uri="http://zeros"), "two")
    (text,) = state.notices
    assert "differ in tracking_uri" in text
    assert "goes to 'http://zeros', and nothing to 'http://ones'" in text
    assert state.spec.tracking_uri == "http://zeros"


def test_who_does_not_find_the_run_is_told_what_may_differ() -> None:
    assert "another tracking_uri" in not_there("0f", JobPart(key="k", node="node1"))
    assert not_there("0f", None).endswith("waits until it is")


def test_who_finds_its_run_running_is_told_that_another_job_may_have_the_name() -> None:
    assert goes_on(JobPart(key="k", name="night")).startswith("the run of job 'night' is in MLflow already")


def test_who_was_killed_fell_before_who_failed_of_that() -> None:
    state = RunState(spec=spec(), ring="zero")
    for rank in (0, 1, 2):
        note_rank(state, began(rank, pid=GONE + rank), f"ring{rank}")
    replace = msgspec.structs.replace
    zero, one, two = state.ranks
    state.ranks = [
        replace(zero, state="failed", time_ms=1000, detail="RuntimeError: peer"),
        replace(one, state="gone", time_ms=1200, signal=9),
        replace(two, state="gone", time_ms=900, signal=15),
    ]
    assert [each.rank for each in fallen(state)] == [1, 2, 0]
