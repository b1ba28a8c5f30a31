"""Which of the runs that carry a job's mark is its own, also where the clocks of two nodes differ by minutes."""

from __future__ import annotations

import pytest

from tailrace_agent.ipc.records import JobPart, RunSpec
from tailrace_agent.mlflow.job_runs import attempt_of, is_of_job, is_over, tags_of_restart

MINUTE = 60_000
BEGAN = 10**12


def spec(*, weak: bool = True, owned: bool = False, **tags: str) -> RunSpec:
    named = {f"tailrace.{key}": value for key, value in tags.items()}
    return RunSpec(run=1, start_time=BEGAN, cwd="/", owned=owned, tags=named, job=JobPart(key="k", weak=weak))


@pytest.mark.parametrize("behind", [-4, 0, 4])
def test_a_run_that_ended_a_moment_ago_is_found_whatever_the_clock_of_this_node_says(behind: int) -> None:
    assert is_of_job(spec(), "FINISHED", BEGAN - behind * MINUTE)


def test_of_an_id_that_comes_back_a_run_that_has_ended_long_ago_is_another_jobs() -> None:
    assert not is_of_job(spec(), "FINISHED", BEGAN - 10 * MINUTE)
    assert not is_of_job(spec(owned=True), "KILLED", BEGAN), "rank 0 comes before its run does"
    assert is_of_job(spec(), "RUNNING", None)


def test_a_key_that_no_other_job_has_needs_no_clock() -> None:
    assert is_of_job(spec(weak=False), "FINISHED", 0)
    assert is_of_job(RunSpec(run=1, start_time=BEGAN, cwd="/"), "FINISHED", 0)


def test_what_is_over() -> None:
    assert [is_over(status) for status in ("RUNNING", "SCHEDULED", "KILLED")] == [False, False, True]


def test_a_job_that_is_started_anew_counts_and_forgets_who_fell() -> None:
    tags = {"tailrace.fallen.node1": "{}", "tailrace.fallen.node2": "none", "tailrace.attempt": "1"}
    assert tags_of_restart(spec(attempt="2"), tags) == [("tailrace.fallen.node1", "none"), ("tailrace.attempt", "2")]
    assert tags_of_restart(spec(), {"tailrace.attempt": "1"}) == []


@pytest.mark.parametrize(("tag", "attempt"), [(None, 0), ("", 0), ("3", 3), ("-1", 0), ("three", 0), ("12", 12)])
def test_what_is_no_number_is_no_attempt(tag: str | None, attempt: int) -> None:
    assert attempt_of({} if tag is None else {"tailrace.attempt": tag}) == attempt
