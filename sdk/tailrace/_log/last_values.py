"""The last value of each metric, for a run that is not delivered anywhere.

What this module promises:

* A call with plain numbers costs `log()` one `dict |=` and a comparison; see `log.make_log`.
* Bounded: at most `MOST` names. What comes beyond is counted, not kept.
* Any number of threads may log: whoever walks the values walks a copy.
* Nothing of the training is kept alive: a tensor that can still change is copied at the call, without its graph, and
  without waiting for its device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tailrace._values.numbers import NotANumber, to_number

if TYPE_CHECKING:
    from tailrace._log.channel import Channel
    from tailrace._values.numbers import Split

__all__ = ["MOST", "Latest"]

MOST: Final = 10_000
"""Names of metrics that one run may have."""


class Latest:
    """What the channels of one run write to instead of a ring.

    `log()` adds to `values` by itself and calls `keep` here whenever there is a name that was not there before. One
    value that can change after the call, or that takes a closer look, sends every later call here.

    Args:
        heard: Names whose values are not kept but go out, though the others of their run do not. They are never in
            `values`, so that each of their calls comes to `keep` as a new name does, and the others cost what they did.

    Attributes:
        values: By name: a plain number, or what is read as one at the end.
        left_out: Values that found no room.
    """

    def __init__(self, heard: frozenset[str] = frozenset()) -> None:
        self.heard = heard
        self.values: dict[str, Any] = {}
        self.left_out = 0
        self._channels: list[Channel] = []

    def attach(self, channel: Channel) -> None:
        """Sends a channel's rows here."""
        channel.latest, channel.known, channel.encode = self.values, 0, None
        self._channels.append(channel)

    def keep(self, named: Any, parts: Split) -> dict[str, Any]:
        """Takes over one call's values, sorted by `numbers.split`; those that go out."""
        # `log` has merged the whole call into `values` before it came here: what is bad of it is taken out again.
        # A copy, here and in `numbers`: meanwhile other threads add names of theirs.
        for key in [key for key in self.values.copy() if type(key) is not str] if parts.bad else ():
            self.values.pop(key, None)
        for key, _ in parts.bad:
            self.values.pop(key, None)
        for key in [key for key, value in named.items() if isinstance(value, Mapping)]:
            self.values.pop(key, None)  # its parts are there
        self.values.update(parts.numbers)
        for key, value in parts.deferred.items():
            try:
                self.values[key] = _copied(value)
            except Exception:  # noqa: BLE001 - a lost device, or whatever a foreign class raises
                self.values.pop(key, None)
                self.left_out += 1
        while len(self.values) > MOST:
            # The newest names go: those that were there first stay.
            self.values.popitem()
            self.left_out += 1
        heard = {key: parts.numbers[key] for key in self.heard if key in parts.numbers}
        for key in self.heard:
            self.values.pop(key, None)
        # From now on each call comes here: what is an array or a tensor once will be one again.
        closely = parts.bad or any(hasattr(value, "__setitem__") for value in named.values())
        for channel in self._channels:
            channel.known = len(self.values)
            if closely and channel.encode is None:
                channel.encode = _look_closely
        return heard

    def numbers(self) -> dict[str, float]:
        """All of it as floats; waits for what is still on a device."""
        found = {}
        for key, value in self.values.copy().items():
            try:
                # `item` waits for the device: at the end of a run that is allowed, and nobody else will read it.
                found[str(key)] = to_number(value.item() if hasattr(value, "item") else value)
            except (NotANumber, ValueError, RuntimeError):
                self.left_out += 1
        return found


def _copied(value: Any) -> Any:
    """A scalar on a device, apart from the training that made it; the copy is queued there, not waited for."""
    if hasattr(value, "detach"):
        # Without its graph, which would keep the step's activations alive.
        return value.detach().clone()
    return value.copy() if hasattr(value, "copy") else value


def _look_closely(_: object) -> bytes:
    raise NotANumber("values that may change")
