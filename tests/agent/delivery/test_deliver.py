"""Delivery: everything reaches the store exactly once, in as few requests as it takes, whatever the store does."""

from __future__ import annotations

import itertools
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.delivery_faults import CountingSink
from helpers.delivery_rigs import IDLE, MS, DeliveryRig, fails
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.delivery.run_state import Description
from tailrace_agent.errors import Refused, StoreRefused, Unavailable
from tailrace_agent.ipc.notices import Topic, paired
from tailrace_agent.ipc.records import End, Facts, Params, RunSpec, Tags
from tailrace_agent.mlflow.names import stored_name
from tailrace_agent.sinks.memory import MemorySink

# -- when it is sent ---------------------------------------------------------------------------------------------------


def test_blocks_are_sent_in_parts_to_a_store_that_is_slower_still_and_no_accepted_part_twice(rig: DeliveryRig) -> None:
    log_batch, sent = rig.sink.log_batch, list[tuple[str, float]]()
    failing = iter([False, False, True, False, False, True] + [False] * 1000)

    def too_slow(run_id: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        if metrics and (len(metrics) > 40 or next(failing)):
            raise Unavailable("not in time", too_slow=True)
        sent.extend((point.key, point.value) for point in metrics)
        log_batch(run_id, metrics=metrics, params=params, tags=tags)

    rig.sink.log_batch = too_slow  # type: ignore[method-assign]
    rig.start()
    rig.log_row({f"k{number}": float(number) for number in range(250)})
    rig.run()
    assert sorted(sent) == sorted((f"k{number}", float(number)) for number in range(250))  # each once
    assert rig.ledger().of("metric").delivered == 250


@pytest.mark.slow
def test_a_store_too_slow_for_full_requests_gets_smaller_ones_until_it_is_not(rig: DeliveryRig) -> None:
    slow = True
    log_batch = rig.sink.log_batch

    def too_slow(run_id: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        log_batch(run_id, metrics=metrics, params=params, tags=tags)  # it is done, but nobody waits for the answer
        if slow and len(metrics) > 300:
            raise Unavailable("not in time", too_slow=True)

    rig.sink.log_batch = too_slow  # type: ignore[method-assign]
    rig.start()
    for number in range(3000):
        rig.log_metrics(f"k{number % 7}", value=float(number))
    rig.run()
    sizes = [len(keys) for keys in rig.sink.sent("metric")]
    assert sizes[:2] == [1000, 500]
    assert max(sizes[3:9]) <= 250
    assert rig.ledger().of("metric").delivered == 3000
    assert sum(len(points) for points in rig.of(1).metrics.values()) == 3000  # each once, however often it came
    slow = False
    for number in range(8000):
        rig.log_metrics(f"k{number % 7}", value=float(number))
    rig.run()
    assert len(rig.sink.sent("metric")[-2]) == 1000
    assert rig.ledger().of("metric").delivered == 11_000


def test_a_store_that_takes_no_large_request_is_soon_sent_small_ones(rig: DeliveryRig) -> None:
    refused = []
    log_batch = rig.sink.log_batch

    def too_large(run_id: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        if len(metrics) > 60:
            refused.append(len(metrics))
            raise Refused("no request this large", too_large=True)
        log_batch(run_id, metrics=metrics, params=params, tags=tags)

    rig.sink.log_batch = too_large  # type: ignore[method-assign]
    rig.start()
    for number in range(3000):
        rig.log_metrics(f"k{number % 7}", value=float(number))
    rig.run()
    accepted = len(rig.sink.sent("metric"))
    assert refused[:6] == [1000, 500, 250, 125, 62, 62]
    assert len(refused) < accepted / 6
    assert (rig.ledger().of("metric").delivered, rig.ledger().dead) == (3000, 0)
    assert sum(len(points) for points in rig.of(1).metrics.values()) == 3000


def test_without_runs_there_is_nothing_to_do(rig: DeliveryRig) -> None:
    assert rig.step() >= IDLE
    assert rig.opened == 1


@pytest.mark.parametrize(("ahead", "words"), [(300.0, "5 min ahead of"), (-90.0, "90 s behind"), (20.0, None)])
def test_a_clock_that_is_minutes_off_is_said_once(rig: DeliveryRig, ahead: float, words: str | None) -> None:
    rig.sink.clock_ahead = lambda: ahead
    rig.start()
    rig.run(3.0)
    found = [text for text in rig.notices() if "clock" in text]
    assert len(found) == (words is not None)
    assert words is None or f"clock is {words} the server's" in found[0]


def test_a_run_is_created_at_once_and_metrics_wait_for_company(rig: DeliveryRig) -> None:
    rig.start(run_name="first", experiment_name="e", tags={"who": "me"})
    rig.log_metrics("a")
    assert rig.step() == 0.5
    run = rig.of(1)
    assert (run.run_name, run.tags["who"], run.status) == ("first", "me", "RUNNING")
    rig.now += 0.4
    rig.log_metrics("b")
    assert rig.step() == pytest.approx(0.1)
    assert rig.sink.requests == []
    rig.now += 0.1
    assert rig.step() == 0
    assert rig.sink.sent("metric") == [["a", "b"]]
    assert rig.step() >= IDLE
    rig.log_metrics("c")
    assert rig.step() == 0.5  # its own half second


def test_a_full_request_does_not_wait(rig: DeliveryRig) -> None:
    rig.start()
    for _ in range(4):
        rig.log_row({f"k{i}": 1.0 for i in range(250)})
    assert rig.step() == 0
    assert [len(keys) for keys in rig.sink.sent("metric")] == [1000]


@pytest.mark.parametrize("why", ["flush", "end"])
def test_nobody_who_waits_is_kept_waiting(rig: DeliveryRig, why: str) -> None:
    rig.start()
    rig.log_metrics("a")
    assert rig.step() == 0.5
    if why == "flush":
        rig.book.waiters.mark(1, "ring", 1)
    else:
        rig.say(End(1, "FINISHED", 99))
    assert rig.step() == 0
    assert rig.sink.sent("metric") == [["a"]]


def test_params_and_tags_do_not_wait_and_go_in_one_request_before_metrics(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("a")
    rig.say(Params(1, {"lr": "1"}), Tags(1, {"t": "x"}))
    rig.run()
    assert [keys for _, keys in rig.sink.requests] == [["lr", "t"], ["a"]]


def test_no_request_exceeds_the_limits_of_mlflow(rig: DeliveryRig) -> None:
    rig.start()
    for i in range(10):
        rig.log_row({f"k{i}-{j}": 1.0 for j in range(777)})
    rig.say(Params(1, {f"p{i}": "x" for i in range(333)}), Tags(1, {f"t{i}": "x" for i in range(333)}))
    rig.run()
    assert max(len(keys) for keys in rig.sink.sent("metric")) <= 1000
    assert [len(keys) for keys in rig.sink.sent("param")] == [100, 100, 100, 33]
    assert max(len(keys) for keys in rig.sink.sent("tag")) <= 100
    assert len(rig.sink.sent("metric")) <= 11
    assert (rig.ledger().delivered, rig.ledger().pending) == (7770 + 666, 0)
    assert rig.ledger().requests == len(rig.sink.requests)
    assert rig.spool.counts.delivered_keys(1) == rig.sink.count_metrics(rig.of(1).run_id)


# -- the note of smallest and largest values ---------------------------------------------------------------------------


def test_a_run_that_another_agent_creates_is_waited_for_and_never_made(rig: DeliveryRig) -> None:
    rig.start(owned=False)
    rig.log_metrics("a")
    rig.run(60)
    assert rig.sink.runs == {}
    assert rig.state().notices == [
        "run 0000000000000001 is not in MLflow yet; what was logged to it from here waits until it is"
    ]
    run_id = MemorySink.open_run(rig.sink, RunSpec(run=1, start_time=1, cwd="/"), None, find_first=False).run_id
    rig.run(60)
    assert rig.sink.count_metrics(run_id) == {"a": 1}
    assert (len(rig.sink.runs), rig.sink.runs[run_id].status) == (1, "RUNNING")


# -- creating runs -----------------------------------------------------------------------------------------------------


def test_after_a_failed_attempt_the_run_is_looked_for_before_it_is_created_again(rig: DeliveryRig) -> None:
    fails(rig, Unavailable("the answer was lost"), "open_run", times=1, after=True)
    rig.start()
    rig.log_metrics("a")
    rig.say(End(1, "FINISHED", 9))
    rig.run()
    assert rig.sink.find_first == [False, True]
    assert len(rig.sink.runs) == 1
    assert rig.ledger().delivered == 1


def test_an_attempt_is_on_record_before_it_is_made(rig: DeliveryRig) -> None:
    class Killed(BaseException):
        pass

    def kill(method: str) -> None:
        if method == "open_run":
            raise Killed

    rig.start()
    rig.sink.fail_after = kill
    with pytest.raises(Killed):
        rig.step()
    rig.sink.fail_after = None
    rig.restart()
    rig.log_metrics("a")
    rig.run()
    assert rig.sink.find_first == [False, True]
    assert len(rig.sink.runs) == 1


def test_the_parent_is_created_before_its_child(rig: DeliveryRig) -> None:
    fails(rig, Unavailable("away"), "open_run", times=2)
    rig.start(2, parent=1)
    rig.start(1)
    rig.log_metrics("a", run=2)
    rig.run()
    child, parent = rig.of(2), rig.of(1)
    assert child.tags["mlflow.parentRunId"] == parent.run_id
    assert list(rig.sink.runs) == [parent.run_id, child.run_id]


def test_a_parent_that_is_gone_or_unknown_does_not_keep_its_child(rig: DeliveryRig) -> None:
    rig.start(1)
    rig.book.advance(1, Event.LOST, gone="deleted")
    rig.start(2, parent=1)
    rig.start(3, parent=99, parent_run_id="theirs")
    rig.run(60)
    assert "mlflow.parentRunId" not in rig.of(2).tags
    assert rig.of(3).tags["mlflow.parentRunId"] == "theirs"


def test_a_run_that_cannot_be_created_is_told_and_its_rows_are_kept_as_dead_letters(rig: DeliveryRig) -> None:
    fails(rig, Refused("the experiment was deleted"), "open_run")
    rig.start()
    rig.log_metrics("a", "b")
    rig.say(Params(1, {"lr": "1"}), End(1, "FINISHED", 9))
    rig.run(60)
    assert (rig.ledger().dead, rig.ledger().pending) == (3, 0)
    assert any("the experiment was deleted" in text for text in rig.notices())
    assert rig.state().finalized


# -- what is refused ---------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 1000), data=st.data())
def test_the_bad_among_the_good_are_isolated_in_few_requests(
    tmp_path_factory: pytest.TempPathFactory, n: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, min(n, 3)))
    bad = (
        set(data.draw(st.permutations([f"k{i}" for i in range(n)]))[:k])
        if n <= 50
        else {f"k{data.draw(st.integers(0, n - 1))}" for _ in range(k)}
    )
    rig = DeliveryRig(tmp_path_factory.mktemp("bisect"), CountingSink())
    try:
        rig.start()
        rig.sink.bad = bad.__contains__
        for start in range(0, n, 250):
            rig.log_row({f"k{i}": 1.0 for i in range(start, min(n, start + 250))})
        rig.run()
        stored = rig.sink.count_metrics(rig.of(1).run_id)
        assert stored == {f"k{i}": 1 for i in range(n) if f"k{i}" not in bad}
        counts = rig.ledger().of("metric")
        assert (counts.delivered, counts.dead, counts.pending) == (n - len(bad), len(bad), 0)
        assert {letter.key for letter in rig.spool.letters.all()} == bad
        assert len(rig.sink.sent("metric")) <= 1 + 2 * len(bad) * math.ceil(math.log2(n) if n > 1 else 1) + len(bad)
        assert rig.spool.counts.delivered_keys(1) == stored
    finally:
        rig.spool.close()


def test_a_name_that_mlflow_refuses_is_found_without_asking_and_told_once(rig: DeliveryRig) -> None:
    rig.start()
    for _ in range(3):
        rig.log_metrics("good", "a$b", "../up")
        rig.run()
    assert rig.ledger().requests == len(rig.sink.sent("metric")) == 3
    assert (rig.ledger().dead, rig.ledger().of("metric").delivered) == (0, 9)
    assert sum("'a$b'" in text for text in rig.notices()) == 1
    assert len(rig.notices()) == 1


@pytest.mark.parametrize("key", ["", "new\nline", "quo'te", "ünï", "a" * 300])
def test_any_name_can_be_a_dead_letter_and_is_told_once(rig: DeliveryRig, key: str) -> None:
    rig.start()
    rig.sink.bad = stored_name(key).__eq__
    for _ in range(3):
        rig.log_metrics(key, "good")
        rig.run()
    counts = rig.ledger().of("metric")
    assert (counts.delivered, counts.dead, counts.pending) == (3, 3, 0)
    assert {letter.key for letter in rig.spool.letters.all(1)} == {key}
    assert len([text for text in rig.notices() if "refused" in text]) == 1


def test_a_dead_letter_can_be_sent_again(rig: DeliveryRig) -> None:
    rig.start()
    rig.sink.bad = "k7".__eq__
    rig.log_row({f"k{i}": float(i) for i in range(10)})
    rig.run()
    (letter,) = rig.spool.letters.all(1)
    assert (letter.key, letter.n, letter.kind) == ("k7", 1, "metric")
    rig.sink.bad = lambda _: False
    rig.spool.letters.revive([letter], [(letter.run, letter.kind, letter.n, 0, letter.body)])
    rig.run()
    assert rig.of(1).metrics["k7"][0].value == 7.0
    assert (rig.ledger().delivered, rig.ledger().dead) == (10, 0)


def test_a_changed_param_costs_nothing_else(rig: DeliveryRig) -> None:
    rig.start()
    rig.say(Params(1, {"lr": "1", "a": "x"}))
    rig.run()
    rig.say(Params(1, {"b": "y", "lr": "2", "c": "z"}))
    rig.log_metrics("loss")
    rig.run()
    assert rig.of(1).params == {"lr": "1", "a": "x", "b": "y", "c": "z"}
    counts = rig.ledger().of("param")
    assert (counts.delivered, counts.dead, counts.pending) == (4, 1, 0)
    (letter,) = rig.spool.letters.all()
    assert (letter.key, "Changing param values" in letter.reason) == ("lr", True)
    assert any("'lr'" in text for text in rig.notices())
    assert rig.ledger().of("metric").delivered == 1


def test_params_that_contradict_each_other_in_one_backlog_are_isolated(rig: DeliveryRig) -> None:
    rig.start()
    rig.say(Params(1, {"lr": "1"}), Params(1, {"lr": "2", "x": "1"}), Params(1, {"lr": "1", "y": "2"}))
    rig.run()
    assert rig.of(1).params == {"lr": "1", "x": "1", "y": "2"}
    counts = rig.ledger().of("param")
    assert (counts.delivered, counts.dead, counts.pending) == (4, 1, 0)


@pytest.mark.parametrize("n", [30, 100, 250])
def test_a_run_resumed_with_all_its_params_changed_still_gets_its_metrics(rig: DeliveryRig, n: int) -> None:
    rig.start(1)
    rig.say(Params(1, {f"p{i}": "old" for i in range(n)}))
    rig.run()
    rig.start(2, run_id=rig.of(1).run_id)
    rig.say(Params(2, {f"p{i}": "new" for i in range(n)}))
    rig.log_metrics("loss", run=2)
    rig.run()
    counts = rig.ledger(2).of("param")
    assert (counts.dead, counts.pending) == (n, 0)
    assert rig.ledger(2).of("metric").delivered == 1


def test_a_store_that_refuses_everything_buries_nothing(rig: DeliveryRig) -> None:
    rig.start()
    calls = fails(rig, Refused("no"), "log_batch")
    for start in range(0, 1000, 250):
        rig.log_row({f"k{i}": 1.0 for i in range(start, start + 250)})
    rig.run(120)
    assert (rig.ledger().dead, rig.ledger().pending) == (0, 1000)
    assert 40 < len(calls) < 1000
    assert any("refuses everything" in text for text in rig.notices())
    rig.sink.fail = None
    rig.run()
    assert (rig.ledger().delivered, rig.ledger().dead) == (1000, 0)


def test_of_tags_the_last_one_wins(rig: DeliveryRig) -> None:
    rig.start()
    rig.say(Tags(1, {"a": "1", "b": "1"}), Tags(1, {"a": "2"}))
    rig.run()
    rig.say(Tags(1, {"a": "3"}))
    rig.run()
    assert (rig.of(1).tags["a"], rig.of(1).tags["b"]) == ("3", "1")
    assert (rig.ledger().of("tag").delivered, rig.ledger().of("tag").pending) == (4, 0)


def test_twins_are_merged_and_counted(rig: DeliveryRig) -> None:
    rig.start()
    rig.say(*[(1, 0, 10 * MS, {"a": 1.0, "b": math.nan})] * 3)
    rig.run()
    rig.say((1, 0, 10 * MS, {"a": 1.0}))
    rig.run()
    assert rig.sink.sent("metric") == [["a", "b"]]
    counts = rig.ledger().of("metric")
    assert (counts.accepted, counts.delivered, counts.merged, counts.pending) == (7, 7, 5, 0)
    assert rig.spool.counts.delivered_keys(1) == rig.sink.count_metrics(rig.of(1).run_id) == {"a": 1, "b": 1}


@pytest.mark.parametrize("kind", ["metric", "param", "tag"])
def test_a_block_whose_bytes_are_damaged_is_counted_and_keeps_nothing_waiting(rig: DeliveryRig, kind: str) -> None:
    rig.start(1)
    rig.start(2)
    rig.log_metrics("a")
    rig.spool.ingest([(1, kind, 7, 5, b"\xc1 damaged")], [(1, kind, "accepted", 7)])
    rig.log_metrics("b")
    rig.log_metrics("c", run=2)
    rig.run()
    assert rig.sink.count_metrics(rig.of(1).run_id) == {"a": 1, "b": 1}
    assert rig.ledger(2).delivered == 1
    assert rig.ledger(1).of(kind).dropped == {"unreadable block": 7}
    assert rig.ledger(1).pending == 0


# -- when the store is away --------------------------------------------------------------------------------------------


def test_while_the_store_is_away_nothing_leaves_and_tries_become_rarer(rig: DeliveryRig) -> None:
    rig.start()
    rig.run()
    calls = fails(rig, Unavailable("connection refused"))
    rig.log_metrics("a", "b")
    rig.run(300)
    assert (rig.ledger().pending, rig.ledger().dead) == (2, 0)
    assert 8 <= len(calls) < 120
    assert rig.state().problem == "connection refused"
    assert rig.delivery.step(rig.now) > rig.now
    rig.sink.fail = None
    rig.run()
    assert rig.ledger().delivered == 2
    assert rig.state().problem is None
    assert "store works again" in rig.log.events


def test_while_it_waits_no_request_is_made(rig: DeliveryRig) -> None:
    rig.start()
    calls = fails(rig, Unavailable("busy", retry_after=77))
    wait = rig.step()
    assert wait == pytest.approx(77)
    for _ in range(5):
        assert rig.delivery.step(rig.now + 76.9) == pytest.approx(rig.now + 77)
    assert len(calls) == 1
    rig.now += 77
    rig.step()
    assert len(calls) == 2


def test_the_user_hears_of_a_store_that_stays_away_once(rig: DeliveryRig) -> None:
    rig.start()
    fails(rig, Unavailable("connection refused"))
    rig.step()
    assert rig.notices() == []  # it may be restarting
    rig.run(600)
    assert [text for text in rig.notices() if "cannot be reached (connection refused)" in text] == rig.notices()
    assert len(rig.notices()) == 1


def test_that_a_store_wants_a_login_stands_beside_the_words_until_it_works(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("a")
    fails(rig, Unavailable("who are you?", away=True, lacks="login"))
    rig.run(60)
    assert rig.state().lacks == "login"
    (notice,) = paired(rig.state().notices, rig.state().topics)
    assert notice.topic == Topic(everywhere=True, asks_login=True)
    assert rig.book.status(1, rig.ledger(), 0.0).lacks == "login"
    fails(rig, Unavailable("gone for lunch", away=True))
    rig.run(60)
    assert (rig.state().lacks, rig.state().problem) == (None, "gone for lunch")
    fails(rig, Unavailable("never"), "nothing of it")
    rig.run()
    assert (rig.state().lacks, rig.state().problem) == (None, None)


def test_an_answer_that_was_lost_delivers_exactly_once(rig: DeliveryRig) -> None:
    rig.start()
    for start in range(0, 1000, 250):
        rig.log_row({f"k{i}": 1.0 for i in range(start, start + 250)})
    rig.say(Params(1, {"lr": "1"}), Tags(1, {"t": "x"}), End(1, "FINISHED", 9))
    calls = fails(rig, Unavailable("the answer was lost"), times=0, after=True)
    lost = itertools.count()

    def every_other(method: str) -> None:
        calls.append(method)
        if next(lost) % 2 == 0:
            raise Unavailable("the answer was lost")

    rig.sink.fail_after = every_other
    rig.run()
    assert len([run for run in rig.sink.runs.values() if not run.deleted]) == 1
    run = rig.of(1)
    assert rig.sink.runs[run.run_id].metrics.keys() == {f"k{i}" for i in range(1000)}
    assert all(len(points) == 1 for points in run.metrics.values())
    assert (rig.ledger().delivered, rig.ledger().merged) == (1002, 0)
    assert run.status == "FINISHED"
    assert len(calls) >= 8


@settings(max_examples=30, deadline=None)
@given(
    failures=st.lists(st.sampled_from(["before", "after", "kill", "none"]), max_size=25),
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=12),
)
def test_whatever_fails_and_whoever_is_killed_each_point_arrives_once(
    tmp_path_factory: pytest.TempPathFactory, failures: list[str], rows: list[int]
) -> None:
    class Killed(BaseException):
        pass

    rig = DeliveryRig(tmp_path_factory.mktemp("chaos"), CountingSink())
    plan = iter(failures)
    what = ["none"]

    def before(_: str) -> None:
        what[0] = next(plan, "none")
        if what[0] == "before":
            raise Unavailable("refused")

    def after(_: str) -> None:
        if what[0] == "after":
            raise Unavailable("lost")
        if what[0] == "kill":
            raise Killed

    rig.sink.fail, rig.sink.fail_after = before, after
    rig.start()
    rig.say(Params(1, {"lr": "1"}))
    expected = {}
    for number, count in enumerate(rows):
        rig.log_row({f"r{number}-{i}": 1.0 for i in range(count)})
        expected.update({f"r{number}-{i}": 1 for i in range(count)})
    rig.say(End(1, "FINISHED", 9))
    for _ in range(40):
        try:
            rig.run()
            break
        except Killed:
            rig.restart()
    rig.sink.fail = rig.sink.fail_after = None
    assert rig.sink.count_metrics(rig.of(1).run_id) == expected
    assert (rig.ledger().delivered, rig.ledger().pending) == (len(expected) + 1, 0)
    assert rig.spool.counts.delivered_keys(1) == expected
    assert rig.of(1).status == "FINISHED"
    rig.spool.close()


def test_the_sink_is_opened_again_when_it_could_not_be(rig: DeliveryRig) -> None:
    rig.store_error = Unavailable("the database is starting")
    rig.start()
    rig.log_metrics("a")
    rig.run(60)
    assert rig.opened > 2
    rig.store_error = None
    rig.run()
    assert rig.ledger().delivered == 1


# -- what is gone or refused for good ----------------------------------------------------------------------------------


def test_a_run_that_was_deleted_is_buried_and_no_other_suffers(rig: DeliveryRig) -> None:
    rig.start(1)
    rig.start(2)
    rig.run()
    rig.of(1).deleted = True
    rig.log_metrics("a", "b", run=1)
    rig.log_metrics("c", run=2)
    rig.run(5)
    assert (rig.ledger(1).dead, rig.ledger(1).pending) == (2, 0)
    assert rig.ledger(2).delivered == 1
    assert any("will not take anything more" in text for text in rig.notices(1))
    rig.log_metrics("late", run=1)
    rig.say(End(1, "FINISHED", 9))
    rig.run(5)
    assert (rig.ledger(1).dead, rig.ledger(1).pending) == (3, 0)
    assert rig.state(1).finalized


def test_a_store_that_cannot_be_used_is_told_and_everything_is_kept(rig: DeliveryRig) -> None:
    rig.store_error = StoreRefused("MLflow cannot use this URI.")
    rig.start()
    rig.log_metrics("a")
    assert rig.step() >= IDLE
    assert rig.delivery.refused == rig.state().refused == "MLflow cannot use this URI."
    assert "tailrace sync" in rig.notices()[0]
    rig.run()
    assert rig.opened == 1
    assert rig.ledger().pending == 1
    rig.store_error = None
    rig.restart()
    rig.run()
    assert rig.ledger().delivered == 1


def test_what_is_dropped_between_finding_and_sending_is_counted_once(rig: DeliveryRig) -> None:
    rig.start()
    rig.run()
    rig.log_metrics(*"abcdef")
    rig.sink.fail = lambda method: rig.spool.waiting.shed(0, "bound") and None
    rig.run()
    counts = rig.ledger().of("metric")
    assert (counts.delivered, counts.dropped, counts.pending) == (6, {}, 0)


def test_metrics_that_were_dropped_in_the_meantime_leave_nothing_to_send(rig: DeliveryRig, monkeypatch: Any) -> None:
    rig.start()
    rig.run()
    rig.log_metrics("a")
    rig.now += 1
    real = rig.book.urgent
    monkeypatch.setattr(rig.book, "urgent", lambda run: (rig.spool.waiting.shed(0, "bound"), real(run))[1])
    rig.run()
    rig.run()
    counts = rig.ledger().of("metric")
    assert (counts.delivered + sum(counts.dropped.values()), counts.pending) == (1, 0)


@pytest.mark.parametrize("nan", [False, True])
def test_what_was_answered_is_not_sent_again_however_small_the_next_requests_are(nan: bool, rig: DeliveryRig) -> None:
    log_batch, answered, requests = rig.sink.log_batch, [], itertools.count()

    def struggling(run_id: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        if len(metrics) > 500:
            raise Refused("a request is too large", too_large=True)
        if metrics and next(requests) == 1:
            raise Unavailable("a request takes too long", too_slow=True)
        answered.extend((point.step, point.timestamp) for point in metrics)
        log_batch(run_id, metrics=metrics, params=params, tags=tags)

    rig.sink.log_batch = struggling  # type: ignore[method-assign]
    rig.start()
    for n in range(1000):
        rig.log_metrics("k", value=math.nan if nan else float(n))
    rig.run()
    assert len(answered) == len(set(answered)) == 1000


# -- several runs at a time --------------------------------------------------------------------------------------------


def test_while_a_run_has_a_request_under_way_another_thread_serves_the_others(rig: DeliveryRig) -> None:
    for run in (1, 2, 3):
        rig.start(run)
    rig.run(seconds=0.1)
    asked: list[str] = []
    log_batch, inside = rig.sink.log_batch, list[str]()

    def busy(run_id: str, **entries: Any) -> None:
        asked.append(run_id)
        assert run_id not in inside, "two requests of one run are under way"
        inside.append(run_id)
        if len(inside) < 4:
            rig.delivery.step(rig.now)  # as another thread
        inside.remove(run_id)
        log_batch(run_id, **entries)

    rig.sink.log_batch = busy  # type: ignore[method-assign]
    for run in (1, 2, 3):
        rig.log_metrics("a", run=run)
        rig.say(End(run, "FINISHED", 99))
    rig.step()
    assert sorted(asked[:3]) == sorted({rig.of(run).run_id for run in (1, 2, 3)})
    rig.run()
    assert {rig.of(run).status for run in (1, 2, 3)} == {"FINISHED"}


def test_a_store_that_is_away_is_asked_by_one_thread_alone_until_it_works(rig: DeliveryRig) -> None:
    for run in (1, 2):
        rig.start(run)
    rig.run(seconds=0.1)
    calls = fails(rig, Unavailable("away"), "log_batch", times=1)
    for run in (1, 2):
        rig.log_metrics("a", run=run)
        rig.book.waiters.mark(run, "ring", 1)
    rig.now += rig.step()
    probe = rig.sink.fail
    waits = []

    def probing(method: str) -> None:
        assert probe is not None
        probe(method)
        waits.append(rig.step())  # another thread comes while it is under way

    rig.sink.fail = probing
    rig.step()
    assert waits[0] == pytest.approx(0.1)
    rig.run(seconds=1)
    assert calls == ["log_batch"] * 3
    assert rig.ledger(1).delivered == rig.ledger(2).delivered == 1


def test_threads_share_the_runs_of_a_store_and_each_run_keeps_its_order(tmp_path: Path) -> None:
    rig = DeliveryRig(tmp_path, CountingSink())
    order: dict[str, list[float]] = {}
    log_batch = rig.sink.log_batch

    def slowly(run_id: str, *, metrics: Any = (), **texts: Any) -> None:
        time.sleep(0.002)
        order.setdefault(run_id, []).extend(point.value for point in metrics)
        log_batch(run_id, metrics=metrics, **texts)

    rig.sink.log_batch = slowly  # type: ignore[method-assign]
    for run in range(1, 21):
        rig.start(run)
        for number in range(3000):
            rig.log_metrics("a", run=run, value=float(number)) if number % 300 == 0 else None
    rig.step()
    assert rig.delivery.threads == 4
    for run in range(1, 21):
        rig.say(End(run, "FINISHED", 99))

    def work() -> None:
        while any(not state.finalized for state in rig.book.all()):
            rig.delivery.step(rig.now)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(rig.of(run).status == "FINISHED" for run in range(1, 21))
    assert all(values == sorted(values) and len(values) == 10 for values in order.values())
    assert len(order) == 20
    rig.spool.close()


def test_a_run_is_created_with_the_tags_that_describe_it_or_without_them_where_they_are_refused(
    rig: DeliveryRig,
) -> None:
    facts = Facts(command=["train.py"], script=None, python="3", executable="", host="h", pid=1, environment={})
    rig.start(facts=facts)
    assert 0 < rig.step() <= 0.1
    assert not rig.sink.runs
    rig.book.update(1, description=Description({"tailrace.host": "h"}, None))
    rig.step()
    assert rig.of(1).tags["tailrace.host"] == "h"
    description = rig.state().description
    assert description is not None
    assert description.tagged
    open_run = rig.sink.open_run

    def refusing(spec: RunSpec, parent: str | None, *, find_first: bool) -> Any:
        if "tailrace.host" in spec.tags:
            raise Refused("no such tag")
        return open_run(spec, parent, find_first=find_first)

    rig.sink.open_run = refusing  # type: ignore[method-assign]
    rig.start(2, facts=facts)
    rig.book.update(2, description=Description({"tailrace.host": "h"}, None))
    rig.run(seconds=1)
    assert "tailrace.host" not in rig.of(2).tags
    description = rig.state(2).description
    assert description is not None
    assert not description.tagged
    rig.start(3, facts=facts)  # nobody comes to describe it
    rig.run(seconds=1)
    assert rig.of(3).status == "RUNNING"


# -- stores that take more at once -------------------------------------------------------------------------------------


def test_a_store_with_a_bulk_way_gets_what_waits_in_one_request(rig: DeliveryRig) -> None:
    rig.sink.metrics_limit = 20_000
    rig.start()
    for number in range(5000):
        rig.log_metrics(f"k{number % 7}", value=float(number))
    rig.run()
    assert [len(keys) for keys in rig.sink.sent("metric")] == [5000]
    assert rig.ledger().of("metric").delivered == sum(map(len, rig.of(1).metrics.values())) == 5000


def test_a_bulk_way_that_goes_away_meanwhile_costs_no_point(rig: DeliveryRig) -> None:
    rig.sink.metrics_limit = 20_000
    log_batch = rig.sink.log_batch

    def gone(run_id: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        if metrics:
            rig.sink.metrics_limit = 1000
        log_batch(run_id, metrics=metrics, params=params, tags=tags)

    rig.sink.log_batch = gone  # type: ignore[method-assign]
    rig.start()
    for number in range(5000):
        rig.log_metrics(f"k{number % 7}", value=float(number))
    rig.run()
    sizes = [len(keys) for keys in rig.sink.sent("metric")]
    assert sizes[0] == 5000, "nothing of that was stored"
    assert max(sizes[1:]) == 1000
    assert sum(sizes[1:]) == 5000
    assert rig.ledger().of("metric").delivered == sum(map(len, rig.of(1).metrics.values())) == 5000
    assert rig.ledger().of("metric").dead == 0


def test_of_a_bulk_request_that_is_refused_the_entry_at_fault_is_found(rig: DeliveryRig) -> None:
    rig.sink.metrics_limit = 20_000
    log_batch = rig.sink.log_batch

    def picky(run_id: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        if any(point.value == 1234.0 for point in metrics):
            raise Refused("not this one")
        log_batch(run_id, metrics=metrics, params=params, tags=tags)

    rig.sink.log_batch = picky  # type: ignore[method-assign]
    rig.start()
    for number in range(5000):
        rig.log_metrics("k", value=float(number))
    rig.run()
    assert rig.ledger().of("metric").delivered == 4999
    assert rig.ledger().of("metric").dead == 1
