"""A channel: which rows it encodes, who counts its steps, and that nothing slips through while it is closed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tailrace._log.channel import Channel, encode_checked, encode_row
from tailrace._log.log import LogCall

LogOf = Callable[[Channel], LogCall]


def never(*_: Any) -> None:
    raise AssertionError("nothing slow was expected")


def closing(row: object) -> bytes:
    raise LookupError(row)


def page_of(*words: int) -> memoryview[int]:
    return memoryview(bytearray(b"".join(word.to_bytes(8, "little") for word in words))).cast("Q")


@pytest.mark.parametrize(
    "row",
    [
        (1, 7.0, 0, {"a": 1.0}),
        (1, True, 0, {"a": 1.0}),
        (1, 2**63, 0, {"a": 1.0}),
        (1, 0, 0, {3: 1.0}),
        (1, 0, 0, {"a": "x"}),
    ],
)
def test_the_checked_encoder_stops_at_what_mlflow_could_not_take(row: Any) -> None:
    with pytest.raises(TypeError):
        encode_checked(row)


def test_both_encoders_write_the_same_bytes_of_what_is_right() -> None:
    row = (1, 2**63 - 1, 0, {"a": 1.0, "b": 2})
    assert encode_checked(row) == encode_row(row)


def test_a_twin_shares_the_counter_and_is_closed_alone(log_of: LogOf) -> None:
    rows: list[bytes] = []
    channel = Channel(5, rows.append, never)
    channel.steps = itertools.count(10)
    twin = channel.twin(never)
    log, of_twin = log_of(channel), log_of(twin)
    log(a=1.0)
    of_twin(a=2.0)
    caught: list[Any] = []
    twin.slow = lambda *given: caught.append(given)
    twin.close(closing)
    of_twin(a=3.0)
    log(a=4.0)
    assert [msgspec.msgpack.decode(row)[1] for row in rows] == [10, 11, 12]
    assert [type(given[-1]) for given in caught] == [LookupError]


def test_a_call_without_a_step_on_a_closed_channel_takes_none_from_the_counter(log_of: LogOf) -> None:
    caught: list[Any] = []
    channel = Channel(5, never, lambda *given: caught.append(given))
    channel.steps = counter = itertools.count()
    channel.close(closing)
    log_of(channel)(a=1.0)
    assert caught[0][2] is None
    assert next(counter) == 0


def test_a_change_of_the_page_is_looked_at_once_and_before_the_row_is_delivered(log_of: LogOf) -> None:
    events: list[Any] = []
    channel = Channel(5, lambda row: events.append(msgspec.msgpack.decode(row)[3]["a"]), never)
    page = page_of(1, 0)

    def renew() -> None:
        channel.seen = page[0]
        events.append("looked")

    channel.watch(page, 1, renew)
    log = log_of(channel)
    log(a=1.0, step=0)
    page[0] = 2
    log(a=2.0, step=1)
    log(a=3.0, step=2)
    assert events == [1.0, "looked", 2.0, 3.0]


def test_a_look_may_close_the_channel_and_the_very_call_goes_to_slow(log_of: LogOf) -> None:
    caught: list[Any] = []
    rows: list[bytes] = []
    channel = Channel(5, rows.append, lambda *given: caught.append(given))
    page = page_of(1)

    def renew() -> None:
        channel.seen = page[0]
        channel.close(closing)

    channel.watch(page, 0, renew)
    log_of(channel)(a=1.0, step=3)
    assert rows == []
    assert [type(given[-1]) for given in caught] == [LookupError]
