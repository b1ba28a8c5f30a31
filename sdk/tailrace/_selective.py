"""Selective logging: of the keys that `every` and `min_interval` name, only some values are logged, and the last one.

* `every={"train/*": 10}` logs the 1st, 11th, 21st … value of a key; `min_interval={"*": 1.0}` at most one a second.
  With both, a value has to be due by both. Of several patterns that fit a key, the first one decides.
* Keys of one call that fall under the same rule are counted together, for each set of such keys. In a loop that logs
  the same keys at every step that is the same as key by key, and costs one look instead of one for each key.
* The newest value that was skipped is held, encoded, until a newer one is logged. At the end of the run what is held is
  logged, at its own step and time (`Selection.rest`).
* What is skipped was never accepted: no ledger counts it, and a `kill -9` takes what is held along.

A run without either setting has none of this: its channel holds the bare encoder and the bare ring. With one, the
channel's encoder is `Selection.encoder`, which answers `SKIPPED`, and before the ring stands a gate that lets
everything through but that.

Thread safety: none of it takes a lock. Two threads that log the same keys at the same moment may be counted as one, so
a value more or less is logged; what is logged is whole in any case.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace._values import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["SKIPPED", "Late", "Selection"]

SKIPPED: Final = b""
"""In place of a row's bytes: nothing is to be logged."""

_MOST_SETS: Final = 4096
"""Sets of keys that are remembered; what comes up beyond them is logged as it comes."""

Row = tuple[int, Any, int, dict[str, Any]]


class Late(NamedTuple):
    """A row that was held back with values that are on a device; they are copies."""

    step: Any
    time_ns: int
    values: dict[str, Any]


class _Group:
    """Keys that are logged together under one rule, and how far they are.

    Attributes:
        keys: The keys.
        every: Each how-manieth value is logged.
        interval: Nanoseconds between two that are logged.
        left: Values to skip until the next one is due.
        logged_at: Time of the one that was logged last.
        held: The newest one that was skipped, if none was logged after it.
        parts: The groups that a call's keys fall into, where there are several.
    """

    __slots__ = ("every", "held", "interval", "keys", "left", "logged_at", "parts")

    def __init__(self, keys: tuple[str, ...], every: int = 1, interval: int = 0, parts: Iterable[_Group] = ()) -> None:
        self.keys, self.every, self.interval = keys, every, interval
        self.left = 0
        self.logged_at: float = -math.inf
        self.held: bytes | Late | None = None
        self.parts = tuple(parts)


class Selection:
    """What of a run's values is logged.

    Args:
        every: Pattern of a key to how many of its values one is logged of.
        min_interval: Pattern of a key to seconds between two values.

    Attributes:
        plain: The encoder without a selection, once there is one.
        odd: Takes what the encoder cannot; as `Channel.odd`.
    """

    plain: Callable[[Row], bytes]
    odd: Callable[..., None]

    def __init__(self, every: Mapping[str, int], min_interval: Mapping[str, float]) -> None:
        self._every, self._min_interval = every, min_interval
        self._plans: dict[tuple[str, ...], _Group] = {}
        self._groups: dict[tuple[str, ...], _Group] = {}

    @staticmethod
    def of(every: Mapping[str, int] | None, min_interval: Mapping[str, float] | None) -> Selection | None:
        """The selection that the settings ask for, if any."""
        return Selection(every or {}, min_interval or {}) if every or min_interval else None

    def encoder(self, encode: Callable[[Row], bytes], odd: Callable[..., None]) -> Callable[[Row], bytes]:
        """An encoder that encodes what is to be logged now and answers `SKIPPED` for the rest. In the hot path."""
        self.plain, self.odd = encode, odd
        known, learn, mixed, hold = self._plans.get, self._learn, self._mixed, self._hold

        def choose(row: Row) -> bytes:
            group = known(tuple(row[3])) or learn(row[3])
            if group.parts:
                return mixed(group, row)
            if group.left > 0:
                group.left -= 1
            elif not 0 <= row[2] - group.logged_at < group.interval:  # also when the clock was set back
                group.left, group.logged_at, group.held = group.every - 1, row[2], None
                return encode(row)
            try:
                group.held = encode(row)
            except Exception as error:  # noqa: BLE001 - as in the hot path
                group.held = hold(row, error)
            return SKIPPED

        return choose

    def rest(self) -> list[bytes | Late]:
        """What is held back, and from now on is not any more."""
        held = [group.held for group in self._groups.values()]
        self.forget()
        return [row for row in held if row is not None]

    def forget(self) -> None:
        """Nothing is held back: in a forked child, since it is the parent's."""
        for group in self._groups.values():
            group.held = None

    def _mixed(self, plan: _Group, row: Row) -> bytes:
        """A call whose keys fall under several rules: each part as if it were a call of its own."""
        run, step, now, values = row
        due: dict[str, Any] = {}
        for group in plan.parts:
            part = {key: values[key] for key in group.keys}
            if group.left > 0:
                group.left -= 1
            elif not 0 <= now - group.logged_at < group.interval:
                group.left, group.logged_at, group.held = group.every - 1, now, None
                due.update(part)
                continue
            try:
                group.held = self.plain((run, step, now, part))
            except Exception as error:  # noqa: BLE001
                group.held = self._hold((run, step, now, part), error)
        try:
            return self.plain((run, step, now, due)) if due else SKIPPED
        except Exception as error:  # noqa: BLE001
            self.odd(due, None, step, now, error)  # not the whole call, whose other part is skipped
            return SKIPPED

    def _hold(self, row: Row, error: BaseException) -> bytes | Late | None:
        """A skipped row that the encoder could not take. Values on a device are copied there: they may change."""
        run, step, now, values = row
        numbers, deferred, bad = split(values)
        if bad:
            self.odd(
                {k: v for k, v in values.items() if k not in numbers and k not in deferred}, None, step, now, error
            )
        if deferred:
            return Late(step, now, {**numbers, **{key: _copy(value) for key, value in deferred.items()}})
        return self.plain((run, step, now, numbers)) if numbers else None

    def _learn(self, values: Mapping[Any, Any]) -> _Group:
        """The plan for a set of keys that has not come up before."""
        keys = tuple(values)
        if len(self._plans) >= _MOST_SETS:
            return _Group(keys)
        by_rule: dict[tuple[int, int], list[str]] = {}
        for key in keys:
            by_rule.setdefault(self._rule(key), []).append(key)
        groups = [self._group(tuple(part), *rule) for rule, part in by_rule.items()]
        plan = groups[0] if len(groups) == 1 else _Group(keys, parts=groups)
        return self._plans.setdefault(keys, plan)

    def _group(self, keys: tuple[str, ...], every: int, interval: int) -> _Group:
        return self._groups.setdefault(keys, _Group(keys, every, interval))

    def _rule(self, key: Any) -> tuple[int, int]:
        seconds = _first(self._min_interval, key, 0.0)
        return _first(self._every, key, 1), round(seconds * 1e9)


def _first(patterns: Mapping[str, Any], key: Any, default: Any) -> Any:
    return next((value for pattern, value in patterns.items() if fnmatchcase(str(key), pattern)), default)


def _copy(value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.detach().clone()
    return value.copy() if hasattr(value, "copy") else value
