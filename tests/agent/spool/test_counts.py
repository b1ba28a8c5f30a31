"""Counts: ledgers, rows by metric, and extremes."""

from __future__ import annotations

from helpers.spools import block, ids, put
from tailrace_agent.spool.blocks import Outcome
from tailrace_agent.spool.counts import count
from tailrace_agent.spool.extremes import Extreme
from tailrace_agent.spool.store import Spool


def test_delivered_keys_are_counted_by_run(spool: Spool) -> None:
    for _ in range(2):
        put(spool, block(3), block(3, run=2))
        spool.settle(Outcome(1, "metric", ids(spool), 3, keys=[("a", 2), ("b", 1)]))
    assert spool.counts.delivered_keys(1) == {"a": 4, "b": 2}
    assert spool.counts.delivered_keys(2) == {}


def test_what_is_counted_adds_up_in_the_ledger(spool: Spool) -> None:
    with spool.database.transaction() as db:
        count(db, [(1, "metric", "accepted", 5), (1, "metric", "accepted", 2), (2, "metric", "accepted", 9)])
        count(db, [(1, "metric", "delivered", 3), (1, "metric", "dropped:bad", 1), (1, "tag", "accepted", 1)])
    ledger = spool.counts.ledger(1)
    assert (ledger.of("metric").accepted, ledger.of("metric").pending, ledger.of("metric").dropped) == (
        7,
        3,
        {"bad": 1},
    )
    assert ledger.pending == 4
    assert spool.counts.ledger(3).total.accepted == 0


def test_extremes_are_of_a_metric_of_which_every_delivered_row_is_in_them(spool: Spool) -> None:
    def deliver(n: int, low: float | None, high: float | None, at: tuple[int, int]) -> None:
        extreme = Extreme(n, low, high, *at)
        spool.settle(Outcome(1, "metric", [], n, keys=[("loss", n)], extremes={"loss": extreme}))

    deliver(3, 0.5, 2.0, (7, 100))
    deliver(2, None, None, (6, 900))  # NaN alone
    deliver(1, -1.0, -1.0, (7, 50))
    assert spool.counts.extremes(1) == {"loss": Extreme(6, -1.0, 2.0, 7, 100)}
    deliver(1, 3.0, 3.0, (7, 200))
    assert spool.counts.extremes(1)["loss"][3:] == (7, 200), "the last one, by step and then by time"
    spool.settle(Outcome(1, "metric", [], 1, keys=[("loss", 1)]))  # as an older tailrace delivers
    assert spool.counts.extremes(1) == {}
