"""Names that MLflow refuses become names that it takes, by a rule that everybody can apply."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace_agent.mlflow.names import candidates, looks_cleaned, name_tag, originals, stored_among, stored_name
from tailrace_agent.sinks.memory import MemorySink

ODD = st.text(st.sampled_from("ab_-./: %()[]!é\n\0🙂"), max_size=12) | st.text(max_size=300)


@pytest.mark.parametrize(
    ("logged", "stored"),
    [
        ("loss", "loss"),
        ("val/loss", "val/loss"),
        ("throughput(tps)", "throughput__tps"),
        ("mfu(%)", "mfu__percent"),
        ("memory/max_active(GiB)", "memory/max_active__GiB"),
        ("memory/max_active(%)", "memory/max_active__percent"),
        ("time_metrics/end_to_end(s)", "time_metrics/end_to_end__s"),
        ("loss!", "loss-"),
        ("loss[0]", "loss_0-"),
        ("acc%", "accpercent-"),
        ("mfu(percent)", "mfu_percent-"),
        ("a__b(c)", "a__b_c-"),
        ("speed(km/h)", "speed_km/h-"),
        ("/abs/../path", "abs/path-"),
        ("..:", ":-"),
        ("...", "name-"),
        ("../..x/.../y", "x/.../y-"),
        ("(!)", "name-"),
        ("", "name-"),
        ("x" * 300, "x" * 200 + "-"),
    ],
)
def test_the_rule(logged: str, stored: str) -> None:
    found = stored_name(logged)
    assert found == stored if not stored.endswith("-") else found[:-8] == stored


@given(ODD)
@example("..:")
@example("..a")
@example(".../(")
def test_whatever_a_name_is_mlflow_takes_what_it_becomes_and_the_tag_that_holds_it(name: str) -> None:
    sink = MemorySink()
    stored = stored_name(name)
    assert sink.check("metric", stored) is None
    assert sink.check("tag", name_tag(stored)) is None
    assert stored_name(stored) == stored
    if sink.check("metric", name) is None and "\n" not in name:  # MLflow's own rule lets one through at the end
        assert stored == name
    else:
        for each in candidates(name):
            assert looks_cleaned(each)
            assert sink.check("tag", name_tag(each)) is None


@given(st.lists(ODD, unique=True, max_size=20))
def test_no_two_names_that_mlflow_refuses_become_one(names: list[str]) -> None:
    sink = MemorySink()
    refused = [name for name in names if sink.check("metric", name) is not None]
    assert len({stored_name(name) for name in refused}) == len(refused)


def test_a_name_is_found_under_what_it_became() -> None:
    assert stored_among("mfu(%)", ["loss", "mfu__percent"]) == "mfu__percent"
    assert stored_among("loss", ["loss"]) == "loss"
    assert stored_among("loss", ["val"]) is None
    *_, readable = reversed([*candidates("mfu(%)")])
    longer = [*candidates("mfu(%)")][1]
    assert readable == "mfu__percent"
    assert stored_among("mfu(%)", [readable, longer]) == longer, "the other one was taken by somebody else"


def test_the_tags_of_a_run_say_what_was_logged() -> None:
    tags = {"team": "vision", "tailrace.name.mfu__percent": "mfu(%)"}
    assert originals(tags) == {"mfu__percent": "mfu(%)"}
