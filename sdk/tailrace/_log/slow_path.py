"""What becomes of a `log()` call that the fast path could not take: what is good of it is logged all the same.

Such a call has values that are on a device, values or a step that are no numbers, or a step of an unusual type. Values
on a device are copied there without a wait. A CUDA device writes them into shared memory, and the row that names them
goes on the ring at once; from others they go on the ring when they have arrived, in a row of their own.

Thread safety: any thread. The figures that are kept for the run's report may then lack a call in a million.
"""

from __future__ import annotations

from time import time_ns as now_ns
from typing import TYPE_CHECKING, Any

from tailrace._background.lane import LANE
from tailrace._log.faults import Fault, as_step, bad_value, not_named, shown
from tailrace._log.selection import Nested
from tailrace._values.numbers import NotANumber, NotReady, split
from tailrace_agent.errors import CallError
from tailrace_agent.ipc.nested import flat_items
from tailrace_agent.ipc.records import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailrace._log.channel import Channel
    from tailrace._log.last_values import Latest
    from tailrace_agent.ipc import native

__all__ = ["SlowPath"]


class SlowPath:
    """The slow path of one run.

    Args:
        run: tailrace's id of the run.
        reject: Called with what cannot be logged; with True for what turned out after the call.
        latest: Keeps the values of a run that is not delivered; None: they go to the channel.
        slots: Gives the slots beside this process's ring, into which devices write by themselves, if there are any;
            gets a value on a device to try them with.

    Attributes:
        channel: Where the rows go; set before the first call.
        calls: Calls that were timed here; those of which nothing was good are not.
        took_ns: Nanoseconds that they took, all together, from their own time stamp on.
        halves: Rows that came later than another row of the same call.
    """

    channel: Channel

    def __init__(
        self,
        run: int,
        reject: Callable[[list[Fault], bool], None],
        latest: Latest | None,
        slots: Callable[[object], native.Slots | None] | None = None,
    ) -> None:
        self._run, self._reject, self._latest, self._slots = run, reject, latest, slots
        self.calls = self.took_ns = self.halves = 0

    def timed(self, values: Mapping[str, Any], metrics: Any, step: Any, time_ns: int, error: BaseException) -> None:
        """As `take`, for a call that is under way and has the time of its beginning; as `Channel.slow` wants it."""
        if self.take(values, metrics, step, time_ns, error):
            self.calls += 1
            self.took_ns += now_ns() - time_ns

    def put(self, row: bytes) -> None:
        """Puts a row on the ring."""
        self.channel.put(row)

    def rest(self) -> None:
        """The end: logs what is held back; here nothing is."""

    def take(self, values: Mapping[str, Any], metrics: Any, step: Any, time_ns: int, error: BaseException) -> bool:
        """Logs what is good of a call, and rejects the rest; whether there was something for the ring."""
        # A selection counts by name, and the names of nested values are known only once they are flat.
        if isinstance(error, Nested):
            return self._select(dict(flat_items(values if metrics is None else {**metrics, **values})), step, time_ns)
        faults: list[Fault] = []
        try:
            parts = split(values if metrics is None else {**metrics, **values})
        except Exception:  # noqa: BLE001 - metrics that are no mapping, or whose own methods raise
            faults.append(not_named(metrics, step))
            # The keywords of the call are good all the same.
            parts = split(values)
            if isinstance(metrics, str) and not values:  # what stands in the place of the step is its value
                self._reject(faults, False)
                return False
        numbers, deferred, bad = parts
        # Before the step is looked at: nothing is kept of it here, and a strange one is no fault.
        if self._latest is not None:
            heard = self._latest.keep(values if faults or metrics is None else {**metrics, **values}, parts)
            # Without a step nobody could tell which it is: the calls of such a run are not counted.
            if heard and type(step) is int:
                self.put(encode((self._run, step, now_ns(), heard)))
            self._reject([*faults, *map(bad_value, bad)], False)
            return False
        try:
            # None where it came by a closed channel: the step is counted by the run that the call has come to.
            step = next(self.channel.steps) if step is None else as_step(step)
        except (NotANumber, NotReady, TypeError, ValueError, OverflowError):
            n = len(numbers) + len(deferred) + len(bad)
            self._reject([*faults, Fault(f"step {shown(step)} is no integer", "step is no integer", n)], False)
            return False
        if deferred and (places := self._copied(deferred)) is not None:
            self.put(encode((self._run, step, time_ns, {**numbers, **places})))
            self._reject([*faults, *map(bad_value, bad)], False)
            return True
        # In a row of its own: what is ready does not wait for what is still on a device.
        if numbers:
            self.put(encode((self._run, step, time_ns, numbers)))
        if deferred:
            bad += self._defer(deferred, step, time_ns, half=bool(numbers))
        self._reject([*faults, *map(bad_value, bad)], False)
        return bool(numbers or deferred)

    def _select(self, values: dict[Any, Any], step: Any, time_ns: int) -> bool:
        """Nested metrics of a run that logs only some of its values: once more, by the names that they have there."""
        encode = self.channel.encode
        assert encode is not None
        try:
            encode((self._run, step, time_ns, values))
        except CallError:
            raise
        except Exception as error:  # noqa: BLE001 - as in the hot path
            return self.take(values, None, step, time_ns, error)
        return True

    def _copied(self, deferred: dict[str, object]) -> dict[str, object] | None:
        """Has devices write these values into slots; what stands for them in a row, or None where that cannot be."""
        from tailrace._log.device_slots import copied, on_cuda

        try:
            if self._slots is None or not all(map(on_cuda, deferred.values())):
                return None
            slots = self._slots(next(iter(deferred.values())))
            return None if slots is None else copied(slots, deferred)
        except Exception:  # noqa: BLE001 - whatever a foreign class raises when it is asked: it is the older way's
            return None

    def _defer(self, deferred: dict[str, object], step: int, time_ns: int, *, half: bool) -> list[tuple[str, str]]:
        """Values that are on a device: copied without a sync now, put on the ring when they have arrived.

        Returns what is known to be bad at once.
        """
        from tailrace._log.gpu_values import DeferredValues

        values = DeferredValues(deferred)
        # What is bad by now is reported by the caller; `numbers` may add to the list later.
        known = list(values.bad)

        def done() -> None:
            numbers = values.numbers()
            if numbers:
                self.halves += half
                self.put(encode((self._run, step, time_ns, numbers)))
            self._reject([bad_value(entry) for entry in values.bad[len(known) :]], True)

        def failed(error: BaseException) -> None:
            self._reject([Fault(f"values on a device were lost: {error}", "device failed", under_way)], True)

        # After `_take`: what was bad at once is not under way, and would be counted twice.
        under_way = len(values)
        if under_way and not LANE.watch(values.ready, done, on_error=failed):
            self._reject([Fault("too many values on a device are waiting", "too many waiting", under_way)], True)
        return known
