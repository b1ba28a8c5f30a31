"""A bound for what the slow ways of `log()` cost: above it the busiest names are thinned, and what counts is kept.

The slow ways are that of values on devices and of unusual types, and that of any value while the ring is full, into the
spill file.

For runs with `overhead_budget` alone; all others have the plain `SlowPath`, and the hot path never comes here.

* What a slow call takes is known already: each is timed (`SlowPath.timed`); a row that spills is timed here. Once a
  second the share of the second that they took is compared with the budget. Above it, in two seconds that follow each
  other, of the sets of names that took most only one call in 2, 4, 8, … is logged, 1024 at most. What was thinned stays
  so.
* A call that is left out is still looked at, at less cost. Numbers are read and compared. A tensor on a device is kept
  as it is, without a copy, until the next call that is logged: then the device marks its queue, and a background
  thread reads all of those behind the mark at once. A tensor that was changed in place since, as torch counts it, has
  no value any more; of one that is a view of something large nothing is kept, so it is logged.
* The last value and the first smallest and largest of those that were left out are logged at the end, at their own
  steps and times. So the run's last values, and its best ones, are those of all that it was given.
* All others are dropped, for the reason `thinned to keep overhead_budget`, name by name, in the ledger.

What is held is the process's own: a forked child begins anew, and thins nothing of its parent's runs.

Thread safety: `timed` from any thread, as `SlowPath`; of two threads that log the same names at the same moment, one
more may be logged. What is left out is counted under a lock, which may be entered again by a signal handler. Nothing is
put on the ring under it, and who holds the ring's lock does not wait for it: a finalizer may log at any moment.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import weakref
from time import monotonic_ns, sleep
from time import time_ns as now_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace._background.lane import LANE
from tailrace._log.devices import device_module
from tailrace._log.selection import Nested
from tailrace._log.slow_path import SlowPath
from tailrace._values.numbers import split, tensor_fault, to_number
from tailrace_agent.ipc.reasons import because
from tailrace_agent.ipc.records import Drop, encode
from tailrace_agent.runtime.originals import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Tell = Callable[[str, bool], None]

__all__ = ["ThinningSlowPath", "slow_path"]

_EVERY: Final = 1.0  # seconds
_FEWEST: Final = 10
"""Slow calls in a second, below which no name is busy."""
_MOST: Final = 1024  # one call in so many
_MOST_NAMES: Final = 1000
_MOST_TOLD: Final = 20  # names in the ledger
_ENDS_WITHIN: Final = 10.0  # seconds
_VIEW_OF: Final = 4096  # bytes that a tensor may keep alive


class _At(NamedTuple):
    """A value that was left out."""

    value: float
    step: int
    time_ns: int


class _Left:
    """What of one name was left out: how often, and those that may have to be logged."""

    __slots__ = ("high", "last", "low", "n", "told")

    def __init__(self) -> None:
        self.n = self.told = 0
        self.last: _At | None = None
        self.low: _At | None = None
        self.high: _At | None = None

    def add(self, at: _At) -> None:
        value, step, time_ns = at
        # No tuples: while the ring is full this is done for each value of the loop.
        last, low, high = self.last, self.low, self.high
        if last is None or step > last.step or (step == last.step and time_ns >= last.time_ns):
            self.last = at
        if low is None or value < low.value or (value == low.value and step < low.step):
            self.low = at if value == value else low  # noqa: PLR0124 - NaN alone differs from itself
        if high is None or value > high.value or (value == high.value and step < high.step):
            self.high = at if value == value else high  # noqa: PLR0124

    @property
    def held(self) -> set[_At]:
        """Those that are logged at the end."""
        return {at for at in (self.last, self.low, self.high) if at is not None}


class _Waiting(NamedTuple):
    """A value on a device that was left out, as it was passed."""

    key: str
    value: Any
    version: int | None
    step: int
    time_ns: int


class _Plan:
    """A set of names that come in one call.

    Attributes:
        took: Nanoseconds that its calls took since the last look.
        every: Each how-manieth of its calls is logged.
        left: Calls to leave out until the next one is.
        waiting: Values on devices of those that were left out.
    """

    __slots__ = ("every", "left", "took", "waiting")

    def __init__(self) -> None:
        self.took, self.every, self.left = 0, 1, 0
        self.waiting: list[_Waiting] = []


class ThinningSlowPath(SlowPath):
    """The slow path of a run that has a budget.

    Args:
        *args: As of `SlowPath`.
        budget: Share of the time that the slow calls may take.
        put: Takes a record for the agent.
        tell: Called once, when something is thinned, and at the end, with what to say; with True for the first time.
    """

    def __init__(self, *args: Any, budget: float, put: Callable[[object], None], tell: Tell) -> None:
        super().__init__(*args)
        self._budget, self._put, self._tell = budget, put, tell
        self._share = 0.0
        self._looked, self._took, self._called, self._over = monotonic_ns(), 0, 0, False
        self._calls = self._spill_ns = 0
        self.begin_anew()
        _watch(self)

    def begin_anew(self) -> None:
        """In a forked child: what is held is the parent's."""
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self._left: dict[str, _Left] = {}
        self._named: set[str] = set()
        self._batches: dict[int, list[_Waiting]] = {}
        self._own: set[int] = set()
        self._lock = threading.RLock()
        self._told = self._resting = False

    def timed(self, values: Mapping[str, Any], metrics: Any, step: Any, time_ns: int, error: BaseException) -> None:
        try:
            named = values if metrics is None else {**metrics, **values}
            keys = tuple(named)
            plan = self._plans.get(keys)
        except Exception:  # noqa: BLE001 - metrics that are no mapping, or with names that are none
            return super().timed(values, metrics, step, time_ns, error)
        if plan is None:
            plan = self._planned(keys)
        before = self.took_ns
        if plan.left > 0 and not isinstance(error, Nested) and self._leaves_out(plan, named, step, time_ns):
            plan.left -= 1
            # Not a call of those that the agent sees, but its time counts.
            self.took_ns += now_ns() - time_ns
        else:
            plan.left = plan.every - 1
            super().timed(values, metrics, step, time_ns, error)
            if plan.waiting:
                began = now_ns()
                self._read_later(plan)
                self.took_ns += now_ns() - began
        plan.took += self.took_ns - before
        self._calls += 1
        return None

    def put(self, row: bytes) -> None:
        self._own.add(id(row))
        try:
            super().put(row)
        finally:
            self._own.discard(id(row))

    def spilled(
        self, row: bytes, step: int, time_ns: int, values: Mapping[str, float], put: Callable[[bytes], None]
    ) -> None:
        """A row is to go to the spill file: it does, or is left out."""
        if id(row) in self._own:  # one that has been chosen, by a call that is timed
            return put(row)
        began = monotonic_ns()
        keys = tuple(values)
        plan = self._plans.get(keys) or self._planned(keys)
        if plan.left > 0 and self._hold(plan, values, step, time_ns):
            plan.left -= 1
        else:
            plan.left = plan.every - 1
            put(row)
        took = monotonic_ns() - began
        self._spill_ns += took
        plan.took += took
        self._calls += 1
        return None

    def look(self, now: int) -> None:
        """Compares what the calls took since the last look with the budget; once a second.

        Args:
            now: Nanoseconds of a clock that only goes forward.
        """
        all_ns = self.took_ns + self._spill_ns
        wall, took, called = now - self._looked, all_ns - self._took, self._calls - self._called
        self._looked, self._took, self._called = now, all_ns, self._calls
        plans = list(self._plans.items())
        costs = [(plan.took, keys, plan) for keys, plan in plans]
        for plan in (plan for _, plan in plans):
            plan.took = 0
        over = wall > 0 and called >= _FEWEST and took > self._budget * wall
        if over and self._over:
            self._share = took / wall
            self._thin(sorted(costs, key=lambda cost: -cost[0]), took - self._budget * wall)
        self._over = over
        self._count()

    def rest(self) -> None:
        """The end: logs what is held back, and says what was thinned."""
        with self._lock:
            self._resting = True
        for plan in list(self._plans.values()):
            if plan.waiting:
                self._read_later(plan)
        if self._batches:
            LANE.drain(_ENDS_WITHIN)
        rows: list[bytes] = []
        with self._lock:
            for batch in list(self._batches.values()):  # what a device has not computed by now
                self._take_in(batch, {})
            for key, left in self._left.items():
                for at in sorted(left.held, key=lambda at: at[1:]):
                    rows.append(encode((self._run, at.step, at.time_ns, {key: at.value})))
                    left.n -= 1
                left.last = left.low = left.high = None
        for row in rows:
            self.put(row)
        self._count()
        if self._told:
            self._say(first=False)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _planned(self, keys: tuple[Any, ...]) -> _Plan:
        # Names made by a program would fill the memory.
        return self._plans.setdefault(keys, _Plan()) if len(self._plans) < _MOST_NAMES else _Plan()

    def _leaves_out(self, plan: _Plan, named: Mapping[str, Any], step: Any, time_ns: int) -> bool:
        """Takes note of a call's values without logging them; False where it has to be logged."""
        if type(step) is not int:
            return False
        numbers: dict[str, float] = {}
        waiting: list[_Waiting] = []
        try:
            for key, value in named.items():
                if type(value) is float and type(key) is str:
                    numbers[key] = value
                elif type(key) is str and (kept := _kept(value)) is not None:
                    waiting.append(_Waiting(key, *kept, step, time_ns))
                else:
                    # All kinds of values, names that are none, nested ones: rare, and slower.
                    others, deferred, bad = split({key: value})
                    if deferred or bad:
                        return False
                    numbers |= others
        except Exception:  # noqa: BLE001 - values whose own methods raise
            return False
        return self._hold(plan, numbers, step, time_ns, waiting)

    def _hold(
        self, plan: _Plan, numbers: Mapping[str, float], step: int, time_ns: int, waiting: Sequence[_Waiting] = ()
    ) -> bool:
        """Takes note of a call's values; False where it has to be logged."""
        # A finalizer that logs may have interrupted whoever has the ring's lock: it must not wait for this one.
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._resting or len(self._left) + len(numbers) > _MOST_NAMES:
                return False
            for key, number in numbers.items():
                self._add(key, _At(float(number), step, time_ns))
            plan.waiting += waiting
        finally:
            self._lock.release()
        return True

    def _add(self, key: str, at: _At | None) -> None:
        """One more was left out, with its value where that is known. Under the lock."""
        left = self._left.get(key) or self._left.setdefault(key, _Left())
        left.n += 1
        if at is not None:
            left.add(at)

    def _read_later(self, plan: _Plan) -> None:
        """Has the values on devices read when the devices are so far."""
        batch, plan.waiting = plan.waiting, []
        self._batches[id(batch)] = batch
        try:
            events = _marks(batch)
        except Exception:  # noqa: BLE001 - a driver may raise anything: they are dropped, and counted as such
            self._take_in(batch, {})
            return
        watched = LANE.watch(
            lambda: all(event.query() for event in events),
            lambda: self._take_in(batch, _values(batch)),
            on_error=lambda _: self._take_in(batch, {}),
        )
        if not watched:
            self._take_in(batch, {})

    def _take_in(self, batch: list[_Waiting], values: dict[int, float]) -> None:
        """Compares values that were on devices: those at these places of a batch. Once for each batch."""
        with self._lock:
            if self._batches.pop(id(batch), None) is None:
                return
            for place, each in enumerate(batch):
                value = values.get(place)
                self._add(each.key, None if value is None else _At(value, each.step, each.time_ns))

    def _thin(self, costs: list[tuple[int, tuple[Any, ...], _Plan]], excess: float) -> None:
        for took, _, plan in costs:
            if excess <= 0 or not took:
                break
            if plan.every < _MOST:
                plan.every *= 2
                excess -= took / 2
        if not self._told and any(plan.every > 1 for _, _, plan in costs):
            self._told = True
            self._say(first=True)

    def _say(self, *, first: bool) -> None:
        thinned = sorted(
            ((plan.every, key) for keys, plan in list(self._plans.items()) if plan.every > 1 for key in keys),
            key=lambda each: (-each[0], str(each[1])),
        )
        names = ", ".join(f"{key} (1 in {every})" for every, key in thinned[:10])
        more = f" and {len(thinned) - 10:,} more" if len(thinned) > 10 else ""
        self._tell(
            f"log() took {100 * self._share:.2g} % of the time, and overhead_budget is {100 * self._budget:.2g} %: "
            f"thinned {names}{more}; last values and extremes are kept",
            first,
        )

    def _count(self) -> None:
        """Tells the agent what is dropped by now. What is held may still be logged."""
        counts: dict[str, int] = {}
        with self._lock:
            for key, left in self._left.items():
                if (n := left.n - len(left.held) - left.told) > 0:
                    left.told += n
                    # The ledger is one tag: it has no room for thousands of names.
                    name = key if key in self._named or len(self._named) < _MOST_TOLD else "others"
                    self._named.add(name)
                    counts[name] = counts.get(name, 0) + n
        for name, n in counts.items():
            self._put(Drop(self._run, "metric", because("thinned to keep overhead_budget", name), n))


