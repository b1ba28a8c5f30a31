"""The names of one run in MLflow: no two become one, and each stays what it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.mlflow.stored_names import StoredNames, Texts, cut, fitting_tags
from tailrace_agent.sinks.memory import MemorySink

NAMES = st.sampled_from(
    ["a(b)", "a__b", "a[b]", "a/b", "a(b)!", "a(%)", "a(percent)", "a__percent", "a_b", "ab", "a//b"]
)


@given(st.lists(NAMES, max_size=12), st.integers(0, 12))
def test_no_two_become_one_in_whatever_order_they_come_and_an_agent_that_begins_anew_goes_on(
    logged: list[str], restart: int
) -> None:
    tags: dict[str, str] = {}
    delivered: set[str] = set()

    def begun() -> StoredNames:
        return StoredNames(MemorySink().check, lambda: Texts(tags, {}), lambda: delivered)

    names = begun()
    stored: dict[str, str] = {}
    for at, name in enumerate(logged):
        if at == restart:
            names = begun()
        found = names.of("metric")[name]
        tags.update({f"tailrace.name.{clean}": original for clean, original in names.fresh.items()})
        names.fresh.clear()
        delivered.add(found)
        assert stored.setdefault(name, found) == found
        assert MemorySink().check("metric", found) is None
        assert names.original(found) == name
    assert len(set(stored.values())) == len(stored)


def test_a_name_that_is_as_usual_asks_nobody() -> None:
    def asked() -> Texts:
        raise AssertionError("a request")

    names = StoredNames(MemorySink().check, asked, tuple)
    assert [names.of("metric")[name] for name in ("loss", "val/loss", "a b", "lr-0")] == [
        "loss",
        "val/loss",
        "a b",
        "lr-0",
    ]


def test_made_up_names_do_not_pile_up_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from tailrace_agent.mlflow import stored_names

    monkeypatch.setattr(stored_names, "_MOST", 10)
    names = StoredNames(MemorySink().check, lambda: Texts({}, {}), tuple)
    found = {names.of("metric")[f"loss(step {step})"] for step in range(1000)}
    assert len(found) == 1000
    assert len(names.of("metric")) <= 10
    assert names.of("metric")["loss(step 999)"] in found


def test_tags_of_a_run_that_is_to_be_created_fit() -> None:
    assert fitting_tags({"team": "a", "x(y)": "1"}, MemorySink().check) == {
        "team": "a",
        "x__y": "1",
        "tailrace.name.x__y": "x(y)",
    }


def test_a_name_that_is_too_long_for_its_tag_is_cut_there() -> None:
    assert (cut("abc", 3), cut("abcd", 3)) == ("abc", "ab…")
