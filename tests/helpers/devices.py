"""A device, stood in for at the edge: its queue of work ends when the test says so."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from tailrace._log.devices import Pool
from tailrace._log.gpu_values import DeferredValues


class Mark:
    """An event that happens when the test says so."""

    def __init__(self) -> None:
        self.passed = False
        self.error: Exception | None = None

    def query(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.passed


class StandIn:
    """A device whose queue of work ends when the test says so."""

    def __init__(self, *, pinned: bool = True, events: bool = True, obstacle: str | None = None) -> None:
        self.marks: list[Mark] = []
        self._pinned = pinned
        self._events = events
        self._obstacle = obstacle

    def obstacle(self) -> str | None:
        return self._obstacle

    def slots(self, count: int, dtype: Any) -> list[Any] | None:
        return [torch.zeros((), dtype=dtype) for _ in range(count)] if self._pinned else None

    def record(self, device: Any) -> Mark | None:
        if not self._events:
            return None
        self.marks.append(Mark())
        return self.marks[-1]

    def finish(self) -> None:
        for mark in self.marks:
            mark.passed = True


def deferred(values: dict[str, Any], device: StandIn, pool: Pool | None = None) -> DeferredValues:
    """The values of a call, on that device."""
    return DeferredValues(values, pool=pool or Pool(chunk=4), modules=lambda _: device)


class DeviceOfKind(NamedTuple):
    type: str


class Elsewhere(torch.Tensor):
    """A tensor that says that it is on a device."""

    @property
    def device(self) -> Any:  # type: ignore[override]
        return DeviceOfKind("elsewhere")


def elsewhere(value: Any) -> Any:
    return torch.as_tensor(value).as_subclass(Elsewhere)
