"""Numbers that are still on an accelerator when `log()` is called, and how they come home without a wait.

At the call, each tensor is copied to pinned host memory on its device's current stream, without a sync: the copy is
queued behind the work that makes the value, and before any later in-place change of it. One event per device marks
the end of the copies. A background thread polls the events, and reads the numbers when they are there.

Where a device has no such copy (MPS), the tensor is cloned on the device at the call and read in the background. A
JAX array starts its own copy to the host at the call; it cannot change, but a donated one is gone and is reported.

Thread safety: one thread makes a `DeferredValues`; one other may call `ready` and `numbers`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace._log.devices import DeviceModule, Event, Pool, device_module, relax_capture
from tailrace._values.numbers import NotANumber, array_fault, name_of, tensor_fault, to_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["DeferredValues"]

_POOL: Final = Pool()


class _HostCopy(NamedTuple):
    """A copy on its way to a slot of the pool."""

    kind: str
    slot: Any


class _DeviceClone(NamedTuple):
    """A copy that stays on the device until it is read."""

    tensor: Any


class _ForeignArray(NamedTuple):
    """An array of another library, with its own way to check whether it is ready."""

    array: Any


class DeferredValues:
    """The values of one `log()` call that were not ready.

    The constructor never raises and never waits for a device; what is no single number is in `bad` when it returns.

    Args:
        values: Name to tensor, as `numbers.split` gives them.
        pool: Pinned memory; the process's own when None.
        modules: Gives the module for a kind of device; torch's own when None.

    Attributes:
        bad: `(key, reason)` of values that cannot be logged. `numbers` may add to it.

    Example:
        >>> deferred = DeferredValues({"loss": loss})  # a CUDA tensor
        >>> loss.zero_()  # changes nothing of what is logged
        >>> deferred.ready()
        True
        >>> deferred.numbers()
        {'loss': 0.25}
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        pool: Pool | None = None,
        modules: Callable[[str], DeviceModule] | None = None,
    ) -> None:
        self.bad: list[tuple[str, str]] = []
        self._pool = _POOL if pool is None else pool
        self._module_of = device_module if modules is None else modules
        self._modules: dict[str, DeviceModule] = {}
        self._held: dict[str, _HostCopy | _DeviceClone | _ForeignArray] = {}
        self._events: list[Event] = []
        self._numbers: dict[str, float] | None = None
        # Who makes it is the training thread as a rule: its capture mode is not to be changed (`relax_capture`).
        self._caller = threading.get_ident()
        self._failure: str | None = None
        devices: dict[Any, str] = {}
        for key, value in values.items():
            self._take(key, value, devices)
        for device, kind in devices.items():
            self._mark(device, kind)

    def __len__(self) -> int:
        """How many values are under way."""
        return len(self._held)

    def _take(self, key: str, value: Any, devices: dict[Any, str]) -> None:
        try:
            if hasattr(value, "numel") and hasattr(value, "is_complex"):
                self._held[key] = self._copy(value, devices)
            else:
                self._held[key] = _start_foreign(value)
        except NotANumber as error:
            self.bad.append((key, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, it must not reach training
            self.bad.append((key, _failed(value, error)))

    def _copy(self, tensor: Any, devices: dict[Any, str]) -> _HostCopy | _DeviceClone:
        # Before anything is queued on the device: a refused value leaves no copy behind.
        reason = tensor_fault(tensor)
        kind = tensor.device.type
        module = self._modules.get(kind) or self._modules.setdefault(kind, self._module_of(kind))
        reason = reason or module.obstacle()
        if reason is not None:
            raise NotANumber(reason)
        # A copy with its graph would keep the whole step's activations alive.
        source = tensor.detach()
        slot = self._pool.take(kind, source.dtype, module)
        if slot is None:
            # A clone is queued as well: without an event behind it `ready` is True at once, and `numbers` waits.
            devices[tensor.device] = kind
            return _DeviceClone(source.clone())
        # A slot has no dimensions; the value may have some of length 1.
        slot.copy_(source.reshape(()), non_blocking=True)
        devices[tensor.device] = kind
        return _HostCopy(kind, slot)

    def _mark(self, device: Any, kind: str) -> None:
        try:
            event = self._modules[kind].record(device)
        except Exception as error:  # noqa: BLE001 - without its event a copy cannot be trusted
            self._failure = f"{device} took no event: {type(error).__name__}: {error}"
            return
        if event is not None:
            self._events.append(event)

    def ready(self) -> bool:
        """Whether `numbers` would find everything in place. Does not wait, does not raise.

        When a device has failed, this is True, and `numbers` reports it.
        """
        # A drain without a thread polls on the caller, and there the mode stays as it is.
        if threading.get_ident() != self._caller and self._events:
            relax_capture()
        try:
            return all(event.query() for event in self._events) and all(
                held.array.is_ready()
                for held in self._held.values()
                if isinstance(held, _ForeignArray) and hasattr(held.array, "is_ready")
            )
        except Exception as error:  # noqa: BLE001 - a lost device must end the wait, not the thread
            self._failure = f"the device failed: {type(error).__name__}: {error}"
            return True

    def numbers(self) -> dict[str, float]:
        """The values, once `ready` was True; the pinned memory goes back to the pool.

        Returns:
            Name to number; what could not be read is in `bad` instead. The same again when called again.
        """
        if self._numbers is None:
            # Taken out first: whatever is read twice would give its slot to the pool twice.
            held, self._held = self._held, {}
            self._numbers = {}
            for key, item in held.items():
                self._read(key, item, self._numbers)
        return self._numbers

    def _read(self, key: str, item: _HostCopy | _DeviceClone | _ForeignArray, numbers: dict[str, float]) -> None:
        if self._failure is not None:
            # The slot is not given back: the copy into it may still be under way.
            self.bad.append((key, self._failure))
            return
        try:
            numbers[key] = _number(item)
        except NotANumber as error:
            self.bad.append((key, str(error)))
        except Exception as error:  # noqa: BLE001 - a deleted buffer, a lost device: the value is bad, the rest is not
            # The last field of each kind is the value itself.
            self.bad.append((key, _failed(item[-1], error)))
        if isinstance(item, _HostCopy):
            self._pool.give(item.kind, item.slot)


def _start_foreign(value: Any) -> _ForeignArray:
    reason = array_fault(value) if hasattr(value, "shape") else f"{name_of(value)} is no number"
    if reason is not None:
        raise NotANumber(reason)
    if hasattr(value, "copy_to_host_async"):
        # JAX's arrays cannot change, so the array itself is kept, and no copy on the device is made.
        value.copy_to_host_async()
        return _ForeignArray(value)
    # CuPy's arrays can be changed in place, by the next step for instance.
    return _ForeignArray(value.copy())


def _number(item: _HostCopy | _DeviceClone | _ForeignArray) -> float:
    if isinstance(item, _HostCopy):
        return float(item.slot.item())
    if isinstance(item, _DeviceClone):
        return float(item.tensor.item())
    array = item.array
    return to_number(array.item() if hasattr(array, "item") else float(array))


def _failed(value: object, error: Exception) -> str:
    return f"{name_of(value)}: {type(error).__name__}: {error}"
