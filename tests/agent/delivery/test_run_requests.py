"""What is left of a run that has ended goes in one request with the tags of its end, or kind by kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.delivery_faults import CountingSink
from helpers.delivery_rigs import DeliveryRig, fails
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import Artifact, End, Params, Tags


def log_a_short_run(rig: DeliveryRig, run: int = 1) -> None:
    rig.start(run)
    for number in range(50):
        rig.log_metrics("loss", run=run, value=float(number))
    rig.say(Params(run, {"lr": "1"}), Tags(run, {"t": "x"}), End(run, "FINISHED", 99))


def stored_ledger(rig: DeliveryRig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rig.of(1).tags["tailrace.ledger"])
    return found


def test_a_short_run_is_created_filled_by_one_request_and_ended(rig: DeliveryRig) -> None:
    calls = fails(rig, Unavailable("never"), times=0)
    log_a_short_run(rig)
    rig.run()
    assert calls == ["open_run", "log_batch", "end_run"]
    run = rig.of(1)
    assert (len(run.metrics["loss"]), run.params, run.tags["t"], run.status) == (50, {"lr": "1"}, "x", "FINISHED")
    assert stored_ledger(rig) == json.loads(json.dumps(rig.ledger().summary()))
    assert (rig.ledger().pending, rig.ledger().requests) == (0, 1)
    assert json.loads(run.tags["tailrace.extremes"])["loss"][:2] == [0.0, 49.0]


@pytest.mark.parametrize("bad", ["loss", "lr", "t"])
def test_what_is_refused_in_company_is_found_out_alone_and_the_rest_arrives(rig: DeliveryRig, bad: str) -> None:
    rig.sink.bad = lambda key: key == bad
    log_a_short_run(rig)
    rig.run()
    run = rig.of(1)
    assert {"loss", "lr", "t"} & {*run.metrics, *run.params, *run.tags} == {"loss", "lr", "t"} - {bad}
    assert (run.status, stored_ledger(rig)["dead"]) == ("FINISHED", 50 if bad == "loss" else 1)
    assert rig.ledger().balanced


@pytest.mark.parametrize("bad", ["lr", "t"])
def test_of_params_and_tags_of_a_running_run_the_one_that_is_refused_keeps_no_other_away(
    rig: DeliveryRig, bad: str
) -> None:
    rig.sink.bad = lambda key: key == bad
    rig.start()
    rig.say(Params(1, {"lr": "1", "epochs": "2"}), Tags(1, {"t": "x", "u": "y"}))
    rig.run()
    run = rig.of(1)
    assert {*run.params, *run.tags} & {"lr", "epochs", "t", "u"} == {"lr", "epochs", "t", "u"} - {bad}
    assert (rig.ledger().delivered, rig.ledger().dead) == (3, 1)


def test_tags_and_params_that_do_not_fit_together_go_apart(rig: DeliveryRig) -> None:
    assert isinstance(rig.sink, CountingSink)
    rig.start()
    rig.say(Params(1, {f"p{n}": "1" for n in range(90)}), Tags(1, {f"t{n}": "x" for n in range(100)}))
    rig.run()
    assert [len(keys) for _, keys in rig.sink.requests] == [90, 100]


def test_tags_of_the_end_that_are_refused_keep_no_value_away(rig: DeliveryRig) -> None:
    rig.sink.bad = lambda key: key.startswith("tailrace.")
    log_a_short_run(rig)
    rig.run()
    run = rig.of(1)
    assert (len(run.metrics["loss"]), run.params, run.status) == (50, {"lr": "1"}, "FINISHED")
    assert rig.ledger().dead == 0


def test_an_answer_that_is_lost_doubles_nothing(rig: DeliveryRig) -> None:
    fails(rig, Unavailable("the answer is lost"), "log_batch", times=2, after=True)
    log_a_short_run(rig)
    rig.run()
    assert len(rig.of(1).metrics["loss"]) == 50
    assert (stored_ledger(rig)["delivered"], rig.of(1).status) == (52, "FINISHED")


def test_what_comes_while_the_request_is_under_way_is_in_the_ledger_that_is_stored_at_last(rig: DeliveryRig) -> None:
    log_batch = rig.sink.log_batch
    late = iter([True])

    def and_more(run_id: str, **entries: Any) -> None:
        log_batch(run_id, **entries)
        if next(late, False):
            rig.log_metrics("late")

    rig.sink.log_batch = and_more  # type: ignore[method-assign]
    log_a_short_run(rig)
    rig.run()
    assert "late" in rig.of(1).metrics
    assert stored_ledger(rig) == json.loads(json.dumps(rig.ledger().summary()))
    assert rig.ledger().delivered == 53


def test_params_that_contradict_each_other_are_not_sent_together(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("loss")
    rig.say(Params(1, {"lr": "1"}), End(1, "FINISHED", 99))
    rig.say(Params(1, {"lr": "2"}))
    rig.run()
    assert rig.of(1).params == {"lr": "1"}
    assert (rig.ledger().of("param").dead, rig.of(1).status) == (1, "FINISHED")


def test_more_than_a_request_holds_goes_as_before_and_the_rest_with_the_tags(rig: DeliveryRig) -> None:
    rig.start()
    for number in range(2100):
        rig.log_metrics("loss", value=float(number))
    rig.say(End(1, "FINISHED", 99))
    calls = fails(rig, Unavailable("never"), "log_batch", times=0)
    rig.run()
    assert len(calls) == 3
    assert (len(rig.of(1).metrics["loss"]), stored_ledger(rig)["delivered"]) == (2100, 2100)


def test_a_run_whose_artifacts_wait_has_its_values_before_its_ledger(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("loss")
    rig.say(Artifact(1, "staged-1"), End(1, "FINISHED", 99))
    rig.run(seconds=5)
    assert "loss" in rig.of(1).metrics
    assert "tailrace.ledger" not in rig.of(1).tags


def test_what_waits_while_the_rings_are_read_to_their_ends_waits_for_company(rig: DeliveryRig) -> None:
    assert isinstance(rig.sink, CountingSink)
    rig.start()
    rig.step()
    rig.log_metrics("loss")
    drained, rig.drained = rig.drained, lambda: None  # type: ignore[method-assign]
    rig.say(Params(1, {"lr": "1"}), End(1, "FINISHED", 99))
    assert 0 < rig.step() <= 0.1
    assert rig.sink.requests == []
    rig.now += 2.0  # a ring that is not read to its end for long holds up nothing that is here
    rig.step()
    assert rig.of(1).params == {"lr": "1"}
    drained()
    rig.run()
    assert rig.of(1).status == "FINISHED"


def test_a_refusal_of_the_status_comes_after_everything(rig: DeliveryRig) -> None:
    fails(rig, Refused("no such status"), "end_run", times=1)
    log_a_short_run(rig)
    rig.run()
    assert stored_ledger(rig)["pending"] == 0
    assert any("refused the status" in notice for notice in rig.notices())
