"""CUDA without a GPU: a driver built with gcc (`nvml/libcuda.c`) that lands values when the test says so, and the
part of torch's edge that `log()` sees of a CUDA tensor. Everything between the two is tailrace's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import struct
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

__all__ = ["Driver", "Tensor", "fake_torch", "load", "why_not"]

_SOURCE = Path(__file__).parents[1] / "nvml" / "libcuda.c"
FORMATS = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "uint8": "B",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "bool": "?",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
}


def why_not() -> str | None:
    """What is missing here, or None."""
    if shutil.which("gcc") is None:
        return "the stand-in for the CUDA driver needs gcc"
    from tailrace_agent.ipc import native

    return None if native.Slots is not None else f"there is no C here: {native.why_not}"


class Driver:
    """The stand-in, loaded into this process as `libcuda.so.1`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def __getattr__(self, name: str) -> int:
        return ctypes.c_int.in_dll(self._library, f"standin_{name}").value

    def set(self, **values: int) -> None:
        for name, value in values.items():
            ctypes.c_int.in_dll(self._library, f"standin_{name}").value = value

    @property
    def last_stream(self) -> int:
        return ctypes.c_void_p.in_dll(self._library, "standin_last_stream").value or 0

    @property
    def waiting(self) -> int:
        return int(self._library.standin_waiting())

    def land(self, most: int = 1 << 20, *, newest: bool = False) -> int:
        """Lands copies that wait; how many."""
        return int(self._library.standin_land(most, int(newest)))

    def device(self, device: int) -> None:
        """The device whose context this thread has; -1 for none."""
        self._library.standin_device(device)

    def anew(self) -> None:
        """As it was when it was loaded, with device 0 current."""
        self.set(held=0, delay_us=0, capturing=0, fails_after=-1, fail_code=0, register_code=0, pushed=0)
        self.land()
        self.device(0)


def load(folder: Path) -> Driver:
    """Builds it in a folder, and loads it."""
    path = folder / "libcuda.so.1"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-pthread", f"-Wl,-soname,{path.name}", str(_SOURCE), "-o", str(path)]
    if not path.exists():
        subprocess.run(command, check=True)
    driver = Driver(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL))
    driver.anew()
    return driver


class Dtype(str):
    """One of torch's dtypes."""

    __slots__ = ()


class _Device(NamedTuple):
    type: str
    index: int


class Tensor:
    """A CUDA tensor of one number, as far as `log()` looks at one. Reading it is a sync, which is counted."""

    syncs = 0
    dtypes: ClassVar = {name: Dtype(name) for name in (*FORMATS, "bfloat16", "complex64")}
    is_cuda, is_cpu = True, False

    def __init__(self, value: Any, dtype: str = "float32", device: int = 0, *, count: int = 1) -> None:
        self.dtype = self.dtypes[dtype]
        self.shape: tuple[int, ...] = () if count == 1 else (count,)
        self._count, self._index, self._negated = count, device, False
        self._memory = ctypes.create_string_buffer(8)
        self.fill_(value)

    @property
    def device(self) -> Any:
        return _Device("cuda", self._index)

    def fill_(self, value: Any) -> None:
        """Changes it in place. Bytes: as they are."""
        packed = value if isinstance(value, bytes) else struct.pack(f"<{FORMATS[self.dtype]}", value)
        self._memory[: len(packed)] = packed  # type: ignore[assignment]

    def numel(self) -> int:
        return self._count

    def is_neg(self) -> bool:
        return self._negated

    def is_complex(self) -> bool:
        return self.dtype == self.dtypes["complex64"]

    def data_ptr(self) -> int:
        return ctypes.addressof(self._memory)

    def get_device(self) -> int:
        return self._index

    def detach(self) -> Tensor:
        return self

    def reshape(self, *_: object) -> Tensor:
        return self

    def clone(self) -> Tensor:
        other = Tensor(0, "uint8")
        other.__dict__.update(self.__dict__)
        other._memory = ctypes.create_string_buffer(self._memory.raw)
        return other

    def item(self) -> Any:
        Tensor.syncs += 1
        return struct.unpack(f"<{FORMATS[self.dtype]}", self._memory.raw[: struct.calcsize(FORMATS[self.dtype])])[0]

    __float__ = item


class _Pinned:
    """Host memory of the older way."""

    dtype: Any = None

    def copy_(self, source: Tensor, *, non_blocking: bool) -> None:
        assert non_blocking
        self.dtype, self._copy = source.dtype, source.clone()

    def item(self) -> Any:
        return self._copy.item()


class _Event:
    def record(self, _: object) -> None:
        pass

    def query(self) -> bool:
        return True


def fake_torch(streams: dict[int, int] | None = None) -> types.ModuleType:
    """A module `torch`: the raw stream of each device, dtypes, and what the older way asks of it."""
    torch: Any = types.ModuleType("torch")
    torch.Tensor = Tensor
    torch.version = types.SimpleNamespace(cuda="13.0", hip=None)
    torch._C = types.SimpleNamespace(_cuda_getCurrentRawStream=lambda index: (streams or {}).get(index, 0))
    torch.inference_mode = torch.no_grad = lambda *_: contextlib.nullcontext()
    torch.empty = lambda count, **_: [_Pinned() for _ in range(count)]
    torch.cuda = types.SimpleNamespace(
        is_current_stream_capturing=lambda: False, Event=_Event, current_stream=lambda _: None
    )
    for name, dtype in Tensor.dtypes.items():
        setattr(torch, name, dtype)
    return torch


def install(folder: Path) -> Driver:
    """For programs of their own: both stand-ins from now on."""
    sys.modules["torch"] = fake_torch()
    return load(folder)
