"""What found no room: counted or kept in its order, and nobody waits for a lock."""

from __future__ import annotations

import threading

from tailrace._session.unsent import Unsent
from tailrace_agent.ipc.records import Drop, decode_control, encode


def metrics(run: int, *keys: str) -> bytes:
    return encode((run, 0, 1, dict.fromkeys(keys, 1.0)))


def drops(rows: list[bytes]) -> dict[tuple[int, str], int]:
    """Of each run and reason, how many metrics were lost."""
    found = {}
    for row in rows:
        drop = decode_control(row)
        assert isinstance(drop, Drop)
        assert drop.kind == "metric"
        found[drop.run, drop.reason] = drop.count
    return found


def test_records_come_back_in_their_order_and_metrics_as_counts() -> None:
    unsent = Unsent()
    assert not unsent
    unsent.keep(b"\x93first", "disk full")
    unsent.keep(metrics(1, "a", "b"), "disk full")
    unsent.keep(b"\x93second", "disk full")
    unsent.keep(metrics(1, "a"), "ring closed")
    assert unsent.blocked
    rows = unsent.take()
    assert rows[:2] == [b"\x93first", b"\x93second"]
    assert drops(rows[2:]) == {(1, "disk full"): 2, (1, "ring closed"): 1}
    assert not unsent


def test_what_is_dropped_for_hours_takes_no_more_memory_than_its_counts() -> None:
    unsent = Unsent()
    for _ in range(10_000):
        unsent.keep(metrics(7, "a"), "disk full")
    assert len(unsent._notes) < 1000
    assert drops(unsent.take()) == {(7, "disk full"): 10_000}


def test_whoever_comes_while_another_one_takes_it_waits_for_nothing() -> None:
    """A finalizer that logs in the midst of `take`, and a thread that drops a row under the ring's lock."""
    unsent = Unsent()
    unsent.keep(b"\x93first", "disk full")
    with unsent._lock:
        done = threading.Thread(target=lambda: [unsent.keep(metrics(1, "a"), "disk full") for _ in range(2000)])
        done.start()
        done.join(20)
        assert not done.is_alive()
        assert unsent.take() == []
    rows = unsent.take()
    assert rows[0] == b"\x93first"
    assert drops(rows[1:]) == {(1, "disk full"): 2000}
