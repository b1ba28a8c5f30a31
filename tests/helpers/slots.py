"""The training process's end of slots, and the device's, without C: values land when the test says so."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from tailrace_agent.ipc.device_slots import DTYPES, Place, as_ext, make_slots

FIRST, WORDS = 512, 4
PATTERNS = {"float16": 0xFD5A, "bfloat16": 0xFF95, "float32": 0xFFA5C3E1, "float64": 0xFFF5C3E1D2B4A697}
INTEGER = 0x5AA55AA55AA55AA5
CODES = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "bool": "?",
    "uint8": "B",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
}


class Device:
    """Slots in a file, and what a device writes into them."""

    def __init__(self, path: Path, count: int = 16) -> None:
        self.memory: mmap.mmap = make_slots(path, count)
        self.words = memoryview(self.memory).cast("Q")
        self.count = count

    def is_free(self, slot: int) -> bool:
        at = FIRST + slot * WORDS
        return self.words[at] & 0xFFFFFFFF == self.words[at + 1] & 0xFFFFFFFF

    def take(self, dtype: str = "float32", slot: int | None = None) -> Place:
        """As agent/native/device.h does it; without a slot, the first that is free."""
        slot = next(each for each in range(self.count) if self.is_free(each)) if slot is None else slot
        at = FIRST + slot * WORDS
        generation = (self.words[at] + 1) & 0xFFFFFFFF
        pattern = PATTERNS.get(dtype, INTEGER)
        self.words[at + 2], self.words[at + 3] = pattern, ~pattern & 2**64 - 1
        self.words[at] = generation | DTYPES[dtype] << 32
        return Place(slot, DTYPES[dtype], generation)

    def land(self, place: Place, value: Any, *, copies: int = 2) -> None:
        """The device has come to it: a number, or the bytes of one."""
        dtype = next(name for name, code in DTYPES.items() if code == place.dtype)
        bits = value if isinstance(value, bytes) else struct.pack(f"<{CODES[dtype]}", value)
        at = 8 * (FIRST + place.slot * WORDS + 2)
        for copy in range(copies if dtype in CODES and dtype[0] in "iub" else 1):
            self.memory[at + 8 * copy : at + 8 * copy + len(bits)] = bits

    def close(self) -> None:
        self.words.release()
        self.memory.close()


def ext(place: Place) -> Any:
    """As it stands in a row."""
    return as_ext(struct.pack("<HBxI", *place))
