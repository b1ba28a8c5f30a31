"""`CUDA_VISIBLE_DEVICES` is read as CUDA reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.sampler.gpu.visible import Card, Mig, Place, hides_all, visible

A, B, C = "GPU-aa000000-1111", "GPU-ab000000-2222", "GPU-bb000000-3333"
PLAIN = [Card(A), Card(B), Card(C)]
MIGS = (Mig("MIG-11000000-aaaa", 1, 0), Mig("MIG-12000000-bbbb", 5, 0), Mig("MIG-22000000-cccc", 5, 1))
MIXED = [Card(A), Card(B, MIGS), Card(C)]


def indices(value: str | None, cards: list[Card] = PLAIN) -> list[int]:
    places = visible(value, cards)
    assert all(place.mig is None for place in places)
    return [place.card for place in places]


def migs(value: str | None) -> list[tuple[int, int | None]]:
    return [tuple(place) for place in visible(value, MIXED)]


def test_without_the_variable_every_gpu_is_visible() -> None:
    assert indices(None) == [0, 1, 2]
    assert visible(None, []) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1, 2", [1, 2]),
        ("+1", [1]),
        ("007", []),
        ("01,000", [1, 0]),
        ("1gpu2,2ampere", [1, 2]),  # read like strtol
        ("0,3,1", [0]),
        ("0,2,-1,1", [0, 2]),  # NVIDIA's own example
        ("0,,1", [0]),
        ("0,x,1", [0]),
        ("0,", [0]),
        (",0", []),
        ("1,1", []),
        ("0,1,0", []),
        ("0,9,0", [0]),
        ("9" * 5000, []),
    ],
)
def test_numbers(value: str, expected: list[int]) -> None:
    assert indices(value) == expected


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles", "none", "void", " ", ",", "-1,0", "²", "٣"])
def test_what_hides_everything_is_known_without_asking_nvml(value: str) -> None:
    assert hides_all(value)
    assert visible(value, PLAIN) == visible(value, MIXED) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (C, [2]),
        (f"{C},{A}", [2, 0]),
        ("GPU-b,GPU-ab", [2, 1]),
        ("GPU-a", []),  # two begin like that
        ("GPU-b,GPU-a,GPU-ab", [2]),
        ("GPU-", []),
        ("GPU-zz", []),
        ("GPU-b,GPU-bb", []),
        (f"{A},{A}", []),
        (f"{A},1", [0]),
        (f"1,{A}", [1]),
        (f"{A}, {C}", [0]),
        (f"{A}x", []),
    ],
)
def test_uuids_and_their_beginnings(value: str, expected: list[int]) -> None:
    assert indices(value) == expected


def test_a_gpu_whose_uuid_is_not_known_is_named_by_its_number_alone() -> None:
    assert indices("0", [Card("")]) == [0]
    assert indices("GPU-", [Card("")]) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("MIG-11000000-aaaa", [(1, 0)]),
        ("MIG-22", [(1, 2)]),
        ("MIG-1", []),
        ("MIG-", []),
        ("MIG-11,MIG-11", []),
        ("MIG-12,MIG-11", [(1, 1), (1, 0)]),
        ("MIG-12,MIG-22", [(1, 1)]),  # one GPU instance: CUDA takes one of them
        ("MIG-22,MIG-12", [(1, 2)]),
        (f"MIG-{B}/1/0", [(1, 0)]),
        ("MIG-GPU-ab/5/1", [(1, 2)]),
        ("MIG-GPU-ab/5/2", []),
        ("MIG-GPU-aa/1/0", []),
        ("MIG-GPU-ab/5", []),
        (f"MIG-{B}/5/0,MIG-11", [(1, 1), (1, 0)]),
        (f"{C},MIG-11", [(2, None), (1, 0)]),
        ("1", [(1, 0), (1, 1)]),
        ("2,1", [(2, None), (1, 0), (1, 1)]),
        (f"{B},MIG-11", []),
        (None, [(0, None), (1, 0), (1, 1), (2, None)]),
    ],
)
def test_mig_instances(value: str | None, expected: list[tuple[int, int | None]]) -> None:
    assert migs(value) == expected


def test_instances_that_go_by_the_old_names_only_are_found() -> None:
    old = [Card(A, (Mig(f"MIG-{A}/7/0", 7, 0), Mig("", 8, 0)))]
    assert visible(f"MIG-{A}/7/0", old) == visible("MIG-GPU-aa/7/0", old) == [Place(0, 0)]
    assert visible("MIG-GPU-aa/8/0", old) == [Place(0, 1)]


def test_a_gpu_with_mig_enabled_and_no_instance_is_not_visible() -> None:
    assert visible(None, [Card(A, ())]) == visible("0", [Card(A, ())]) == []


entries = st.one_of(
    st.integers(-2, 5).map(str),
    st.sampled_from(
        [A, B, C, "GPU-a", "GPU-ab", "GPU-b", "MIG-1", "MIG-11", "MIG-22", f"MIG-{B}/5/0", "", "NoDevFiles"]
    ),
    st.text(max_size=8),
)
values = st.one_of(st.none(), st.lists(entries, max_size=6).map(",".join), st.text(max_size=30))
uuids = st.text("abc0-", max_size=6).map(lambda end: f"GPU-{end}") | st.just("")
mig_lists = st.lists(
    st.builds(Mig, uuids.map(lambda uuid: f"MIG-{uuid}"), st.integers(0, 2), st.integers(0, 1)), max_size=4
)
machines = (
    st.lists(st.builds(Card, uuids, st.none() | mig_lists.map(tuple)), max_size=4) | st.just(PLAIN) | st.just(MIXED)
)


@given(values, machines)
def test_whatever_it_says_each_place_exists_and_comes_once(value: str | None, cards: list[Card]) -> None:
    places = visible(value, cards)
    assert len(set(places)) == len(places)
    for card, mig in places:
        instances = cards[card].migs
        assert (mig is None) == (instances is None)
        assert mig is None or 0 <= mig < len(instances or ())
    instances_seen = [(card, (cards[card].migs or ())[mig].gpu_instance) for card, mig in places if mig is not None]
    assert len(set(instances_seen)) == len(instances_seen)
    if hides_all(value):
        assert places == []


@given(values, st.text(max_size=8))
def test_what_follows_an_invalid_entry_does_not_matter(value: str | None, rest: str) -> None:
    if value is not None:
        assert visible(f"{value},-1,{rest}", MIXED) == visible(f"{value},-1", MIXED)


@given(st.permutations(range(3)), st.integers(0, 3), st.booleans())
def test_visible_indices_follow_the_order_of_the_entries(order: list[int], count: int, by_uuid: bool) -> None:
    chosen = order[:count]
    assert indices(",".join(PLAIN[each].uuid if by_uuid else str(each) for each in chosen)) == chosen
