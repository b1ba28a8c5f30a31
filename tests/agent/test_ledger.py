"""The ledger adds up, however it was counted and put together."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.ledger import Counts, Ledger

KINDS = st.sampled_from(["metric", "param", "tag", "artifact"])
FIELDS = st.sampled_from(
    ["accepted", "delivered", "dead", "merged", "dropped:disk full", "dropped:a: b", "dropped:", "requests", "calls"]
)
ROWS = st.dictionaries(st.tuples(KINDS, FIELDS), st.integers(0, 10**12), max_size=20).map(
    lambda rows: [(kind, what, n) for (kind, what), n in rows.items()]
)


def total_of(rows: list[tuple[str, str, int]], what: str) -> int:
    return sum(n for _, field, n in rows if field == what or field.startswith(f"{what}:"))


@given(ROWS)
def test_rows_add_up(rows: list[tuple[str, str, int]]) -> None:
    ledger = Ledger.from_rows(rows)
    assert ledger.accepted == total_of(rows, "accepted")
    assert ledger.delivered == total_of(rows, "delivered")
    assert ledger.dead == total_of(rows, "dead")
    assert ledger.merged == total_of(rows, "merged")
    assert sum(ledger.dropped.values()) == total_of(rows, "dropped")
    assert ledger.dropped.get("a: b", 0) == total_of(rows, "dropped:a: b")
    assert (ledger.requests, ledger.calls) == (total_of(rows, "requests"), total_of(rows, "calls"))
    assert ledger.accepted == ledger.delivered + ledger.pending + ledger.dead + sum(ledger.dropped.values())
    assert ledger.pending == sum(counts.pending for counts in ledger.kinds.values())
    assert ledger.settled == (ledger.pending == 0)


@given(ROWS, ROWS, ROWS)
def test_ledgers_add_up_in_any_order_and_stay_as_they_are(
    a: list[tuple[str, str, int]], b: list[tuple[str, str, int]], c: list[tuple[str, str, int]]
) -> None:
    one, two, three = Ledger.from_rows(a), Ledger.from_rows(b), Ledger.from_rows(c)
    before = msgspec.json.encode([one, two, three])
    left, right = one.add(two).add(three), three.add(one.add(two))
    assert left == right
    assert left.accepted == one.accepted + two.accepted + three.accepted
    assert left.dropped == right.dropped
    assert msgspec.json.encode([one, two, three]) == before
    left.kinds.clear()
    assert msgspec.json.encode([one, two, three]) == before


@given(ROWS)
def test_the_summary_says_what_the_ledger_says_and_a_file_brings_it_back(rows: list[tuple[str, str, int]]) -> None:
    ledger = Ledger.from_rows(rows)
    summary = msgspec.json.decode(msgspec.json.encode(ledger.summary()))
    for field in ("accepted", "delivered", "pending", "dead", "dropped", "merged", "requests", "calls"):
        assert summary[field] == getattr(ledger, field)
    assert {kind: counts["pending"] for kind, counts in summary["kinds"].items()} == {
        kind: counts.pending for kind, counts in ledger.kinds.items()
    }
    assert msgspec.json.decode(msgspec.json.encode(ledger), type=Ledger) == ledger


def test_a_kind_that_settled_more_than_it_accepted_is_out_of_balance() -> None:
    assert Ledger().balanced
    assert Ledger().settled
    kinds = {"metric": Counts(accepted=5, delivered=6), "param": Counts(accepted=5)}
    assert not Ledger(kinds=kinds).balanced
    assert Ledger(kinds=kinds).pending == 4


def test_ledgers_share_nothing() -> None:
    first, second = Ledger(), Ledger()
    first.kinds["metric"] = Counts()
    first.kinds["metric"].dropped["x"] = 1
    assert second.kinds == {}
    assert Counts().dropped == {}
    assert first.of("param") == Counts()


def test_a_shortage_names_the_keys_that_differ_in_either_direction() -> None:
    found = {"a": 3, "b": 5, "extra": 1}
    delivered = {"a": 3, "b": 4, "missing": 2}
    assert Ledger().shortage(found, delivered) == {"b": (4, 5), "extra": (0, 1), "missing": (2, 0)}
