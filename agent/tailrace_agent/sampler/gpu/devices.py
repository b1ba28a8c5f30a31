"""The GPUs that the training process sees, as a list that outlives what happens to the driver.

What this module promises:

* A GPU keeps its visible index: one that is lost leaves a gap and is found again by its UUID.
* Lost GPUs are looked for by opening NVML anew, after 10 seconds, then 20, up to 5 minutes, while the others go on.
* What a GPU does not support is not queried again, until NVML is opened anew.
* Each of these is reported once.

It works on one thread, the sampler's.
"""

from __future__ import annotations

from typing import Any, Final

from tailrace_agent.log import Log
from tailrace_agent.sampler.gpu.listing import Listed, list_cards, text
from tailrace_agent.sampler.gpu.nvml import DeviceLost, Nvml, NvmlError, QueryFailed, Unsupported
from tailrace_agent.sampler.gpu.visible import Place, hides_all, visible
from tailrace_agent.sampler.source import SourceGone

__all__ = ["Device", "Gpus"]

_FIRST_DELAY: Final = 10.0  # seconds; NVML is opened anew for it, which closes it for all GPUs
_LONGEST_DELAY: Final = 300.0
_PROBES: Final = ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUUID")
_REFUSALS: Final = (3, 4, 13)
"""What a field of `nvmlDeviceGetFieldValues` returns when it will never have a value: see `nvml`."""


class Device:
    """One visible GPU or MIG instance.

    Attributes:
        index: Its visible index.
        place: Where NVML lists it.
        uuid: What it is known by across restarts of the driver; empty when the driver does not report it.
        handle: NVML's; None while it is lost.
        failed: A query failed since this was set to False.
        failures: Samples in a row in which a query failed and none was answered.
        refused: Queries that it does not support.
    """

    def __init__(self, index: int, place: Place, uuid: str, handle: Any) -> None:
        self.index, self.place, self.uuid, self.handle = index, place, uuid, handle
        self.failed = False
        self.failures = 0
        self.refused: set[tuple[object, ...]] = set()

    @property
    def key(self) -> object:
        """Distinguishes it from all others, whatever its index."""
        return self.uuid or self.place

    @property
    def prefix(self) -> str:
        """What the names of its metrics begin with."""
        return f"gpu_{self.index}_"

    @property
    def is_mig(self) -> bool:
        """Whether it is a MIG instance, of which NVML reports the memory and little else."""
        return self.place.mig is not None


