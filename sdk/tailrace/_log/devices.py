"""The interface to an accelerator: all that the deferred copy of a tensor needs of torch's device modules.

One `DeviceModule` stands for one kind of device (`cuda`, `xpu`, `mps`, …). Tests put a stand-in here and nowhere else.

Thread safety: device modules are stateless; `Pool` is lock-free and may be used from any thread, also from a signal
handler.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import Any, Final, Protocol

__all__ = ["DeviceModule", "Event", "Pool", "TorchDeviceModule", "device_module", "relax_capture"]

_PINNED: Final = frozenset({"cuda", "xpu"})
"""Kinds of devices that copy to pinned host memory on a stream."""


class Event(Protocol):
    """A mark in a device's queue of work."""

    def query(self) -> bool:
        """Whether everything before the mark is done. Does not wait."""


class DeviceModule(Protocol):
    """One kind of device."""

    def obstacle(self) -> str | None:
        """Why nothing may be put into the device's queue now (a CUDA graph is being captured), or None."""

    def slots(self, count: int, dtype: Any) -> list[Any] | None:
        """`count` 0-d host tensors that the device can write to on its own, or None where there is no such memory."""

    def record(self, device: Any) -> Event | None:
        """Marks the current end of the device's current stream; None where the device has no events."""


class TorchDeviceModule:
    """A device module of torch (`torch.cuda`, `torch.xpu`, `torch.mps`).

    Args:
        kind: `device.type` of the tensors.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    @property
    def _module(self) -> Any:
        return getattr(sys.modules["torch"], self._kind, None)

    def obstacle(self) -> str | None:
        # A copy that is put into the stream now would become a part of the graph, and run with each replay.
        capturing = getattr(self._module, "is_current_stream_capturing", None)
        if capturing is not None and capturing():
            return "a CUDA graph is being captured: log it outside of the graph"
        return None

    def slots(self, count: int, dtype: Any) -> list[Any] | None:
        if self._kind not in _PINNED:
            return None
        torch: Any = sys.modules["torch"]
        # Memory made under inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            buffer = torch.empty(count, dtype=dtype, device="cpu", pin_memory=True)
            return [buffer[index] for index in range(count)]

    def record(self, device: Any) -> Event | None:
        module = self._module
        # torch.mps has it one level deeper: `torch.mps.event.Event`.
        make = getattr(module, "Event", None) or getattr(getattr(module, "event", None), "Event", None)
        if make is None:
            return None
        event = make()
        stream = getattr(module, "current_stream", None)
        # torch.mps has one stream, and no `current_stream`.
        if stream is None:
            event.record()
        else:
            event.record(stream(device))
        return event  # type: ignore[no-any-return]


def device_module(kind: str) -> DeviceModule:
    """The module for devices of this `device.type`."""
    return TorchDeviceModule(kind)


class Pool:
    """Host memory for single numbers, kept for the next call.

    Slots are 0-d tensors, one stack of free ones per kind of device and dtype, so that a copy needs no conversion on
    the device. A slot that is taken and never given back is lost to the pool, and never reused while a copy into it
    may be under way.

    Args:
        chunk: Slots to allocate when none is free. Pinning memory takes the driver tens of microseconds and more.
    """

    def __init__(self, chunk: int = 256) -> None:
        self._chunk = chunk
        self._free: dict[tuple[str, Any], deque[Any]] = {}
        self.allocated = 0

    def take(self, kind: str, dtype: Any, module: DeviceModule) -> Any | None:
        """A free slot, or None where the device has no pinned memory."""
        # `setdefault`, `pop` and `append` are one step each under the GIL: two callers never get one slot.
        free = self._free.setdefault((kind, dtype), deque())
        try:
            return free.pop()
        except IndexError:
            fresh = module.slots(self._chunk, dtype)
        if fresh is None:
            return None
        # Two threads that find none free both allocate: some slots too many, and no lock.
        self.allocated += len(fresh)
        slot = fresh.pop()
        free.extend(fresh)
        return slot

    def give(self, kind: str, slot: Any) -> None:
        """Takes back a slot whose copy is done and whose number has been read."""
        self._free.setdefault((kind, slot.dtype), deque()).append(slot)


_relaxed = threading.local()


def relax_capture() -> None:
    """Lets the calling thread query CUDA events while another thread captures a CUDA graph.

    Without it such a query fails and breaks the capture of the training thread (`capture_error_mode="global"`, the
    default). The setting belongs to the calling thread alone: call it in a background thread only. Once per thread;
    does nothing where the CUDA runtime is not a shared library.
    """
    if getattr(_relaxed, "done", False):
        return
    # First: where it fails it would fail with each poll.
    _relaxed.done = True
    try:
        import ctypes

        # By its path: pip's copy of the runtime is not on the loader's search path, and another copy is not torch's.
        path = _loaded_library("libcudart")
        if path is not None:
            thread_local_mode = ctypes.c_int(1)  # cudaStreamCaptureModeThreadLocal
            ctypes.CDLL(path).cudaThreadExchangeStreamCaptureMode(ctypes.byref(thread_local_mode))
    # OSError: no /proc (macOS). AttributeError: an older runtime, without that call.
    except (OSError, AttributeError, ImportError):
        return


def _loaded_library(name: str) -> str | None:
    """The path of a shared library that this process has loaded."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:  # noqa: PTH123 - no pathlib here
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if name in path.rpartition("/")[2]:
                return "/" + path
    return None
