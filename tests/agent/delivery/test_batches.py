"""Blocks become requests: within the limits, without twins, and every entry of them counted."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.delivery.batches import Twins, as_logged, body_of, keys_of, metrics_batch, texts_batch
from tailrace_agent.ipc.records import RAW, Point, encode
from tailrace_agent.mlflow.stored_names import Names
from tailrace_agent.spool.blocks import Block, decode_rows, encode_rows

MS = 1_000_000
AS_LOGGED = Names(str)
_ids = itertools.count(1)


def metrics(*rows: tuple[int, int, dict[str, float]], run: int = 1) -> Block:
    body = encode_rows([encode((run, step, at, values)) for step, at, values in rows])
    return Block(next(_ids), run, "metric", sum(len(values) for _, _, values in rows), rows[0][1] if rows else 0, body)


def texts(kind: str, values: dict[str, str]) -> Block:
    return Block(next(_ids), 1, kind, len(values), 0, encode(values))


def test_points_have_the_milliseconds_of_their_call_and_its_step() -> None:
    first, second = metrics((3, 7 * MS + 999_999, {"a": 1.0, "b": 2.0})), metrics((4, 8 * MS, {"a": 3.0}))
    batch = metrics_batch([first, second], Twins(), AS_LOGGED)
    assert batch.entries == [Point("a", 1.0, 7, 3), Point("b", 2.0, 7, 3), Point("a", 3.0, 8, 4)]
    assert (batch.run, batch.kind, batch.blocks, batch.merged) == (1, "metric", [first.id, second.id], 0)


def test_bools_and_integers_are_sent_as_floats() -> None:
    batch = metrics_batch(
        [metrics((0, 0, {"yes": True, "no": False, "int": 3, "huge": 2**64 - 1}))], Twins(), AS_LOGGED
    )
    assert [type(entry[1]) for entry in batch.entries] == [float] * 4
    assert [entry[1] for entry in batch.entries] == [1.0, 0.0, 3.0, float(2**64 - 1)]


def test_points_that_are_equal_for_mlflow_are_sent_once_and_counted() -> None:
    row = (1, 5 * MS, {"a": 1.0, "nan": math.nan, "inf": math.inf})
    later = (1, 5 * MS + 1000, {"a": 1.0, "nan": math.nan, "inf": math.inf})
    batch = metrics_batch([metrics(row, later), metrics(row)], Twins(), AS_LOGGED)
    assert [entry[0] for entry in batch.entries] == ["a", "nan", "inf"]
    assert batch.merged == 6


@pytest.mark.parametrize(
    "other",
    [(2, 5 * MS, {"a": 1.0}), (1, 6 * MS, {"a": 1.0}), (1, 5 * MS, {"a": 2.0}), (1, 5 * MS, {"b": 1.0})],
    ids=["step", "time", "value", "key"],
)
def test_points_that_differ_in_anything_are_all_sent(other: tuple[int, int, dict[str, float]]) -> None:
    assert metrics_batch([metrics((1, 5 * MS, {"a": 1.0}), other)], Twins(), AS_LOGGED).merged == 0


def test_twins_are_found_across_two_requests_when_the_first_was_sent() -> None:
    twins = Twins()
    first, second = metrics((1, 5 * MS, {"a": 1.0})), metrics((1, 5 * MS, {"a": 1.0}), (2, 6 * MS, {"a": 1.0}))
    batch = metrics_batch([first], twins, AS_LOGGED)
    assert metrics_batch([second], twins, AS_LOGGED).merged == 0  # the first may not have arrived
    twins.sent([entry for entry in batch.entries if isinstance(entry, Point)])
    batch = metrics_batch([second], twins, AS_LOGGED)
    assert (batch.entries, batch.merged) == ([Point("a", 1.0, 6, 2)], 1)


def test_twins_are_found_though_later_points_of_another_process_came_between() -> None:
    twins = Twins()
    twins.sent([Point("a", 1.0, 5, 1), Point("b", 1.0, 90, 1)])
    twins.sent([Point("b", 1.0, at, 1) for at in range(100, 1100)])
    assert metrics_batch([metrics((1, 5 * MS, {"a": 1.0}))], twins, AS_LOGGED).merged == 1


def test_what_is_remembered_of_points_that_were_sent_is_bounded() -> None:
    twins = Twins()
    for first in range(0, 100_000, 1000):
        twins.sent([Point("a", 1.0, at, 0) for at in range(first, first + 1000)])
    assert sum(map(len, twins._recent)) == 2000
    twins.sent([])
    assert sum(map(len, twins._recent)) == 2000


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 3).map(lambda ms: ms * MS),
        st.dictionaries(st.sampled_from("abc"), st.floats()),
    ),
    max_size=30,
)


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_every_entry_of_the_blocks_is_sent_or_merged(blocks: list[list[tuple[int, int, dict[str, float]]]]) -> None:
    made = [metrics(*rows) for rows in blocks]
    batch = metrics_batch(made, Twins(), AS_LOGGED)
    assert len(batch.entries) + batch.merged == sum(block.n for block in made)
    expected = {
        (key, repr(value + 0.0), at // MS, step)
        for rows in blocks
        for step, at, values in rows
        for key, value in values.items()
    }
    assert {(e[0], repr(e[1] + 0.0), *e[2:]) for e in batch.entries} == expected
    assert len(expected) == len(batch.entries)


def test_params_of_several_blocks_go_together_and_repetitions_are_merged() -> None:
    blocks = [texts("param", {"a": "1", "b": "2"}), texts("param", {"b": "2", "c": "3"})]
    batch = texts_batch(blocks, AS_LOGGED)
    assert batch.entries == [("a", "1"), ("b", "2"), ("c", "3")]
    assert (batch.kind, batch.merged, batch.blocks) == ("param", 1, [block.id for block in blocks])


def test_a_param_that_contradicts_an_earlier_one_waits_for_a_request_of_its_own() -> None:
    blocks = [texts("param", {"a": "1"}), texts("param", {"a": "2", "x": "y"}), texts("param", {"b": "3"})]
    assert texts_batch(blocks, AS_LOGGED).blocks == [blocks[0].id]
    assert texts_batch(blocks[1:], AS_LOGGED).entries == [("a", "2"), ("x", "y"), ("b", "3")]


def test_the_last_value_of_a_tag_wins() -> None:
    blocks = [texts("tag", {"a": "1", "b": "2"}), texts("tag", {"a": "3"})]
    batch = texts_batch(blocks, AS_LOGGED)
    assert dict(batch.entries) == {"a": "3", "b": "2"}  # type: ignore[arg-type]
    assert (batch.merged, len(batch.blocks)) == (1, 2)


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123"), min_size=1), min_size=1, max_size=8))
def test_whatever_the_params_none_is_lost_and_no_request_contradicts_itself(values: list[dict[str, str]]) -> None:
    blocks = [texts("param", value) for value in values]
    while blocks:
        batch = texts_batch(blocks, AS_LOGGED)
        taken = [block for block in blocks if block.id in batch.blocks]
        assert taken == blocks[: len(taken)] != []
        assert len(batch.entries) + batch.merged == sum(block.n for block in taken)
        assert len({key for key, *_ in batch.entries}) == len(batch.entries)
        sent = dict(batch.entries)  # type: ignore[arg-type]
        assert all(sent[k] == v for block in taken for k, v in RAW.decode(block.body).items())
        blocks = blocks[len(taken) :]


def test_a_dead_letter_can_be_put_back_as_it_is() -> None:
    point = Point("a", math.inf, 1234, 7)
    ((run, step, at, values),) = decode_rows(body_of(9, point))
    assert (run, step, at, values) == (9, 7, 1234 * MS, {"a": math.inf})
    again = metrics_batch([Block(1, 9, "metric", 1, at, body_of(9, point))], Twins(), AS_LOGGED)
    assert again.entries == [point]
    assert RAW.decode(body_of(9, ("k", "v"))) == {"k": "v"}


def test_entries_are_counted_by_key() -> None:
    assert keys_of([Point("a", 1.0, 0, 0), Point("b", 1.0, 0, 0), Point("a", 2.0, 0, 0)]) == [("a", 2), ("b", 1)]
    assert keys_of([]) == []


def test_two_names_in_one_request_keep_the_names_that_mlflow_has_for_them() -> None:
    names = Names(lambda name: name.strip("()"))
    batch = metrics_batch([metrics((3, 7 * MS, {"(a)": 1.0, "b": 2.0}))], Twins(), names)
    assert [(point.key, point.value) for point in batch.entries] == [("a", 1.0), ("b", 2.0)]
    assert texts_batch([texts("tag", {"(a)": "1"}), texts("tag", {"b": "2"})], names).entries == [
        ("a", "1"),
        ("b", "2"),
    ]


def test_a_dead_letter_has_the_name_that_was_logged() -> None:
    (row,) = decode_rows(body_of(1, Point("a__b", 1.5, 9, 9), "a(b)"))
    assert row == (1, 9, 9_000_000, {"a(b)": 1.5})
    assert RAW.decode(body_of(1, ("a__b", "x"), "a(b)")) == {"a(b)": "x"}


def test_steps_go_on_behind_those_that_a_run_had_before() -> None:
    block = metrics((0, 0, {"system/cpu": 1.0, "system/mine": 2.0, "loss": 3.0}), (1, 1, {"system/cpu": 4.0}))
    batch = metrics_batch([block], Twins(), AS_LOGGED, {"system/cpu": 10})
    assert [(entry[0], entry[-1]) for entry in batch.entries] == [
        ("system/cpu", 10), ("system/mine", 0), ("loss", 0), ("system/cpu", 11),
    ]  # fmt: skip
    assert [as_logged(entry, {"system/cpu": 10})[-1] for entry in batch.entries] == [0, 0, 0, 1]
    assert as_logged(("tag", "text"), {"tag": 10}) == ("tag", "text")
