"""What NVML lists: every GPU that may be touched, with its MIG instances."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tailrace_agent.sampler.gpu.nvml import DeviceLost, Nvml, QueryFailed, Unsupported
from tailrace_agent.sampler.gpu.visible import Card, Mig, Place

__all__ = ["Listed", "list_cards", "text"]

_MIG_ENABLED: Final = 1


class Listed(NamedTuple):
    """A GPU in NVML's list.

    Attributes:
        card: What it is known by.
        handle: NVML's; None when the GPU is lost.
        migs: The handles of its MIG instances, in the order of `card.migs`.
    """

    card: Card
    handle: Any
    migs: tuple[Any, ...] = ()

    def at(self, place: Place) -> tuple[str, Any]:
        """UUID and handle of the GPU, or of its MIG instance."""
        if place.mig is None or self.card.migs is None:
            return self.card.uuid, self.handle
        return self.card.migs[place.mig].uuid, self.migs[place.mig]


def list_cards(nvml: Nvml) -> list[Listed]:
    """Every GPU, in NVML's order. One that this user or container may not touch has no number in CUDA either.

    Raises:
        NvmlError: NVML cannot even count them.
    """
    count: int = nvml.call("nvmlDeviceGetCount")
    return [found for number in range(count) if (found := _list(nvml, number)) is not None]


def text(nvml: Nvml, function: str, *args: object) -> str:
    """A name, UUID or version; empty when NVML does not report it.

    Raises:
        LibraryGone: Nothing can be queried.
        DeviceLost: This device cannot.
    """
    try:
        return str(nvml.call(function, *args))
    except (Unsupported, QueryFailed, UnicodeDecodeError):
        return ""


def _list(nvml: Nvml, number: int) -> Listed | None:
    try:
        handle = nvml.call("nvmlDeviceGetHandleByIndex", number)
    except Unsupported:  # NO_PERMISSION: a container to which it was not given
        return None
    except (DeviceLost, QueryFailed):
        return Listed(Card(""), None)
    try:
        uuid = text(nvml, "nvmlDeviceGetUUID", handle)
        migs = _migs(nvml, handle)
    except DeviceLost:
        return Listed(Card(""), None)
    if migs is None:
        return Listed(Card(uuid), handle)
    return Listed(Card(uuid, tuple(mig for mig, _ in migs)), handle, tuple(handle for _, handle in migs))


def _migs(nvml: Nvml, handle: Any) -> list[tuple[Mig, Any]] | None:
    """MIG instances and their handles; None when MIG is not enabled."""
    try:
        current, _pending = nvml.call("nvmlDeviceGetMigMode", handle)
        if current != _MIG_ENABLED:
            return None
    except (Unsupported, QueryFailed):
        return None
    try:
        slots: int = nvml.call("nvmlDeviceGetMaxMigDeviceCount", handle)
    except (Unsupported, QueryFailed):
        return []  # not None: with MIG enabled, CUDA shows no GPU as a whole
    return [found for slot in range(slots) if (found := _mig(nvml, handle, slot)) is not None]


def _mig(nvml: Nvml, parent: Any, slot: int) -> tuple[Mig, Any] | None:
    try:
        handle = nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", parent, slot)
        gpu_instance: int = nvml.call("nvmlDeviceGetGpuInstanceId", handle)
        compute_instance: int = nvml.call("nvmlDeviceGetComputeInstanceId", handle)
    except (Unsupported, QueryFailed):
        return None  # mostly an empty slot
    return Mig(text(nvml, "nvmlDeviceGetUUID", handle), gpu_instance, compute_instance), handle
