"""Whoever reads a run's end in MLflow finds everything that came before it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from helpers.delivery_rigs import DeliveryRig, fails
from tailrace_agent.delivery.run_phase import Event, Phase
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import End, JobPart, Params, RunSpec, Start, Tags
from tailrace_agent.sinks.memory import MemorySink
from tailrace_agent.spool.store import Spool

# -- the end -----------------------------------------------------------------------------------------------------------


def test_the_end_comes_after_everything_else_the_ledger_included(rig: DeliveryRig) -> None:
    seen: list[tuple[str, str]] = []
    rig.start()
    rig.log_metrics(*(f"k{i}" for i in range(2500)))
    rig.say(Params(1, {"lr": "1"}), Tags(1, {"t": "x"}), End(1, "FAILED", 99))
    rig.sink.fail = lambda method: seen.append((method, rig.of(1).status if rig.sink.runs else ""))
    rig.run()
    run = rig.of(1)
    assert (run.status, run.end_time) == ("FAILED", 99)
    assert [method for method, _ in seen][-2:] == ["log_batch", "end_run"]
    assert {status for method, status in seen if method == "log_batch"} == {"RUNNING"}
    stored = json.loads(run.tags["tailrace.ledger"])
    assert (stored["accepted"], stored["delivered"], stored["pending"]) == (2502, 2502, 0)
    assert rig.state().finalized
    before = len(rig.sink.requests)
    rig.run()
    assert len(rig.sink.requests) == before


def test_rows_that_come_after_the_end_are_delivered_and_the_ledger_is_stored_anew(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("a")
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    rig.log_metrics("late")
    rig.run()
    assert rig.sink.count_metrics(rig.of(1).run_id) == {"a": 1, "late": 1}
    stored = json.loads(rig.of(1).tags["tailrace.ledger"])
    assert (stored["delivered"], stored["late"]) == (2, 1)


def test_a_run_stays_open_while_the_rings_are_read_for_what_came_before_its_end(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("a")
    rig.book.end(End(1, "FINISHED", 99))
    rig.run(5)
    assert (rig.of(1).status, rig.ledger().delivered) == ("RUNNING", 1)
    rig.log_metrics("of a child")
    rig.run()
    assert (rig.of(1).status, rig.ledger().delivered, rig.ledger().total.late) == ("FINISHED", 2, 0)


def test_a_child_that_goes_on_logging_does_not_keep_the_run_open(rig: DeliveryRig) -> None:
    rig.start()
    rig.say(End(1, "FINISHED", 99))
    for number in range(50):
        rig.log_metrics(f"k{number}")
        rig.step()
        rig.now += 0.01
    assert rig.of(1).status == "FINISHED"
    rig.run()
    assert 0 < rig.ledger().total.late <= 50 == rig.ledger().delivered


def test_why_a_run_will_be_killed_is_said_before_its_backlog_and_the_status_after_it(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics(*(f"k{number}" for number in range(2500)))
    rig.book.end(End(1, "KILLED", 50), "process 7 disappeared")
    rig.drained()
    seen: list[tuple[str, str, int]] = []

    def look(method: str) -> None:
        if rig.sink.runs:
            run = rig.of(1)
            seen.append((method, run.tags.get("tailrace.end_reason", ""), len(run.metrics)))

    rig.sink.fail = look
    rig.run()
    assert seen[1:3] == [("log_batch", "process 7 disappeared", 0), ("log_batch", "process 7 disappeared", 1000)]
    assert seen[-1] == ("end_run", "process 7 disappeared", 2500)
    assert rig.of(1).status == "KILLED"


def test_an_end_that_is_said_while_an_inferred_one_is_being_told_is_told_too(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("a")
    rig.book.end(End(1, "KILLED", 50), "process 7 disappeared")
    rig.drained()
    said = iter([End(1, "FINISHED", 60)])

    def say(method: str) -> None:
        if method == "end_run":
            rig.say(*said)

    rig.sink.fail_after = say
    rig.run()
    assert (rig.of(1).status, rig.of(1).end_time) == ("FINISHED", 60)
    assert rig.state().phase is Phase.FINALIZED


def test_an_end_that_is_said_while_a_run_is_being_finalized_is_told(
    rig: DeliveryRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.start()
    rig.log_metrics("a")
    rig.book.end(End(1, "KILLED", 50), "process 7 disappeared")
    rig.drained()
    advance, said = rig.book.advance, iter([End(1, "FINISHED", 60)])

    def say_before(run: int, event: Event, **more: Any) -> bool:
        if event is Event.SETTLED:
            rig.say(*said)
        return advance(run, event, **more)

    monkeypatch.setattr(rig.book, "advance", say_before)
    rig.run()
    assert (rig.of(1).status, rig.of(1).end_time) == ("FINISHED", 60)
    assert rig.state().phase is Phase.FINALIZED


# -- the note of smallest and largest values ---------------------------------------------------------------------------


def note(rig: DeliveryRig) -> dict[str, list[float]]:
    """Smallest and largest values that are noted with the run."""
    tags = rig.of(1).tags
    return {key: entry[:2] for key, entry in json.loads(tags.get("tailrace.extremes", "{}")).items()}


def test_the_smallest_and_largest_values_are_noted_with_the_ledger(rig: DeliveryRig) -> None:
    rig.start()
    for value in (3.0, 1.0, math.nan, 2.0):
        rig.log_metrics("a", value=value)
    rig.log_metrics("b", value=math.nan)
    rig.run()
    assert note(rig) == {}, "the run goes on"
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    assert note(rig) == {"a": [1.0, 3.0], "b": [None, None]}
    assert ["tailrace.extremes", "tailrace.ledger"] in [keys for _, keys in rig.sink.requests]


def test_a_note_is_withdrawn_before_late_metrics_and_comes_again_after_them(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("a", value=1.0)
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    rig.restart()
    rig.log_metrics("a", value=0.0)
    seen: list[object] = []
    rig.sink.fail = lambda method: seen.append((method, note(rig)))
    rig.run()
    assert seen == [("log_batch", {"a": [1.0, 1.0]}), ("log_batch", {}), ("log_batch", {})]
    assert note(rig) == {"a": [0.0, 1.0]}


def test_no_note_is_left_behind_by_a_kill_between_the_note_and_its_record(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("a", value=1.0)
    rig.say(End(1, "FINISHED", 99))
    log_batch = rig.sink.log_batch

    def killed(run_id: str, **batch: Any) -> None:
        log_batch(run_id, **batch)
        if batch.get("tags", (("", ""),))[0][0] == "tailrace.extremes":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.sink, "log_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            rig.run()
    assert note(rig) == {"a": [1.0, 1.0]}
    rig.restart()
    rig.log_metrics("a", value=0.0)
    rig.run()
    assert note(rig) == {"a": [0.0, 1.0]}
    assert ("tag", ["tailrace.extremes"]) in rig.sink.requests, "it was withdrawn"


def test_who_lost_something_or_writes_to_the_run_of_another_makes_no_note(rig: DeliveryRig) -> None:
    rig.sink.bad = lambda key: key == "bad"
    rig.start()
    rig.log_metrics("a", "bad")
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    assert note(rig) == {}  # withdrawn: it was refused in the company of what is bad

    run_id = rig.of(1).run_id
    rig.start(run=2, run_id=run_id)
    rig.log_metrics("a", run=2)
    rig.say(End(2, "FINISHED", 99))
    rig.run()
    tags = rig.sink.runs[run_id].tags
    assert tags["tailrace.shared"] == "true"
    assert tags["tailrace.extremes"] == "{}"
    firsts = [keys[0] for _, keys in rig.sink.requests if keys[0] in ("tailrace.shared", "a")]
    assert firsts[-2:] == ["tailrace.shared", "a"], "said before its first point"
    assert firsts.count("tailrace.shared") == 1


def test_a_run_that_its_program_has_just_created_in_mlflow_has_no_note_to_take_back(rig: DeliveryRig) -> None:
    rig.start()
    rig.run()
    run_id = rig.of(1).run_id
    rig.start(run=2, run_id=run_id, created=True, artifact_uri="mlflow-artifacts:/0/a/artifacts")
    rig.log_metrics("a", run=2)
    rig.say(End(2, "FINISHED", 99))
    rig.run()
    run = rig.sink.runs[run_id]
    assert (len(run.metrics["a"]), run.status) == (1, "FINISHED")
    assert not {"tailrace.shared", "tailrace.extremes"} & {*run.tags}


def job(rig: DeliveryRig, value: float, *, attempt: int = 0, **place: Any) -> None:
    """A session of a job that goes on in its run, with one point, and its end."""
    part = JobPart(key="named:night", attempt=attempt, **place)
    rig.say(Start(RunSpec(run=1, start_time=5, cwd="/", job=part)))
    rig.log_metrics("loss", value=value)
    rig.say(End(1, "FINISHED", 99))
    rig.run()


def ledgers(rig: DeliveryRig) -> list[int]:
    return [json.loads(text)["delivered"] for key, text in rig.of(1).tags.items() if key.startswith("tailrace.ledger")]


@pytest.mark.parametrize(
    "places",
    [({}, {}, {}), ({"node": "node0", "several_nodes": True}, {"node": "node1", "several_nodes": True, "attempt": 1})],
    ids=["a name that comes again", "rank 0 on another node"],
)
def test_sessions_of_a_job_that_goes_on_keep_their_ledgers_and_none_notes_values_for_all(
    rig: DeliveryRig, tmp_path: Path, places: tuple[dict[str, Any], ...]
) -> None:
    job(rig, 1.0, **places[0])
    assert note(rig) == {"loss": [1.0, 1.0]}
    for number, place in enumerate(places[1:]):
        (tmp_path / str(number)).mkdir()
        other = DeliveryRig(tmp_path / str(number), rig.sink)
        job(other, 5.0, **place)
        other.restart()
        other.log_metrics("loss", value=6.0)
        other.run()
        other.spool.close()
    assert ledgers(rig) == [1, *[2] * len(places[1:])]
    assert rig.of(1).tags["tailrace.shared"] == "true"


def test_a_job_that_goes_on_in_its_session_notes_the_values_of_all_attempts(rig: DeliveryRig) -> None:
    job(rig, 1.0)
    for attempt in (1, 2):
        job(rig, 5.0, attempt=attempt)
    assert note(rig) == {"loss": [1.0, 5.0]}
    assert (ledgers(rig), "tailrace.shared" in rig.of(1).tags) == ([3], False)


def test_a_probe_of_a_store_that_refuses_much_leaves_the_ledger_of_the_runs_owner_alone(
    rig: DeliveryRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(rig, 1.0)
    owners, write, tried = rig.of(1).tags["tailrace.ledger"], rig.sink.log_batch, list[str]()

    def log_batch(run_id: str, **what: Any) -> None:
        if what.get("metrics"):
            raise Refused("no")
        tried.extend(key for key, _ in what.get("tags", ()))
        write(run_id, **what)

    monkeypatch.setattr(rig.sink, "log_batch", log_batch)
    (tmp_path / "other").mkdir()
    other = DeliveryRig(tmp_path / "other", rig.sink)
    other.start(owned=False, run_id=rig.of(1).run_id)
    other.log_metrics(*(f"k{number}" for number in range(40)))
    other.run()
    assert rig.of(1).tags["tailrace.ledger"] == owners
    assert tried == ["tailrace.shared"] * 2, "said, and tried"
    other.spool.close()


def test_a_spool_that_does_not_know_how_the_run_began_makes_no_note(rig: DeliveryRig, tmp_path: Path) -> None:
    rig.start()
    rig.log_metrics("a", value=-100.0)
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    assert note(rig) == {"a": [-100.0, -100.0]}
    rig.spool.close()
    (tmp_path / "another").mkdir()
    rig.spool = Spool(tmp_path / "another" / "spool.db")
    rig.restart()
    rig.say(Start(RunSpec(run=1, start_time=5, cwd="/"), again=True))
    rig.log_metrics("a", value=6.0)
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    assert rig.sink.count_metrics(rig.of(1).run_id) == {"a": 2}
    assert rig.of(1).tags["tailrace.extremes"] == "{}"
    assert rig.state().finalized


def test_a_note_that_cannot_be_withdrawn_is_tried_again_with_each_request(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("a", value=1.0)
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    rig.sink.bad = lambda key: key == "tailrace.extremes"
    rig.log_metrics("a", value=0.0)
    rig.run()
    assert rig.state().noted
    rig.sink.bad = lambda _: False
    rig.log_metrics("a", value=-1.0)
    rig.run()
    assert note(rig) == {"a": [-1.0, 1.0]}


def test_a_store_that_refuses_the_note_takes_the_ledger(rig: DeliveryRig) -> None:
    rig.sink.bad = lambda key: key == "tailrace.extremes"
    rig.start()
    rig.log_metrics("a")
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    assert json.loads(rig.of(1).tags["tailrace.ledger"])["delivered"] == 1
    assert rig.state().finalized


def test_rows_that_come_while_the_ledger_is_being_stored_are_delivered(rig: DeliveryRig, monkeypatch: Any) -> None:
    log_batch, late = rig.sink.log_batch, iter(["late"])

    def during(run_id: str, **batch: Any) -> None:
        if any(key == "tailrace.ledger" for key, _ in batch.get("tags", ())):
            rig.log_metrics(*itertools.islice(late, 1))
        log_batch(run_id, **batch)

    monkeypatch.setattr(rig.sink, "log_batch", during)
    rig.start()
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    assert rig.sink.count_metrics(rig.of(1).run_id) == {"late": 1}
    assert rig.state().finalized


def test_the_reason_of_an_inferred_end_is_a_tag_and_a_said_end_takes_it_away(rig: DeliveryRig) -> None:
    rig.start()
    rig.book.end(End(1, "KILLED", 50), "process 7 disappeared")
    rig.drained()
    rig.run()
    assert (rig.of(1).status, rig.of(1).tags["tailrace.end_reason"]) == ("KILLED", "process 7 disappeared")
    rig.say(End(1, "FINISHED", 60))
    rig.run()
    assert (rig.of(1).status, rig.of(1).end_time) == ("FINISHED", 60)
    assert "tailrace.end_reason" not in rig.of(1).tags


def test_a_resumed_run_that_ends_well_has_no_reason_that_came_late_from_the_attempt_before(rig: DeliveryRig) -> None:
    run_id = MemorySink.open_run(rig.sink, RunSpec(run=9, start_time=1, cwd="/"), None, find_first=False).run_id
    rig.start(run_id=run_id)
    rig.run()
    rig.sink.log_batch(run_id, tags=[("tailrace.end_reason", "process 7 disappeared")])  # another agent's
    rig.say(End(1, "FINISHED", 60))
    rig.run()
    assert (rig.sink.runs[run_id].status, "tailrace.end_reason" in rig.sink.runs[run_id].tags) == ("FINISHED", False)


def test_the_status_of_somebody_elses_run_is_left_alone(rig: DeliveryRig) -> None:
    run_id = MemorySink.open_run(rig.sink, RunSpec(run=9, start_time=1, cwd="/"), None, find_first=False).run_id
    rig.start(run_id=run_id, owned=False)
    rig.log_metrics("a")
    rig.say(End(1, "FINISHED", 99))
    rig.run()
    assert rig.sink.runs[run_id].status == "RUNNING"
    assert rig.sink.count_metrics(run_id) == {"a": 1}
    assert rig.state().finalized


@pytest.mark.parametrize(("theirs", "status"), [("0", "KILLED"), ("1", "RUNNING"), ("odd", "KILLED")])
def test_the_end_of_a_node_that_was_lost_is_not_that_of_a_job_that_goes_on_elsewhere(
    rig: DeliveryRig, theirs: str, status: str
) -> None:
    rig.start(job=JobPart(key="k", node="node0", several_nodes=True))
    rig.log_metrics("a")
    rig.run(5)
    rig.of(1).tags["tailrace.attempt"] = theirs
    rig.book.end(End(1, "KILLED", 50), "rank 0 was killed by SIGKILL")
    rig.drained()
    rig.log_metrics("b")
    rig.run()
    assert rig.of(1).status == status
    assert ("tailrace.end_reason" in rig.of(1).tags) == (status == "KILLED")
    assert rig.sink.count_metrics(rig.of(1).run_id) == {"a": 1, "b": 1}
    assert json.loads(rig.of(1).tags["tailrace.ledger"])["delivered"] == 2
    assert rig.state().finalized


def test_a_parent_ends_after_the_nested_runs_that_have_ended_before_it(rig: DeliveryRig) -> None:
    rig.start(1)
    for run in (2, 3, 4):
        rig.start(run, parent=1)
        rig.log_metrics(*"abc", run=run)
    rig.say(End(1, "FINISHED", 99), *(End(run, "FAILED", 98) for run in (2, 3)))
    seen = []

    def look(method: str) -> None:
        if method == "end_run":
            seen.append([rig.of(run).status for run in (1, 2, 3, 4)])

    rig.sink.fail_after = look
    rig.run()
    assert seen == [
        ["RUNNING", "FAILED", "RUNNING", "RUNNING"],
        ["RUNNING", "FAILED", "FAILED", "RUNNING"],
        ["FINISHED", "FAILED", "FAILED", "RUNNING"],
    ]


@pytest.mark.parametrize("method", ["end_run", "discard_twins"])
def test_a_refusal_at_the_end_of_one_run_keeps_no_other_waiting(rig: DeliveryRig, method: str) -> None:
    fails(rig, Unavailable("lost"), "open_run", times=1, after=True)
    rig.start(1)
    rig.start(2)
    rig.book.end(End(1, "KILLED", 99), "process 7 disappeared")
    rig.drained()
    rig.run()
    fails(rig, Refused("permission denied"), method)
    rig.log_metrics("a", run=1)
    rig.say(End(1, "FINISHED", 99))
    rig.log_metrics("b", run=2)
    rig.say(End(2, "FINISHED", 99))
    rig.run()
    assert rig.ledger(2).delivered == 1
    assert rig.state(1).finalized
    assert rig.state(2).finalized
    if method == "end_run":
        assert any("permission denied" in text for text in rig.notices(2))


# -- creating runs -----------------------------------------------------------------------------------------------------


def test_twins_of_a_run_go_away(rig: DeliveryRig) -> None:
    fails(rig, Unavailable("lost"), "open_run", times=1, after=True)
    rig.start()
    rig.step()
    (twin,) = rig.sink.runs
    rig.sink.runs[twin].deleted = True  # a store that does not find it yet
    rig.run()
    rig.sink.runs[twin].deleted = False
    rig.log_metrics("a")
    rig.say(End(1, "FINISHED", 9))
    rig.run()
    assert rig.sink.runs[twin].deleted
    assert rig.sink.count_metrics(rig.of(1).run_id) == {"a": 1}
