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


def handed(unsent: Unsent) -> list[bytes]:
    """All that is handed over with one more record, which is left out."""
    rows: list[bytes] = []
    unsent.hand_over(b"\x93last", rows.append)
    assert rows.pop() == b"\x93last"
    return rows


def test_records_come_back_in_their_order_and_metrics_as_counts() -> None:
    unsent = Unsent()
    assert not unsent
    unsent.keep(b"\x93first", "disk full")
    unsent.keep(metrics(1, "a", "b"), "disk full")
    unsent.keep(b"\x93second", "disk full")
    unsent.keep(metrics(1, "a"), "ring closed")
    rows = handed(unsent)
    assert rows[:2] == [b"\x93first", b"\x93second"]
    assert drops(rows[2:]) == {(1, "disk full"): 2, (1, "ring closed"): 1}
    assert not unsent


def test_what_is_dropped_for_hours_takes_no_more_memory_than_its_counts() -> None:
    unsent = Unsent()
    for _ in range(10_000):
        unsent.keep(metrics(7, "a"), "disk full")
    assert len(unsent._notes) < 1000
    assert drops(handed(unsent)) == {(7, "disk full"): 10_000}


def test_whoever_comes_while_another_one_takes_it_waits_for_nothing() -> None:
    """A finalizer that logs in the midst of `take`, and a thread that drops a row under the ring's lock."""
    unsent = Unsent()
    unsent.keep(b"\x93first", "disk full")
    with unsent._lock, unsent._carrying:
        done = threading.Thread(target=lambda: [unsent.keep(metrics(1, "a"), "disk full") for _ in range(2000)])
        done.start()
        done.join(20)
        assert not done.is_alive()
        rows: list[bytes] = []
        unsent.hand_over(b"\x93second", rows.append)
        assert rows == []
    rows = handed(unsent)
    assert rows[:2] == [b"\x93first", b"\x93second"]
    assert drops(rows[2:]) == {(1, "disk full"): 2000}


def test_what_finds_no_room_again_stays_in_front_of_what_came_after_it() -> None:
    unsent, rows, room = Unsent(), list[bytes](), 1

    def put(row: bytes) -> None:
        if len(rows) < room:
            rows.append(row)
        else:
            unsent.keep(row, "disk full")

    for name in (b"\x93a", b"\x93b", b"\x93c"):
        unsent.keep(name, "disk full")
    unsent.hand_over(b"\x93d", put)
    unsent.keep(b"\x93e", "disk full")
    room = 9
    unsent.hand_over(b"\x93f", put)
    assert rows == [b"\x93a", b"\x93b", b"\x93c", b"\x93d", b"\x93e", b"\x93f"]


def test_a_record_of_another_thread_overtakes_none_that_is_being_handed_over() -> None:
    unsent, rows = Unsent(), list[bytes]()
    unsent.keep(b"\x93first", "disk full")

    def put(row: bytes) -> None:
        if row == b"\x93first":
            other = threading.Thread(target=unsent.hand_over, args=(b"\x93other", rows.append))
            other.start()
            other.join(20)
            assert not other.is_alive()
        rows.append(row)

    unsent.hand_over(b"\x93second", put)
    assert rows == [b"\x93first", b"\x93second", b"\x93other"]
    assert not unsent
