"""Rows on their way into the spool: the good ones untouched, the bad ones counted and told once, nothing raised."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace_agent.ipc.notices import Notice
from tailrace_agent.ipc.records import (
    RAW,
    Artifact,
    Drop,
    End,
    Flush,
    Params,
    RunSpec,
    Start,
    Tags,
    decode_control,
    encode,
)
from tailrace_agent.ledger import Ledger
from tailrace_agent.spool.blocks import BLOCK_POINTS, decode_rows, encode_rows
from tailrace_agent.spool.intake import Changes, Intake
from tailrace_agent.spool.store import Spool

NAN = float("nan")


class Stage:
    """Where long texts go."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def __call__(self, name: str, text: str) -> str:
        self.texts[name] = text
        return f"staged-{len(self.texts)}"


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def intake(stage: Stage) -> Intake:
    return Intake(stage)


def taken(intake: Intake, *records: object) -> Changes:
    intake.feed("ring", [record if isinstance(record, bytes) else encode(record) for record in records])
    return intake.take()


def said(changes: Changes) -> list[tuple[int, str]]:
    return [(run, each.text if isinstance(each, Notice) else each) for run, each in changes.notices]


def ledger_of(changes: Changes, run: int = 1) -> Ledger:
    return Ledger.from_rows((kind, what, n) for r, kind, what, n in changes.tallies if r == run)


def points(changes: Changes) -> list[tuple[int, int, int, str, float]]:
    return [
        (run, step, at, key, value)
        for _, kind, _, _, body in changes.blocks
        if kind == "metric"
        for run, step, at, values in decode_rows(body)
        for key, value in values.items()
    ]


def test_a_call_of_ten_thousand_metrics_is_one_call_and_a_sample_is_none(intake: Intake) -> None:
    row = (1, 0, 5, {f"m{n}": 1.0 for n in range(10_000)})
    ledger = ledger_of(taken(intake, row, (1, 1, 6, {"a": 1.0}), row))
    assert (ledger.accepted, ledger.calls) == (20_001, 3)
    intake.feed_samples([encode(row)])
    assert ledger_of(intake.take()).calls == 0


# -- metrics -----------------------------------------------------------------------------------------------------------

KEYS = st.text(st.characters(codec="utf-8"), max_size=5)
GOOD_ROWS = st.tuples(
    st.integers(1, 3),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.dictionaries(KEYS, st.floats(), min_size=1, max_size=10),
)


@given(st.lists(GOOD_ROWS, max_size=80))
def test_good_rows_come_through_byte_for_byte(rows: list[tuple[int, int, int, dict[str, float]]]) -> None:
    bodies = [encode(row) for row in rows]
    changes = taken(Intake(Stage()), *bodies)
    for run in (1, 2, 3):
        mine = [body for body, row in zip(bodies, rows, strict=True) if row[0] == run]
        blocks = [body for r, _, _, _, body in changes.blocks if r == run]
        assert b"".join(block[5:] for block in blocks) == b"".join(mine)
        assert [len(decode_rows(block)) for block in blocks] == [int.from_bytes(block[1:5], "big") for block in blocks]
        ledger = ledger_of(changes, run)
        assert ledger.accepted == ledger.pending == sum(len(row[3]) for row in rows if row[0] == run)
        assert ledger.calls == len(mine)
    assert not changes.notices


def test_a_block_holds_no_more_than_its_bound_and_knows_its_first_time(intake: Intake) -> None:
    rows = [(1, step, 1000 + step, dict.fromkeys("abcdefg", 0.5)) for step in range(100)]
    changes = taken(intake, *rows)
    assert [n for _, _, n, _, _ in changes.blocks] == [245, 245, 210]
    assert [first for _, _, _, first, _ in changes.blocks] == [1000, 1035, 1070]
    assert changes.last_ns == {1: 1099}
    assert changes.runs == {1}


def test_a_row_of_more_points_than_a_block_is_split_and_keeps_its_step_and_time(intake: Intake) -> None:
    values = {f"m{i}": float(i) for i in range(1000)}
    changes = taken(intake, (1, 7, 99, {"before": 1.0}), (1, 7, 99, values), (1, 8, 100, {"after": 2.0}))
    assert all(n <= BLOCK_POINTS for _, _, n, _, _ in changes.blocks)
    expected = [(1, 7, 99, "before", 1.0), *((1, 7, 99, k, v) for k, v in values.items()), (1, 8, 100, "after", 2.0)]
    assert points(changes) == expected
    assert ledger_of(changes).accepted == 1002


