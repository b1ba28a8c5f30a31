"""`bulk.columns`: what is sent is what is read, and nothing else is taken for it."""

from __future__ import annotations

import math

import msgspec
import pytest

from tailrace_agent.bulk.columns import POINTS_AT_MOST, ModelOf, as_columns, decode, encode
from tailrace_agent.ipc.records import Point

POINTS = [Point("a", 1.5, 3, 4), Point("b", math.inf, 1, -(2**63)), Point("a", -0.0, 2**63 - 1, 0)]


def test_what_is_sent_is_what_is_read() -> None:
    columns = as_columns("run", POINTS)
    columns.models, columns.model = [ModelOf("m", "data", "digest")], [None, 0, None]
    assert decode(encode([columns, as_columns("other", [])])) == [columns, as_columns("other", [])]


def test_nan_arrives() -> None:
    assert math.isnan(decode(encode([as_columns("run", [Point("a", math.nan, 1, 1)])]))[0].value[0])


def test_fields_of_a_newer_agent_are_passed_over() -> None:
    plain = msgspec.to_builtins(as_columns("run", POINTS))
    body = msgspec.msgpack.encode({"runs": [{**plain, "later": 1}], "more": 2})
    assert decode(body) == [as_columns("run", POINTS)]


@pytest.mark.parametrize(
    "change",
    [
        {"key": [0, 1]},
        {"key": [0, 2, 0]},
        {"key": [0, -1, 0]},
        {"value": [1.0, "x", 2.0]},
        {"value": [1.0, None, 2.0]},
        {"step": [2**63, 0, 0]},
        {"timestamp": [0, 1.5, 0]},
        {"model": [0, None, None]},
        {"model": [None]},
        {"keys": "ab"},
        {"run_id": 7},
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object]) -> None:
    plain = msgspec.to_builtins(as_columns("run", POINTS))
    with pytest.raises(ValueError, match=r"."):
        decode(msgspec.msgpack.encode({"runs": [{**plain, **change}]}))


@pytest.mark.parametrize("body", [b"", b"{}", b"\xc1", b"\x80", b'{"runs": []}', b"\xdd\xff\xff\xff\xff"])
def test_what_is_no_body_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(body)


def test_more_points_than_a_request_may_hold_are_refused() -> None:
    half = as_columns("run", [POINTS[0]] * (POINTS_AT_MOST // 2))
    assert len(decode(encode([half, half]))) == 2
    with pytest.raises(ValueError, match="50,001"):
        decode(encode([half, half, as_columns("other", POINTS[:1])]))