class Gpus:
    """The visible GPUs.

    Args:
        visible_devices: `CUDA_VISIBLE_DEVICES` of the training process; None when it is not set.
        log: Where operators read.

    Attributes:
        devices: By visible index, the lost ones included.
    """

    def __init__(self, visible_devices: str | None, log: Log) -> None:
        self._visible_devices, self._log = visible_devices, log
        self._nvml = Nvml()
        self._cards: set[str] = set()
        self._lost: set[int] = set()
        self._reported: set[tuple[object, ...]] = set()
        self._delay = _FIRST_DELAY
        self._retry_at: float | None = None
        self.devices: list[Device] = []

    def ready(self, now: float) -> list[Device]:
        """Opens NVML where it is not open, looks for lost GPUs when it is time to; those that can be queried.

        Raises:
            SourceGone: There is none.
        """
        if hides_all(self._visible_devices):
            raise SourceGone("CUDA_VISIBLE_DEVICES shows no GPU")
        try:
            if not self._nvml.is_open:
                self._open()
            elif self._time_to_look(now):
                # NVML lists devices only when it is initialised, so it has to be closed to find one again.
                self._nvml.close()
                self._open()
        except NvmlError as error:
            self.close()
            raise SourceGone(str(error)) from None
        if not self.alive():
            self.close()
            raise SourceGone("every GPU is lost" if self.devices else "no GPU is visible")
        return self.alive()

    def alive(self) -> list[Device]:
        """Those that can be queried; none while NVML is not open."""
        return [device for device in self.devices if device.handle is not None] if self._nvml.is_open else []

    def query(self, device: Device, function: str, *args: object, or_else: str | None = None) -> Any:
        """What NVML answers about a device, or None.

        Args:
            device: One of `devices`.
            function: pynvml's.
            *args: Its arguments after the handle.
            or_else: An older function for drivers that do not know the first.

        Raises:
            LibraryGone: Nothing can be queried any more.
        """
        query = (function, *args)
        if device.handle is None:
            return None
        if query not in device.refused:
            try:
                return self._nvml.call(function, device.handle, *args)
            except (DeviceLost, QueryFailed) as error:
                # A driver may report a loss from one function while the GPU works: another one decides.
                if isinstance(error, DeviceLost) and not self._answers(device, function):
                    self.lose(device, str(error))
                    return None
                device.failed = True
                self._report_once("system monitor: a GPU does not answer a query", device, function, error.code)
            except Unsupported as error:
                device.refused.add(query)
                if or_else is None:
                    self._report_once("system monitor: a GPU does not support a query", None, function, error.code)
        if query in device.refused and or_else is not None:
            return self.query(device, or_else, *args)
        return None

    def query_counters(self, device: Device, fields: tuple[tuple[int, int], ...]) -> list[int | None]:
        """The values of several counters of `nvmlDeviceGetFieldValues`.

        Args:
            device: One of `devices`.
            fields: Field ids with their scope.

        Raises:
            LibraryGone: Nothing can be queried any more.
        """
        values = self.query(device, "nvmlDeviceGetFieldValues", fields)
        if values is None:
            return [None] * len(fields)
        if all(value.nvmlReturn in _REFUSALS for value in values):
            # The call itself succeeds, with an error for each field, so `query` has not noticed.
            device.refused.add(("nvmlDeviceGetFieldValues", fields))
        return [value.value.ullVal if value.nvmlReturn == 0 else None for value in values]

    def text(self, function: str, device: Device | None = None) -> str:
        """A name or version; empty when NVML does not report it, or is not open."""
        try:
            return text(self._nvml, function, *([] if device is None else [device.handle]))
        except NvmlError:
            return ""

    def lose(self, device: Device, reason: str) -> None:
        """Gives a device up until NVML is opened anew."""
        device.handle, device.failures = None, 0
        if device.index not in self._lost:
            self._lost.add(device.index)
            self._log.warning("system monitor: a GPU is lost", gpu=device.index, uuid=device.uuid, reason=reason)

    def close(self) -> None:
        """Shuts NVML down; `ready` opens it again. The devices are still known."""
        self._nvml.close()

    def _answers(self, device: Device, function: str) -> bool:
        """Whether a GPU is there, although it was reported as lost: checked by another function."""
        try:
            self._nvml.call(next(probe for probe in _PROBES if probe != function), device.handle)
        except DeviceLost:
            return False
        except (QueryFailed, Unsupported):
            pass
        return True

    def _time_to_look(self, now: float) -> bool:
        """Whether to look for lost GPUs, at growing intervals."""
        if not self._lost:
            self._delay, self._retry_at = _FIRST_DELAY, None
        elif self._retry_at is None:
            self._retry_at = now + self._delay
        elif now >= self._retry_at:
            self._delay, self._retry_at = min(self._delay * 2, _LONGEST_DELAY), None
            return True
        return False

    def _open(self) -> None:
        self._nvml.open()
        listed = list_cards(self._nvml)
        cards = {found.card.uuid for found in listed} - {""}
        # No card that was there is missing, so NVML numbers them as it did; new ones may have come.
        if self._cards <= cards:
            self._cards = cards
            places = visible(self._visible_devices, [found.card for found in listed])
            self.devices = [Device(index, place, *listed[place.card].at(place)) for index, place in enumerate(places)]
        else:
            self._find_again(listed)
        for device in self.devices:
            if device.handle is None:
                self.lose(device, "not found by nvmlInit")
            elif device.index in self._lost:
                self._lost.remove(device.index)
                self._log.info("system monitor: a GPU is back", gpu=device.index, uuid=device.uuid)

    def _find_again(self, listed: list[Listed]) -> None:
        """With a GPU missing from NVML's list, its numbers may mean others than they did: UUIDs decide."""
        handles: dict[object, Any] = {}
        for card, found in enumerate(listed):
            places = [Place(card), *(Place(card, mig) for mig in range(len(found.migs)))]
            handles.update((uuid or place, handle) for place in places for uuid, handle in [found.at(place)])
        for device in self.devices:
            device.handle = handles.get(device.key)
            device.refused.clear()  # the driver may have been updated meanwhile

    def _report_once(self, event: str, device: Device | None, function: str, code: str) -> None:
        """What one GPU does not support, none of its model does: that is reported once for all, failures for each."""
        index = None if device is None else device.index
        if (index, function, code) not in self._reported:
            self._reported.add((index, function, code))
            self._log.info(event, query=function, reason=code, **({} if index is None else {"gpu": index}))