def _kept(value: Any) -> tuple[Any, int | None] | None:
    """What is kept of a value on a device, with how often it was changed by then; None where that cannot be."""
    try:
        if hasattr(value, "copy_to_host_async"):  # an array of JAX's, which cannot change
            return (value, None) if math.prod(value.shape) == 1 else None
        if value.device.type == "cpu" or tensor_fault(value) is not None:
            return None
        if value.untyped_storage().nbytes() > _VIEW_OF:
            return None
        # With its graph it would keep the whole step's activations alive. It has the same count of changes.
        return value.detach(), value._version
    except Exception:  # noqa: BLE001 - arrays of others; tensors of inference mode count no changes
        return None


def _marks(waiting: list[_Waiting]) -> list[Any]:
    devices = {each.value.device: each.value.device.type for each in waiting if each.version is not None}
    marks = [device_module(kind).record(device) for device, kind in devices.items()]
    return [mark for mark in marks if mark is not None]


def _values(batch: list[_Waiting]) -> dict[int, float]:
    """The values of a batch, by their places, as far as they are to be had. Waits for them, if it has to."""
    found: dict[int, float] = {}
    groups: dict[tuple[Any, Any], list[int]] = {}
    for place, each in enumerate(batch):
        if each.version is None:
            with contextlib.suppress(Exception):  # a deleted buffer
                found[place] = to_number(each.value.item())
        elif each.value._version == each.version:
            groups.setdefault((each.value.device, each.value.dtype), []).append(place)
    for places in groups.values():
        torch: Any = sys.modules["torch"]
        with contextlib.suppress(Exception), torch.no_grad():  # a lost device
            read = torch.stack([batch[place].value.reshape(()) for place in places]).tolist()
            # Once more: one that was changed while it was copied.
            found |= {
                place: float(value)
                for place, value in zip(places, read, strict=True)
                if batch[place].value._version == batch[place].version
            }
    return found


_watched: weakref.WeakSet[ThinningSlowPath] = weakref.WeakSet()
_watching: set[int] = set()
"""Process ids: a forked child has no thread of its parent's."""


def _watch(path: ThinningSlowPath) -> None:
    _watched.add(path)
    if os.getpid() in _watching:
        return
    _watching.add(os.getpid())

    def look() -> None:
        while True:
            sleep(_EVERY)
            for each in list(_watched):
                each.look(monotonic_ns())

    try:
        start_thread(look, "tailrace-budget")
    except RuntimeError:  # no thread to be had: nothing is thinned
        return


def _after_fork_in_child() -> None:
    for path in list(_watched):
        path.begin_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)


def slow_path(*parts: Any, budget: float | None, put: Callable[[object], None], tell: Tell) -> SlowPath:
    """The slow path of a run, with a budget or without. The arguments are those of `ThinningSlowPath`."""
    return SlowPath(*parts) if budget is None else ThinningSlowPath(*parts, budget=budget, put=put, tell=tell)