def test_a_row_of_just_a_block_is_not_split(intake: Intake) -> None:
    body = encode((1, 7, 99, {f"m{i}": float(i) for i in range(BLOCK_POINTS)}))
    assert taken(intake, body).blocks == [(1, "metric", BLOCK_POINTS, 99, encode_rows([body]))]


def test_bools_and_integers_and_values_that_are_not_finite_are_values(intake: Intake) -> None:
    changes = taken(
        intake, (1, 0, 5, {"yes": True, "no": False, "int": 3, "nan": NAN, "up": math.inf, "down": -math.inf})
    )
    found = {key: value for _, _, _, key, value in points(changes)}
    assert math.isnan(found.pop("nan"))
    assert found == {"yes": 1, "no": 0, "int": 3.0, "up": math.inf, "down": -math.inf}
    assert ledger_of(changes).pending == 6
    assert not changes.notices


@pytest.mark.parametrize("huge", [2**63, 2**64 - 1])
def test_integers_too_large_for_an_integer_column_are_values(intake: Intake, huge: int) -> None:
    assert points(taken(intake, (1, 0, 5, {"a": huge}))) == [(1, 0, 5, "a", float(huge))]


def test_a_value_that_is_no_number_costs_only_itself(intake: Intake) -> None:
    row = (1, 3, 5, {"a": 1.0, "text": "x", "none": None, "list": [1], "b": 2.0, "dict": {}, "bytes": b"x"})
    changes = taken(intake, row)
    assert points(changes) == [(1, 3, 5, "a", 1.0), (1, 3, 5, "b", 2.0)]
    counts = ledger_of(changes).of("metric")
    assert (counts.accepted, counts.dropped, counts.pending) == (7, {"value is no number": 5}, 2)
    assert (1, "metric 'text' was not logged: value is no number but str") in said(changes)


def test_a_key_that_is_no_string_costs_only_itself(intake: Intake) -> None:
    changes = taken(intake, (1, 3, 5, {"a": 1.0, 7: 2.0}))
    assert points(changes) == [(1, 3, 5, "a", 1.0)]
    assert ledger_of(changes).dropped == {"key is no string": 1}
    assert said(changes) == [(1, "metric '7' was not logged: key is no string")]


@pytest.mark.parametrize("step", [7.0, -3.0, 0.0, True])
def test_a_step_that_stands_for_an_integer_is_taken_for_it(intake: Intake, step: object) -> None:
    changes = taken(intake, (1, step, 5, {"a": 1.0, "b": 2}))
    assert points(changes) == [(1, int(step), 5, "a", 1.0), (1, int(step), 5, "b", 2.0)]  # type: ignore[call-overload]
    assert not changes.notices


@pytest.mark.parametrize("step", [7.5, NAN, math.inf, "7", None, [7], 1e300, 2**63, 2**64 - 1])
def test_a_step_that_is_no_integer_is_counted_and_told(intake: Intake, step: object) -> None:
    changes = taken(intake, (1, step, 5, {"a": 1.0, "b": 2.0}))
    assert points(changes) == []
    counts = ledger_of(changes).of("metric")
    assert (counts.accepted, sum(counts.dropped.values()), counts.pending) == (2, 2, 0)
    assert len(changes.notices) == 1
    assert "'a' was not logged: step is" in said(changes)[0][1]


def test_the_user_hears_of_a_bad_key_once_and_the_ledger_counts_all(intake: Intake) -> None:
    bad = (1, 0, 5, {"text": "x", "more": "y"})
    first = taken(intake, bad, bad)
    again = taken(intake, bad)
    other = taken(intake, (2, 0, 5, {"text": "x"}))
    assert [text.split("'")[1] for _, text in said(first)] == ["text", "more"]
    assert again.notices == []
    assert [run for run, _ in other.notices] == [2]
    assert ledger_of(first).dropped == {"value is no number": 4}
    assert ledger_of(again).dropped == {"value is no number": 2}


