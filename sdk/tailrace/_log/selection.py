"""Selective logging: of the keys that `every` and `min_interval` name, only some values are logged, and the last one.

* `every={"train/*": 10}` logs the 1st, 11th, 21st … value of a key; `min_interval={"*": 1.0}` at most one a second.
  With both, a value has to be due by both. Of several patterns that fit a key, the first one decides.
* Keys of one call that fall under the same rule are counted together, for each set of such keys. In a loop that logs
  the same keys at every step that is the same as key by key, and costs one look instead of one for each key.
* The newest value that was skipped is held until a newer one is logged. At the end of the run what is held is
  logged, at its own step and time (`Selection.rest`).
* What is skipped was never accepted: no ledger counts it, and a `kill -9` takes what is held. It is encoded at the call
  all the same, so what is held is as it was then, and what is no number is reported at once.
* A process whose end may pass by unseen (a pool's worker, which is terminated) holds nothing: all of its values are
  logged, since the last one could not be.

A run without either setting has none of this: its channel holds the bare encoder and the bare ring. With one, the
channel's encoder is `Selection.encoder`, which puts on the ring what is due, by itself, and always answers `DONE`; in
the place of the ring is a `Gate`, at which that ends. Where the hot path in C was built, that one counts and holds
plain numbers whose keys have a plan, by the same fields (agent/native/selection.h); what is here takes the rest.

Thread safety: none of it takes a lock. Two threads that log the same keys at the same moment may be counted as one, so
a value more or less is logged; what is logged is whole in any case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from tailrace._background.process_end import lasts
from tailrace._values.numbers import NotReady, split
from tailrace_agent.errors import CallError
from tailrace_agent.ipc import native

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable

    from tailrace._log.channel import Channel, Ring, Row
    from tailrace._messages.voice import Voice

__all__ = ["DONE", "Gate", "Nested", "Selection", "log_rest"]

DONE: Final = b""
"""In place of a row's bytes: there is nothing left to be put anywhere."""

_MOST_SETS: Final = 4096
"""Sets of keys that are remembered; what comes up beyond them is logged as it comes."""

# In C these are signed 64-bit words, and so is their distance from the clock.
_FOR_EVER: Final = 2**62
_MOST_OWNERS: Final = 256  # `owners` has one byte for each key


class Nested(Exception):
    """Metrics in a mapping of mappings, which have to be flattened first."""


class Gate:
    """Stands where a channel's ring is; `log` comes to `put_slowly`, always with `DONE`."""

    off, limit = 0, -1
    words: memoryview[int]
    memory: mmap.mmap

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        # A method in C that does nothing with its argument.
        self.put_slowly: Callable[[bytes], None] = deque[bytes](maxlen=0).append

    def put(self, row: bytes) -> None:
        """Takes rows that went another way."""
        # What is logged with a time of its own brings what `encode` gave: `DONE`, which is no row.
        if row:
            self._put(row)


class _Group(native.Group):
    """Keys that are logged together under one rule, and how far they are.

    Attributes:
        keys: The keys.
        every: Each how-manieth value is logged.
        interval: Nanoseconds between two that are logged.
        left: Values to skip until the next one is due; below zero while the interval has not passed.
        logged_at: Time of the one that was logged last.
        held: The newest one that was skipped, if none was logged after it.
        parts: The groups that a call's keys fall into, where there are several.
        owners: For each key the index of its group among them.
    """

    __slots__ = ("keys",)

    def __init__(self, keys: tuple[str, ...], every: int = 1, interval: int = 0, parts: Iterable[_Group] = ()) -> None:
        self.keys, self.every, self.interval = keys, min(every, _FOR_EVER), min(interval, _FOR_EVER)
        self.left = 0
        self.logged_at = -_FOR_EVER
        self.held: bytes | Row | None = None
        self.parts: tuple[_Group, ...] = tuple(parts)
        owner = {key: index for index, part in enumerate(self.parts) for key in part.keys}
        self.owners = bytes(owner.get(key, 0) for key in keys) if len(self.parts) < _MOST_OWNERS else b""

    def passes(self, now: int) -> bool:
        """Whether a value that is due by its count is due by the interval too; if so, it is taken as logged."""
        if 0 <= now - self.logged_at < self.interval:  # a clock that was set back stops nothing
            return False
        self.left, self.logged_at, self.held = self.every - 1, now, None
        return True


