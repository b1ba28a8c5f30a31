"""Values on a GPU that the GPU itself writes into shared memory, from where the agent takes them.

A `log()` with such a value has the device copy it behind the work that makes it, into a slot beside this process's
ring, and puts a row on the ring that names the slot. That is all that training has of it: no event, no thread, no wait.
The C of the hot path does it for torch's tensors by itself once there are slots (agent/native/device.h); what else is
on a CUDA device, or comes with values of other kinds, comes by here.

Where there is no CUDA driver, no C, no room, or where a value cannot be copied so (a graph is being captured, no slot
is free, the driver says no), nothing has happened, and the value goes the older way (`gpu_values`).
So do the first ones, until one has been seen to land. `TAILRACE_GPU_SLOTS=0` in the environment of a program leaves all
of them to that.

Thread safety: every function from any thread.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from tailrace._values.numbers import learn_tensors, tensor_fault
from tailrace_agent.ipc import native
from tailrace_agent.ipc.device_slots import DTYPES, Place, SlotsReader, as_ext, make_slots, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Trial", "copied", "on_cuda"]

_NUMPY: Final = {
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "b1": "bool",
    **{f"{kind}{size}": f"{'u' * (kind == 'u')}int{8 * size}" for kind in "iu" for size in (1, 2, 4, 8)},
}
"""Names of types by what `__cuda_array_interface__` calls them, the byte order aside."""
_UNKNOWN_DEVICE: Final = -1


def on_cuda(value: Any) -> bool:
    """Whether a value is on a CUDA device, so that slots are worth having."""
    if hasattr(value, "is_cuda"):
        return value.is_cuda is True
    # JAX's say no stream, and wait for the value before they say where it is: they have a copy of their own.
    return hasattr(type(value), "__cuda_array_interface__") and not hasattr(value, "copy_to_host_async")


class Trial:
    """The slots beside a ring, to be used once a value has been seen to land there.

    Until then values go the older way. So a driver that does not bring them by itself (one that encrypts what leaves
    the device, say, and has the processor decrypt it when that waits for it) loses none.

    Args:
        path: Where the file is to be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slots: native.Slots | None = None
        self._reader: SlotsReader | None = None
        self._place: Place | None = None
        self._begun = False

    def passed(self, value: Any) -> native.Slots | None:
        """The slots, if they may be used from now on; else tries them with this value. Takes half a millisecond once.

        Raises:
            OSError: There is no room, or the driver refuses. It is not asked again.
        """
        if not self._begun:
            self._begun = True  # first: where it fails, it would with each call
            if (slots := _made(self._path)) is not None:
                self._reader, self._slots = SlotsReader(self._path), slots
        slots, reader = self._slots, self._reader
        if slots is None or reader is None:
            return None
        if self._place is None:
            places = copied(slots, {"": value})
            self._place = None if places is None else place_of(places[""])
        if self._place is None or reader.read(self._place) is None:
            return None
        reader.free(self._place)
        self._slots = self._reader = None  # not closed: another thread may be here, too
        return slots


def _made(path: Path) -> native.Slots | None:
    """Slots that are registered with the CUDA driver; None without one."""
    if native.Slots is None or os.environ.get("TAILRACE_GPU_SLOTS") == "0":
        return None
    torch = sys.modules.get("torch")
    if torch is not None and getattr(torch.version, "cuda", None) is None:  # of AMD's, say, with its own streams
        return None
    memory = make_slots(path)
    try:
        slots = native.Slots(memory, _stream_of(torch), _dtypes_of(torch))
    except Exception:
        path.unlink(missing_ok=True)
        raise
    if torch is not None:
        learn_tensors(torch.Tensor)
    return slots


def copied(slots: native.Slots, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Has devices copy these values; what is put into a row in their stead. None: not all of them could be copied.

    Raises:
        Exception: Whatever a foreign tensor raises; nothing has been queued then.
    """
    copies = []
    for value in values.values():
        copy = _described(slots, value)
        if copy is None:
            return None
        copies.append(copy)
    places = slots.queue(copies)
    return None if places is None else dict(zip(values, map(as_ext, places), strict=True))


def _described(slots: native.Slots, value: Any) -> tuple[int, int, int, int] | None:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return None if tensor_fault(value) is not None else slots.describe(value)
    return _described_array(value.__cuda_array_interface__)


def _described_array(about: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """An array of CuPy or Numba. One that does not say on which stream it is being made could be read too early."""
    stream, name = about.get("stream"), _NUMPY.get(about["typestr"][1:])
    if not stream or name is None or about["typestr"][0] == ">" or any(length != 1 for length in about["shape"]):
        return None
    address = int(about["data"][0])
    return (address, DTYPES[name], _UNKNOWN_DEVICE, int(stream)) if 0 < address < 2**64 else None


def _stream_of(torch: Any) -> Any:
    """Gives the stream on which torch works on a device, as the driver knows it."""
    return None if torch is None else torch._C._cuda_getCurrentRawStream


def _dtypes_of(torch: Any) -> dict[Any, int]:
    return {getattr(torch, name): code for name, code in DTYPES.items() if hasattr(torch, name)}
