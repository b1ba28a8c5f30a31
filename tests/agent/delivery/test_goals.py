"""What is better of a metric, and which best values stay with a run that goes on."""

from __future__ import annotations

import math
from typing import Any

import pytest

from helpers.delivery_rigs import MS, DeliveryRig
from tailrace_agent.delivery.goals import better, goal_of, kept
from tailrace_agent.ipc.curves import At
from tailrace_agent.ipc.records import End, JobPart
from tailrace_agent.sinks.base import RunRef


@pytest.mark.parametrize(
    ("key", "defined", "goal"),
    [
        ("val/loss", {}, "min"),
        ("accuracy", {}, "max"),
        ("lr", {}, None),
        ("lr", {"lr": "max"}, "max"),
        ("val/loss", {"val/*": "max"}, "max"),
        ("val/loss", {"val/*": "max", "val/loss": "last"}, None),
        ("val/loss", {"val/loss": "min", "*": "last"}, None),
        ("a[0]", {"a[0]": "min"}, "min"),
        ("system/error_rate", {"*": "min"}, None),
        ("loss.best", {"*": "min"}, None),
        ("loss.best_step", {}, None),
        ("final/best_val_loss", {}, None),
        ("best_f1", {"best_*": "max"}, "max"),
    ],
)
def test_what_is_better_the_program_says_or_the_name(key: str, defined: dict[str, str], goal: str | None) -> None:
    assert goal_of(key, defined) == goal


def test_a_name_says_nothing_where_that_is_switched_off() -> None:
    assert goal_of("loss", {}, by_name=False) is None
    assert goal_of("loss", {"loss": "max"}, by_name=False) == "max"


def test_infinities_are_nobodys_best_and_the_earlier_of_equals_is() -> None:
    assert better("min", At(-math.inf, 0), At(3.0, 9)) == (3.0, 9)
    assert better("max", At(math.inf, 0), None) is None
    assert better("max", At(3.0, 9), At(3.0, 4)) == (3.0, 4)


@pytest.mark.parametrize(
    ("before", "steps", "sent"),
    [
        ({"loss": 0.125}, {"loss": 4.0}, {"loss.best": 0.125, "loss.best_step": 4.0}),
        ({"loss": 0.5}, {"loss": 4.0}, {"loss.best": 0.25, "loss.best_step": 2.0}),
        ({"loss": 0.125}, {}, {"loss.best": 0.25, "loss.best_step": 2.0}),
        ({}, {}, {"loss.best": 0.25, "loss.best_step": 2.0}),
    ],
    ids=["better", "worse", "of an unknown step", "none"],
)
def test_a_better_value_that_the_run_had_stays_though_the_program_ended_before_its_run_was_found(
    rig: DeliveryRig, before: dict[str, float], steps: dict[str, float], sent: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rig.start(job=JobPart(key="named:night"))
    rig.book.bests(1, {"loss": At(0.25, 2)})
    rig.book.bests_written(1, 20)
    rig.say((1, 2, 10 * MS, {"loss": 0.25}))
    rig.say((1, 0, 20 * MS, {"loss.best": 0.25, "loss.best_step": 2.0}))
    rig.say(End(1, "FINISHED", 20))
    opened = rig.sink.open_run

    def found(*arguments: Any, **more: Any) -> RunRef:
        ref: RunRef = opened(*arguments, **more)
        return ref._replace(bests=before, best_steps=steps)

    monkeypatch.setattr(rig.sink, "open_run", found)
    rig.run()
    assert {key: rig.of(1).metrics[key][-1].value for key in sent} == sent
    assert rig.of(1).metrics["loss"][-1].value == 0.25
    assert rig.state().ref is not None
    assert kept(rig.state()).keys() == (sent.keys() if sent["loss.best"] == 0.125 else set())