def test_a_row_without_values_is_nothing(intake: Intake) -> None:
    changes = taken(intake, (1, 0, 5, {}))
    assert (changes.blocks, list(changes.tallies), changes.notices) == ([], [], [])
    assert not changes


def test_what_was_taken_is_gone(intake: Intake) -> None:
    assert taken(intake, (1, 0, 5, {"a": 1.0}))
    assert not intake.take()


# -- control records ---------------------------------------------------------------------------------------------------


def test_starts_ends_and_flushes_are_handed_on_with_their_ring(intake: Intake) -> None:
    start = Start(RunSpec(run=1, start_time=1, cwd="/"))
    end, flush = End(1, "FINISHED", 9), Flush(1, 4)
    changes = taken(intake, start, flush, end)
    assert changes.starts == [(start, "ring")]
    assert changes.flushes == [(flush, "ring")]
    assert changes.ends == [end]
    assert changes


def test_params_come_in_the_order_of_the_calls_with_the_metrics_around_them(intake: Intake) -> None:
    changes = taken(intake, (1, 0, 5, {"a": 1.0}), Params(1, {"lr": "1"}), Tags(1, {"t": "x"}), (1, 1, 6, {"a": 2.0}))
    assert [(kind, n) for _, kind, n, _, _ in changes.blocks] == [
        ("metric", 1),
        ("param", 1),
        ("tag", 1),
        ("metric", 1),
    ]
    assert RAW.decode(changes.blocks[1][4]) == {"lr": "1"}


@pytest.mark.parametrize(("record", "kind"), [(Params, "param"), (Tags, "tag")])
def test_hundreds_of_them_go_in_several_blocks(intake: Intake, record: Callable[..., object], kind: str) -> None:
    texts = {f"p{i}": str(i) for i in range(257)}
    changes = taken(intake, record(1, texts))
    assert [n for _, k, n, _, _ in changes.blocks if k == kind] == [100, 100, 57]
    assert {k: v for _, _, _, _, body in changes.blocks for k, v in RAW.decode(body).items()} == texts
    assert ledger_of(changes).of(kind).accepted == 257


@pytest.mark.parametrize(("record", "kind", "longest"), [(Params, "param", 6000), (Tags, "tag", 8000)])
def test_a_long_text_is_cut_with_a_pointer_and_kept_whole(
    intake: Intake, stage: Stage, record: Callable[..., object], kind: str, longest: int
) -> None:
    whole = "ä" * 20_000
    changes = taken(intake, record(1, {"net/arch": whole, "fits": "x" * longest}))
    sent = {k: v for _, kd, _, _, body in changes.blocks if kd == kind for k, v in RAW.decode(body).items()}
    assert sent["fits"] == "x" * longest
    assert len(sent["net/arch"]) == longest
    (name,) = stage.texts
    assert stage.texts[name] == whole
    assert sent["net/arch"].startswith("ä" * 5000)
    assert sent["net/arch"].endswith(f"whole in the artifact tailrace/{kind}s/{name}]")
    (artifact,) = [decode_control(body) for _, kd, _, _, body in changes.blocks if kd == "artifact"]
    assert artifact == Artifact(1, "staged-1", f"tailrace/{kind}s")
    ledger = ledger_of(changes)
    assert (ledger.of(kind).accepted, ledger.of("artifact").accepted) == (2, 1)
    (notice,) = changes.notices
    assert notice == (
        1,
        f"{kind} 'net/arch' has 20000 characters: cut, whole in the artifact tailrace/{kind}s/{name}",
    )


def test_long_texts_of_similar_names_are_kept_apart(intake: Intake, stage: Stage) -> None:
    keys = ["a/b", "a b", "a:b", "a_b", "x" * 150, "x" * 160, "x" * 100]
    taken(intake, Params(1, {key: key * 9000 for key in keys}))
    assert sorted(stage.texts.values()) == sorted(key * 9000 for key in keys)
    assert all(len(name) < 130 and "/" not in name for name in stage.texts)


def test_an_artifact_is_one_entry_of_its_own(intake: Intake) -> None:
    record = Artifact(1, "staged", "models", contents=True)
    changes = taken(intake, record, record)
    assert [(kind, n) for _, kind, n, _, _ in changes.blocks] == [("artifact", 1)] * 2
    assert decode_control(changes.blocks[0][4]) == record
    assert ledger_of(changes).of("artifact").accepted == 2


