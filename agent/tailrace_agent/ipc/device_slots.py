"""Slots: shared memory beside a ring, into which a device writes single values by itself.

A `log()` of a value on a GPU takes a slot, has the device copy the value there behind the work that makes it, and puts
a row on the ring that holds, in the value's stead, its *place*: which slot, of what type, and the slot's generation.
The agent sees the value land: nobody is woken, asked or waited for in training. The other end is in
agent/native/device.h.

Invariants
----------
1. Before a copy is queued the slot holds a pattern that says "nothing yet". Of floats: a signalling NaN, which no
   arithmetic makes. Integers have no such pattern: they are copied twice, over two patterns that differ in every bit,
   so once both words are the same number, that is the value, whatever it is.
2. Devices write 1, 2, 4 or 8 bytes at a multiple of 8 as a whole, so what is no pattern is a value.
3. A slot is free when both sides have the same generation there. The training process raises its own when it takes the
   slot, the agent follows when the value is in the spool. A slot whose value has not landed is never freed: a copy may
   still be under way to it, and would be taken for the value of the next one.
4. A place whose generation is not the slot's leads to no value.

Format (little-endian 64-bit words)
-----------------------------------
Header page of 4096 bytes: 0 magic, 1 how many slots. Then four words for each slot: generation (low half) and type,
written by the training process; generation, written by the agent; the value; the value once more, of integers.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tailrace_agent.errors import SessionError
from tailrace_agent.files.descriptors import map_kept, reserve
from tailrace_agent.files.ownership import open_own

__all__ = ["DTYPES", "EXT", "SLOTS", "Place", "SlotsReader", "as_ext", "make_slots", "place_of"]

SLOTS: Final = 8192
"""In a file: 260 KB. More calls than that within a drain, or behind a device's queue of work, go the older way."""
EXT: Final = 116
"""The type of MessagePack's extension that a place is."""

_MAGIC: Final = int.from_bytes(b"devslots", "little")
_HEADER: Final = 4096
_WORDS: Final = 4
_MOST: Final = 1 << 16
_PLACE: Final = struct.Struct("<HBxI")
_ALL: Final = 2**64 - 1


class Place(NamedTuple):
    """Where a value is going to be.

    Attributes:
        slot: Which slot.
        dtype: The value's type, see `DTYPES`.
        generation: How often the slot had been taken then, modulo 2**32.
    """

    slot: int
    dtype: int
    generation: int


class _Type(NamedTuple):
    size: int
    pattern: int
    twice: bool
    number: Callable[[int], float]


def _unpacked(code: str) -> Callable[[int], float]:
    pack = struct.Struct(f"<{code}")
    return lambda bits: float(pack.unpack(bits.to_bytes(pack.size, "little"))[0])


_float32: Final = _unpacked("f")


def _half(bits: int) -> float:
    sign, exponent, fraction = (bits >> 15) << 31, bits >> 10 & 0x1F, bits & 0x3FF
    if exponent == 0:  # exact: a fraction of ten bits
        return (-1.0 if sign else 1.0) * fraction * 2.0**-24
    # Not by `struct`, which loses what a NaN carries.
    return _float32(sign | ((exponent + 112) << 23 if exponent < 0x1F else 0x7F800000) | fraction << 13)


def _integer(code: str) -> _Type:
    size = struct.calcsize(code)
    return _Type(size, 0x5AA55AA55AA55AA5 & (1 << 8 * size) - 1, True, _unpacked(code))


# By code, as agent/native/device.h has them.
_TYPES: Final = {
    1: _Type(2, 0xFD5A, False, _half),
    2: _Type(2, 0xFF95, False, lambda bits: _float32(bits << 16)),
    3: _Type(4, 0xFFA5C3E1, False, _float32),
    4: _Type(8, 0xFFF5C3E1D2B4A697, False, _unpacked("d")),
    5: _integer("B"),
    6: _integer("b"),
    7: _integer("h"),
    8: _integer("i"),
    9: _integer("q"),
    10: _integer("B")._replace(number=lambda bits: float(bits != 0)),
    11: _integer("H"),
    12: _integer("I"),
    13: _integer("Q"),
}
_NAMES: Final = (
    *("float16", "bfloat16", "float32", "float64"),
    *("uint8", "int8", "int16", "int32", "int64", "bool", "uint16", "uint32", "uint64"),
)
DTYPES: Final = dict(zip(_NAMES, _TYPES, strict=True))
"""Code by name of a type that a device can write."""


