"""Slots: what a device writes is read as `item()` gives it, not before it is whole, and never for another value."""

from __future__ import annotations

import math
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.slots import CODES, Device, ext
from tailrace_agent.errors import SessionError
from tailrace_agent.ipc.device_slots import DTYPES, EXT, SLOTS, Place, SlotsReader, make_slots, place_of

INTEGERS = [name for name in CODES if name[0] in "iu"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "x.slots")
    yield made
    made.close()


@pytest.fixture
def reader(device: Device, tmp_path: Path) -> Iterator[SlotsReader]:
    opened = SlotsReader(tmp_path / "x.slots")
    yield opened
    opened.close()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_value_is_not_there_before_it_has_landed(dtype: str, device: Device, reader: SlotsReader) -> None:
    place = device.take(dtype)
    assert reader.read(place) is None
    device.land(place, b"\1\0\0\0\0\0\0\0"[: 2 if dtype.endswith("16") else 1 if dtype in ("bool", "int8") else 2])
    assert reader.read(place) is not None or dtype in ("int32", "int64", "uint32", "uint64", "float32", "float64")


def same(a: float, b: float) -> bool:
    return struct.pack("<d", a) == struct.pack("<d", b)


def bits_of(value: float, dtype: Any) -> bytes:
    return np.array(value, dtype=dtype).tobytes()


def test_every_half_is_the_one_that_item_gives(device: Device, reader: SlotsReader) -> None:
    place = device.take("float16")
    for bits in range(1 << 16):
        body = bits.to_bytes(2, "little")
        if bits == 0xFD5A:
            continue
        device.land(place, body)
        expected = float(np.frombuffer(body, dtype="float16").astype("float32")[0])
        got = reader.read(place)
        assert got is not None
        # What a NaN carries differs between processors, not that it is one.
        assert same(got, expected) or (math.isnan(got) and math.isnan(expected)), hex(bits)


def test_every_bfloat16_is_a_float32_of_the_same_upper_half(device: Device, reader: SlotsReader) -> None:
    place = device.take("bfloat16")
    for bits in range(0, 1 << 16, 7):
        if bits == 0xFF95:
            continue
        device.land(place, bits.to_bytes(2, "little"))
        expected = float(np.array(bits << 16, dtype="uint32").view("float32"))
        got = reader.read(place)
        assert got is not None
        assert same(got, expected) or (math.isnan(got) and math.isnan(expected)), hex(bits)


@given(st.floats(width=32), st.floats())
@settings(deadline=None)
def test_floats_come_as_they_are(single: float, double: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        device, path = Device(Path(folder, "x.slots"), 2), Path(folder, "x.slots")
        reader = SlotsReader(path)
        for dtype, value in (("float32", single), ("float64", double)):
            place = device.take(dtype)
            device.land(place, value)
            got = reader.read(place)
            assert got is not None
            assert got == value or (math.isnan(got) and math.isnan(value))
        reader.close()
        device.close()


@given(st.sampled_from(INTEGERS), st.data())
@settings(deadline=None, max_examples=200)
def test_an_integer_is_there_when_both_its_copies_are_or_when_nobody_could_tell(dtype: str, data: Any) -> None:
    bounds = np.iinfo(dtype)
    size = bounds.bits // 8
    pattern = 0x5AA55AA55AA55AA5 & (1 << bounds.bits) - 1
    special = [pattern, ~pattern & (1 << bounds.bits) - 1, 0, (1 << bounds.bits) - 1]
    value = data.draw(st.one_of(st.integers(int(bounds.min), int(bounds.max)), st.sampled_from(special)))
    body = (value & (1 << bounds.bits) - 1).to_bytes(size, "little")
    expected = float(int.from_bytes(body, "little", signed=dtype[0] == "i"))
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder, "x.slots"), 2)
        reader = SlotsReader(Path(folder, "x.slots"))
        place = device.take(dtype)
        assert reader.read(place) is None
        device.land(place, body, copies=1)
        assert reader.read(place) in (None, expected)
        device.land(place, body)
        assert reader.read(place) == expected
        reader.close()
        device.close()


def test_an_integer_that_was_changed_between_its_copies_has_landed(device: Device, reader: SlotsReader) -> None:
    place = device.take("int32")
    device.land(place, 7)
    device.land(place, 8, copies=1)
    assert reader.read(place) == 8.0


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_slots_are_taken_and_freed_in_any_order_and_no_value_is_another_one(seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        device = Device(Path(folder, "x.slots"), 5)
        at = 512
        # Near the end of the generations: they begin anew.
        for slot in range(5):
            device.words[at + slot * 4] = device.words[at + slot * 4 + 1] = 2**32 - 3
        reader = SlotsReader(Path(folder, "x.slots"))
        under_way: dict[Place, int] = {}
        landed: dict[Place, int] = {}
        old: list[Place] = []
        for number in range(200):
            what = rng.random()
            if what < 0.4 and any(device.is_free(slot) for slot in range(5)):
                under_way[device.take(rng.choice(["float32", "int64", "uint8"]))] = number
            elif what < 0.7 and under_way:
                place = rng.choice(list(under_way))
                landed[place] = under_way.pop(place)
                device.land(place, landed[place])
            elif landed:
                place = rng.choice(list(landed))
                assert reader.read(place) == float(landed.pop(place))
                reader.free(place)
                old.append(place)
            for place in under_way:
                assert reader.read(place) is None
            for place, value in landed.items():
                assert reader.read(place) == float(value)
        assert reader.landed(()) == set(landed)
        for place in old:
            if (
                place not in under_way
                and place not in landed
                and device.words[at + place.slot * 4] & 0xFFFFFFFF != place[2]
            ):
                with pytest.raises(LookupError):
                    reader.read(place)
        reader.close()
        device.close()


def test_a_place_that_is_none_leads_to_no_value(device: Device, reader: SlotsReader) -> None:
    place = device.take("float32")
    for other in (
        place._replace(slot=16),
        place._replace(slot=65535),
        place._replace(generation=place.generation + 1),
        place._replace(dtype=DTYPES["float64"]),
        place._replace(dtype=0),
        place._replace(dtype=255),
    ):
        with pytest.raises(LookupError):
            reader.read(other)


def test_a_place_survives_its_row() -> None:
    place = Place(65535, 3, 2**32 - 1)
    row = msgspec.msgpack.decode(msgspec.msgpack.encode({"loss": ext(place), "other": 1.0}))
    assert place_of(row["loss"]) == place
    assert place_of(row["other"]) is None
    assert place_of(msgspec.msgpack.Ext(EXT, b"123")) is None
    assert place_of(msgspec.msgpack.Ext(EXT + 1, bytes(8))) is None


def test_freeing_an_old_place_frees_nothing(device: Device, reader: SlotsReader) -> None:
    old = device.take("float32", slot=0)
    device.land(old, 1.0)
    reader.free(old)
    new = device.take("float32", slot=0)
    reader.free(old)
    assert not device.is_free(0)
    assert reader.read(new) is None


@pytest.mark.parametrize("size", [0, 100, 4096, 5000, 1 << 23])
def test_a_file_that_is_none_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.slots"
    path.write_bytes(bytes(size))
    with pytest.raises(SessionError):
        SlotsReader(path)


def test_there_are_as_many_slots_as_a_place_can_name_or_fewer(tmp_path: Path) -> None:
    memory = make_slots(tmp_path / "x.slots")
    assert len(memory) == 4096 + 32 * SLOTS <= 4096 + 32 * 65536
    with pytest.raises(FileExistsError):
        make_slots(tmp_path / "x.slots")