def test_what_the_training_process_gave_up_is_counted_and_told_once(intake: Intake) -> None:
    drop = Drop(1, "metric", "spill file at its bound", 5, "the disk is full")
    changes = taken(intake, drop, drop)
    assert ledger_of(changes).of("metric").dropped == {"spill file at its bound": 10}
    assert ledger_of(changes).pending == 0
    assert said(changes) == [(1, "the disk is full")]


# -- garbage -----------------------------------------------------------------------------------------------------------

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=3), inner, max_size=4)),
    max_leaves=12,
)
INTEGERS = st.one_of(st.integers(-(2**63), 2**64 - 1), st.integers(0, 9), st.sampled_from([2**63 - 1, 2**63]))
ALMOST_ROWS = st.tuples(
    st.one_of(INTEGERS, ANYTHING),
    st.one_of(INTEGERS, ANYTHING),
    st.one_of(INTEGERS, ANYTHING),
    st.one_of(st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 9)), ANYTHING, max_size=4), ANYTHING),
)
ALMOST_RECORDS = st.builds(
    lambda tag, fields: [tag, *fields],
    st.sampled_from(["start", "params", "tags", "artifact", "end", "flush", "drop", "monitor", "nothing"]),
    st.lists(st.one_of(INTEGERS, ANYTHING, st.dictionaries(st.text(max_size=3), st.text(max_size=3))), max_size=5),
)
BODIES = st.one_of(st.binary(max_size=60), st.one_of(ALMOST_ROWS, ALMOST_RECORDS, ANYTHING).map(encode))


@pytest.fixture(scope="module")
def spool() -> Iterator[Spool]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        spool = Spool(Path(folder) / "s.db")
        yield spool
        spool.close()


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(bodies=st.lists(BODIES, max_size=12))
def test_garbage_never_raises_and_harms_no_good_row_and_fits_into_the_spool(spool: Spool, bodies: list[bytes]) -> None:
    intake = Intake(Stage())
    good = [encode((5, step, 1_000 + step, {"a": 0.5})) for step in range(len(bodies) + 1)]
    intake.feed("ring", [good[0], *(body for pair in zip(bodies, good[1:], strict=True) for body in pair)])
    changes = intake.take()
    own = [body[5:] for run, kind, _, _, body in changes.blocks if (run, kind) == (5, "metric")]
    assert all(row in b"".join(own) for row in good)
    spool.ingest(changes.blocks, changes.tallies)
    for run in changes.runs:
        ledger = ledger_of(changes, run)
        waiting = sum(n for r, _, n, _, _ in changes.blocks if r == run)
        assert ledger.pending == waiting
    for _, kind, n, _, body in changes.blocks:
        if kind == "metric":
            assert sum(len(values) for *_, values in decode_rows(body)) == n
        else:
            RAW.decode(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x94\x01\x00\x00\x81\xa1\xff\x01",
        encode([[1], 2, 3, {"a": "x"}]),
        encode([1, 2, "now", {"a": "x"}]),
        encode([1, 2, 3, "values"]),
        encode(["x", 2, 3, {"a": "x"}]),
        encode([2**64 - 1, 2, 3, {"a": "x"}]),
        encode([2**64 - 1, 2, 3, {"a": 1.0}]),
        encode([1, 2, 2**64 - 1, {"a": 1.0}]),
        encode(["params", 2**64 - 1, {"a": "x"}]),
        encode(["drop", 1, "metric", "no", -5]),
        encode(["flush", "x", 1]),
        b"\x94\x01\x00\x05\x81\xa1a" + b"\x91" * 5000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_cannot_be_read_is_counted(intake: Intake, body: bytes) -> None:
    changes = taken(intake, body)
    assert changes.blocks == []
    assert [(kind, n) for _, kind, what, n in changes.tallies if what.startswith("dropped:")] == [("metric", 1)]


def test_the_memory_of_what_was_told_is_bounded(intake: Intake) -> None:
    told = 0
    for start in range(0, 12_000, 1000):
        told += len(taken(intake, (1, 0, 5, {f"k{i}": "x" for i in range(start, start + 1000)})).notices)
    assert told == 10_000