def as_ext(data: bytes) -> msgspec.msgpack.Ext:
    """A place as it stands in a row."""
    return msgspec.msgpack.Ext(EXT, data)


def place_of(value: object) -> Place | None:
    """The place that a value in a row is, if it is one."""
    if not isinstance(value, msgspec.msgpack.Ext) or value.code != EXT or len(bytes(value.data)) != _PLACE.size:
        return None
    return Place(*_PLACE.unpack(value.data))


def make_slots(path: Path, count: int = SLOTS) -> mmap.mmap:
    """Makes a file of slots, all of them free; the training process's end of it.

    Raises:
        OSError: There is no room, or something of that name.
    """
    size = _HEADER + 8 * _WORDS * count
    fd = open_own(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        reserve(fd, size)
        memory = map_kept(fd, size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    words = memoryview(memory).cast("Q")
    words[0], words[1] = _MAGIC, count
    words.release()
    return memory


class SlotsReader:
    """The agent's end.

    Args:
        path: The file.

    Raises:
        SessionError: It is no file of slots.
        OSError: It cannot be opened, or may be somebody else's.

    Not thread-safe.
    """

    def __init__(self, path: Path) -> None:
        fd = open_own(path, os.O_RDWR)
        try:
            size = os.fstat(fd).st_size
            if size < _HEADER or size > _HEADER + 8 * _WORDS * _MOST:
                raise SessionError(f"{path} is no file of slots: it has {size} bytes")
            self._map = map_kept(fd, size)
        finally:
            os.close(fd)
        self._view = memoryview(self._map)
        self._words = self._view[: size & -8].cast("Q")
        if self._words[0] != _MAGIC:
            self.close()
            raise SessionError(f"{path} is no file of slots")
        self._count = min(self._words[1], (len(self._words) - _HEADER // 8) // _WORDS)

    def read(self, place: Place) -> float | None:
        """The value at a place, as its `item()` gives it; None while it has not landed.

        Raises:
            LookupError: There is no such place, or not any more.
        """
        at = self._at(place.slot)
        if self._words[at] != place.generation | place.dtype << 32 or place.dtype not in _TYPES:
            raise LookupError(place)
        return self._value(at)

    def free(self, place: Place) -> None:
        """The value is safe elsewhere: its slot may be taken again."""
        at = self._at(place.slot)
        if self._words[at] & 0xFFFFFFFF == place.generation:
            self._words[at + 1] = place.generation

    def landed(self, known: Collection[Place]) -> set[Place]:
        """The places, none of these, of values that have landed and whose slots are taken all the same.

        Their row is still to come; or an agent was killed before it freed them, or there never was a row.
        """
        begin = _HEADER // 8
        words = self._words[begin : begin + self._count * _WORDS].tolist()
        found = set()
        for slot in range(self._count):
            taken, freed = words[slot * _WORDS : slot * _WORDS + 2]
            if (taken ^ freed) & 0xFFFFFFFF:
                place = Place(slot, taken >> 32 & 0xFF, taken & 0xFFFFFFFF)
                if place.dtype in _TYPES and place not in known and self._value(begin + slot * _WORDS) is not None:
                    found.add(place)
        return found

    def close(self) -> None:
        """Unmaps the file."""
        self._words.release()
        self._view.release()
        self._map.close()

    def _at(self, slot: int) -> int:
        if slot >= self._count:
            raise LookupError(slot)
        return _HEADER // 8 + slot * _WORDS

    def _value(self, at: int) -> float | None:
        type_ = _TYPES[self._words[at] >> 32 & 0xFF]
        mask = (1 << 8 * type_.size) - 1
        # The second one first: the device writes it last.
        second = self._words[at + 3] & mask if type_.twice else 0
        first = self._words[at + 2] & mask
        if not type_.twice:
            return None if first == type_.pattern else type_.number(first)
        # One that is changed on another stream between its copies has landed, too, when both patterns are gone.
        if first != second and (first == type_.pattern or second == ~type_.pattern & mask):
            return None
        return type_.number(first)
