"""What has a name that MLflow refuses is delivered under a clean one, and two names never become one."""

from __future__ import annotations

from helpers.delivery_rigs import DeliveryRig, fails
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import End, Params, Tags
from tailrace_agent.mlflow.names import candidates


def long_form(name: str) -> str:
    return next(candidates(name, readable=False))


def test_all_of_it_is_delivered_under_clean_names_and_tags_hold_the_logged_ones(rig: DeliveryRig) -> None:
    rig.start(tags={"who(me)": "x"})
    rig.log_row({"throughput(tps)": 1.0, "mfu(%)": 2.0, "loss": 3.0})
    rig.say(Params(1, {"lr(initial)": "0.1"}), Tags(1, {"phase!": "2"}), End(1, "FINISHED", 99))
    rig.run()
    run = rig.of()
    assert sorted(run.metrics) == ["loss", "mfu__percent", "throughput__tps"]
    assert run.params == {"lr__initial": "0.1"}
    assert run.tags[long_form("phase!")] == "2"
    assert run.tags["who__me"] == "x"
    named = {key.removeprefix("tailrace.name."): text for key, text in run.tags.items() if "tailrace.name." in key}
    assert named == {
        "throughput__tps": "throughput(tps)",
        "mfu__percent": "mfu(%)",
        "lr__initial": "lr(initial)",
        long_form("phase!"): "phase!",
        "who__me": "who(me)",
    }
    ledger = rig.ledger()
    assert [(ledger.of(kind).accepted, ledger.of(kind).delivered) for kind in ("metric", "param", "tag")] == [
        (3, 3),
        (1, 1),
        (1, 1),
    ]
    assert (ledger.dead, ledger.settled) == (0, True)
    assert rig.spool.counts.delivered_keys(1) == {"loss": 1, "mfu__percent": 1, "throughput__tps": 1}
    (told,) = [text for text in rig.notices() if "stored as" in text]
    assert "'lr(initial)'" in told
    assert "'lr__initial'" in told


def test_the_tag_is_there_before_the_first_point_and_is_sent_once(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_metrics("mfu(%)")
    rig.run(seconds=5)
    rig.log_metrics("mfu(%)", "loss")
    rig.run(seconds=5)
    assert [kind for kind, _ in rig.sink.requests] == ["tag", "metric", "metric"]


def test_a_name_that_is_clean_already_never_becomes_that_of_another(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_row({"a__b": 1.0, "a(b)": 2.0})
    rig.log_row({"c(d)": 3.0, "c__d": 4.0})
    rig.run(seconds=5)
    values = {key: [point.value for point in points] for key, points in rig.of().metrics.items()}
    assert values == {"a__b": [1.0], long_form("a(b)"): [2.0], "c__d": [3.0], long_form("c__d"): [4.0]}
    assert rig.of().tags[f"tailrace.name.{long_form('c__d')}"] == "c__d"


def test_a_new_agent_goes_on_with_the_names_of_the_one_before(rig: DeliveryRig) -> None:
    rig.start()
    rig.log_row({"a__b": 1.0, "c(d)": 1.0})
    rig.run(seconds=5)
    rig.restart()
    rig.log_row({"a(b)": 2.0, "c__d": 2.0, "c(d)": 3.0})
    rig.run(seconds=5)
    values = {key: [point.value for point in points] for key, points in rig.of().metrics.items()}
    assert values == {"a__b": [1.0], "c__d": [1.0, 3.0], long_form("a(b)"): [2.0], long_form("c__d"): [2.0]}


def test_params_and_tags_of_the_agent_before_keep_their_names(rig: DeliveryRig) -> None:
    rig.start(tags={"at__start": "0"})
    rig.say(Params(1, {"a__b": "1"}), Tags(1, {"c__d": "1"}))
    rig.run(seconds=5)
    rig.restart()
    rig.say(Params(1, {"a(b)": "2"}), Tags(1, {"c(d)": "2", "at(start)": "2", "a(b)": "3"}), End(1, "FINISHED", 99))
    rig.run()
    run = rig.of()
    assert run.params == {"a__b": "1", long_form("a(b)"): "2"}
    assert (run.tags["c__d"], run.tags["at__start"]) == ("1", "0")
    assert [run.tags[long_form(name)] for name in ("c(d)", "at(start)", "a(b)")] == ["2", "2", "3"]
    assert rig.ledger().dead == 0


def test_a_store_that_is_away_when_the_tags_are_read_or_sent_loses_nothing(rig: DeliveryRig) -> None:
    calls = fails(rig, Unavailable("away"), "texts_of", "log_batch", times=3)
    rig.start()
    rig.log_metrics("mfu(%)")
    rig.run()
    assert calls[:3].count("texts_of") >= 1
    assert [point.value for point in rig.of().metrics["mfu__percent"]] == [1.0]
    assert rig.of().tags["tailrace.name.mfu__percent"] == "mfu(%)"


def test_a_store_that_refuses_to_be_read_still_gets_everything(rig: DeliveryRig) -> None:
    fails(rig, Refused("not for you"), "texts_of")
    rig.start()
    rig.log_metrics("mfu(%)")
    rig.run()
    assert list(rig.of().metrics) == ["mfu__percent"]


def test_what_is_refused_for_another_reason_lies_dead_under_the_name_that_was_logged(rig: DeliveryRig) -> None:
    rig.start()
    rig.say(Params(1, {"lr(initial)": "0.1"}))
    rig.run(seconds=5)
    rig.say(Params(1, {"lr(initial)": "0.2"}))
    rig.run(seconds=5)
    (letter,) = rig.spool.letters.all(1)
    assert letter.key == "lr(initial)"
    assert rig.of().params == {"lr__initial": "0.1"}
