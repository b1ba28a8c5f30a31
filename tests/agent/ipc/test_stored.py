"""What another version wrote, or a damaged disk gives back, is read as far as it can be read."""

from __future__ import annotations

import math

import msgspec
import pytest

from tailrace_agent.ipc.stored import Read, converted, read, read_with_losses, to_finite


class Inner(msgspec.Struct):
    size: int
    name: str = "none"


class Tuple(msgspec.Struct, array_like=True):
    at: int = 0


class Record(msgspec.Struct):
    run: int
    count: int = 3
    inner: Inner | None = None
    place: Tuple | None = None
    tags: dict[str, str] = {}


def test_what_can_be_read_whole_loses_nothing() -> None:
    record = Record(1, 2, Inner(5), Tuple(6), {"a": "b"})
    assert read_with_losses(msgspec.json.encode(record), Record) == Read(record, [])


def test_a_field_that_cannot_be_read_has_its_default_and_is_named() -> None:
    found, lost = read_with_losses(b'{"run": 1, "count": "many", "tags": {"a": 1}}', Record)
    assert found == Record(1)
    assert lost == ["count", "tags"]


def test_fields_of_another_version_are_passed_over_and_missing_ones_have_defaults() -> None:
    assert read(b'{"run": 1, "of_a_later_version": [1]}', Record) == Record(1)


def test_of_a_struct_in_it_only_the_field_is_lost() -> None:
    body = b'{"run": 1, "count": null, "inner": {"size": 5, "name": 7}}'
    assert read_with_losses(body, Record) == Read(Record(1, inner=Inner(5)), ["count", "inner.name"])


@pytest.mark.parametrize("inner", ['{"name": "x"}', '{"size": "x"}', "[5]", "5"])
def test_a_struct_in_it_that_lacks_what_it_needs_is_lost_as_a_whole(inner: str) -> None:
    body = f'{{"run": 1, "count": null, "inner": {inner}}}'.encode()
    found, lost = read_with_losses(body, Record)
    assert found == Record(1)
    assert lost == ["count", "inner"]


def test_a_struct_that_is_written_as_a_list_is_read_whole_or_not_at_all() -> None:
    assert read_with_losses(b'{"run": 1, "place": {"at": 1}}', Record) == Read(Record(1), ["place"])


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"3", b"null", b"\xff", b"[" * 100_000, b"{}", b'{"run": "x"}', b'{"count": 1}']
)
def test_what_is_no_record_or_lacks_what_has_no_default_is_none(body: bytes) -> None:
    assert read(body, Record) is None
    assert read_with_losses(body, Record) == Read(None, [])


def test_plain_data_that_lacks_what_it_needs_says_which_field() -> None:
    with pytest.raises(msgspec.ValidationError, match="run cannot be read"):
        converted({"run": "x"}, Record)
    with pytest.raises(msgspec.ValidationError, match="run"):
        converted({}, Record)


def test_what_json_cannot_hold_is_zero() -> None:
    assert [to_finite(number) for number in (1.5, -2.0, math.inf, -math.inf, math.nan)] == [1.5, -2.0, 0.0, 0.0, 0.0]
