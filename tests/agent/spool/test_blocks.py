"""What the spool holds: rows in blocks, and what became of them."""

from __future__ import annotations

from tailrace_agent.ipc.records import encode
from tailrace_agent.spool.blocks import SYSTEM, Outcome, decode_rows, encode_rows, stored_kind


def test_a_block_is_read_as_the_rows_that_it_was_made_of() -> None:
    rows = [(1, step, step * 1000, {"loss": step / 3}) for step in range(300)]
    bodies = [encode(row) for row in rows]
    assert decode_rows(encode_rows(bodies)) == rows
    assert encode_rows(bodies).endswith(b"".join(bodies)), "rows are not encoded again"
    assert decode_rows(encode_rows([])) == []


def test_what_became_of_blocks_is_counted_by_kind_and_what_is_none_is_not_counted() -> None:
    outcome = Outcome(
        1, "metric", [4, 5], 6, merged=2, requests=1, dead=[("a", 1, b"", "bad"), ("b", 3, b"", "bad")],
        dropped=[("bad value", 2)],
    )  # fmt: skip
    assert outcome.tallies == [
        (1, "metric", "delivered", 6),
        (1, "metric", "merged", 2),
        (1, "metric", "requests", 1),
        (1, "metric", "dead", 4),
        (1, "metric", "dropped:bad value", 2),
    ]


def test_what_is_delivered_after_a_runs_end_is_late() -> None:
    assert Outcome(1, "metric", [], 6, late=True).tallies == [(1, "metric", "delivered", 6), (1, "metric", "late", 6)]
    assert Outcome(1, "tag", [], 0, late=True).tallies == []


def test_system_metrics_wait_as_metrics() -> None:
    assert [stored_kind(kind) for kind in (SYSTEM, "metric", "param")] == ["metric", "metric", "param"]