class Selection(native.Selector):
    """What of a run's values is logged.

    Args:
        every: Pattern of a key to how many of its values one is logged of.
        min_interval: Pattern of a key to seconds between two values.

    Attributes:
        encode: The encoder without a selection, once there is one.
        chooser: What `encoder` has made.
        ring: The ring itself.
        plans: The plan of each set of keys that has come up.
        names: The same by tuples of keywords as the hot path in C gets them.
        put: Takes what is due.
        slow: Takes what the encoder cannot; as `Channel.slow`.
    """

    put: Callable[[bytes], None]
    slow: Callable[..., None]

    def __init__(self, every: Mapping[str, int], min_interval: Mapping[str, float]) -> None:
        self._every, self._min_interval = every, min_interval
        self.plans: dict[tuple[str, ...], _Group] = {}
        self.names: dict[tuple[str, ...], _Group] = {}
        self._groups: dict[tuple[str, ...], _Group] = {}

    @staticmethod
    def of(every: Mapping[str, int] | None, min_interval: Mapping[str, float] | None) -> Selection | None:
        """The selection that the settings configure, if any."""
        return Selection(every or {}, min_interval or {}) if every or min_interval else None

    def encoder(self, encode: Callable[[Row], bytes], slow: Callable[..., None]) -> Callable[[Row], bytes]:
        """An encoder that puts on the ring what is due, holds the rest, and answers `DONE`. In the hot path."""
        self.encode, self.slow = encode, slow
        # As local names: the closure below is entered with each `log()`.
        known, learn, otherwise, hold = self.plans.get, self._learn, self._due, self._hold

        def choose(row: Row) -> bytes:
            # Keys in another order have a plan, and a count, of their own: to sort them would cost each call.
            group = known(tuple(row[3])) or learn(row[3])
            if group.left <= 0 and otherwise(group, row):
                return DONE
            group.left -= 1
            hold(group, row)
            return DONE

        self.chooser = choose
        return choose

    def gate(self, ring: Ring) -> Gate:
        """Rows go there from now on; what stands in the place of the ring."""
        self.ring, self.put = ring, ring.put
        return Gate(ring.put)

    def rest(self) -> list[bytes | Row]:
        """What is held back, and from now on is not any more. What is not encoded yet may hold anything."""
        # Not those of `plans`: a group may be a part of several of them, and its value would be logged twice.
        held = [group.held for group in list(self._groups.values())]  # at once: threads may bring new keys
        self.forget()
        return [row for row in held if row is not None]

    def forget(self) -> None:
        """Nothing is held back."""
        for group in list(self._groups.values()):
            group.held = None

    def begin_anew(self) -> None:
        """In a forked child: what is held is the parent's, and the child may be one that holds nothing."""
        self.forget()
        # Plans say whether the process holds anything at all, and that differs between parent and child.
        self.plans.clear()
        self.names.clear()
        self._groups.clear()

    def _due(self, group: _Group, row: Row) -> bool:
        """Logs a row if it is due by the interval too, or part by part; whether there is nothing left to hold."""
        if group.parts:
            self._mixed(group, row)
            return True
        if not group.passes(row[2]):
            return False
        self.put(self.encode(row))
        return True

    def _mixed(self, plan: _Group, row: Row) -> None:
        """A call whose keys fall under several rules: each part as if it were a call of its own."""
        run, step, now, values = row
        due: dict[str, Any] = {}
        wrong: CallError | None = None
        for group in plan.parts:
            part = {key: values[key] for key in group.keys}
            if group.left <= 0 and group.passes(now):
                due.update(part)
                continue
            group.left -= 1
            try:
                self._hold(group, (run, step, now, part))
            except CallError as error:  # under `strict`: raised when the other parts are dealt with
                wrong = error
        if due:
            try:
                self.put(self.encode((run, step, now, due)))
            except Exception as error:  # noqa: BLE001
                self.slow(due, None, step, now, error)  # not the whole call, whose other part is skipped
        if wrong is not None:
            raise wrong

    def _hold(self, group: _Group, row: Row) -> None:
        """Holds a row as it is now."""
        try:
            group.held = self.encode(row)
        except Exception as error:  # noqa: BLE001 - as in the hot path
            self._hold_slow(group, row, error)

    def _hold_slow(self, group: _Group, row: Row, error: BaseException) -> None:
        """A row that the encoder could not take. Values on a device are copied there: they may change."""
        run, step, now, values = row
        numbers, deferred, bad = split(values)
        if deferred:
            copies = {key: _copy(value) for key, value in deferred.items()}
            group.held = (run, step, now, {**numbers, **copies})
        else:
            group.held = self.encode((run, step, now, numbers)) if numbers else None
        if bad:  # last, since it raises under `strict`
            known = {*numbers, *deferred}
            self.slow({key: value for key, value in values.items() if key not in known}, None, step, now, error)

    def _learn(self, values: Mapping[Any, Any]) -> _Group:
        """The plan for a set of keys that has not come up before.

        Raises:
            Nested: Some of the values hold others, whose names are not known yet.
        """
        keys = tuple(values)
        if any(isinstance(value, Mapping) and isinstance(key, str) and value for key, value in values.items()):
            raise Nested
        # Keys made by a program (one for each sample, say) would fill the memory.
        if len(self.plans) >= _MOST_SETS:
            return _Group(keys)
        if not lasts():
            # Under no rule: `every` is 1 and `interval` 0, so each value is due.
            return self.plans.setdefault(keys, _Group(keys))
        by_rule: dict[tuple[int, int], list[str]] = {}
        for key in keys:
            by_rule.setdefault(self._rule(key), []).append(key)
        groups = [self._group(tuple(part), *rule) for rule, part in by_rule.items()]
        plan = groups[0] if len(groups) == 1 else _Group(keys, parts=groups)
        return self.plans.setdefault(keys, plan)

    def _group(self, keys: tuple[str, ...], every: int, interval: int) -> _Group:
        # The keys settle the rule, so they alone name the group; calls that bring them among others share its count.
        return self._groups.setdefault(keys, _Group(keys, every, interval))

    def _rule(self, key: Any) -> tuple[int, int]:
        seconds = _first(self._min_interval, key, 0.0)
        return _first(self._every, key, 1), round(seconds * 1e9)


def log_rest(channel: Channel, slow: Callable[..., object], voice: Voice) -> None:
    """Logs what a run's channel holds back, at its end. Never raises: the calls are long past."""
    for held in channel.selection.rest() if channel.selection is not None else ():
        if isinstance(held, bytes):
            channel.put(held)
            continue
        _, step, time_ns, values = held
        try:
            # Which error does not matter to the slow path, so long as it is no `Nested`.
            slow(values, None, step, time_ns, NotReady(None))
        except CallError as error:  # under `strict`
            voice.warn(str(error))


def _first(patterns: Mapping[str, Any], key: Any, default: Any) -> Any:
    return next((value for pattern, value in patterns.items() if fnmatchcase(str(key), pattern)), default)


def _copy(value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.detach().clone()
    return value.copy() if hasattr(value, "copy") else value
