"""From waiting blocks to requests: pure functions that keep MLflow's limits and count what a request stands for.

A batch holds one run and one kind, since MLflow writes params before metrics and refuses all for one of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.ipc.records import Kind, Point, encode
from tailrace_agent.spool.blocks import Block, decode_rows

__all__ = ["Batch", "Entry", "Twins", "as_logged", "metrics_batch", "texts_batch"]

Entry = Point | tuple[str, str]
"""What is sent: a point, or a `(key, value)` of a param or tag."""

_texts_decoder = msgpack_decoder(dict[str, str])


class Batch(NamedTuple):
    """One request to be made.

    Attributes:
        run: tailrace's id of the run.
        kind: `metric`, `param` or `tag`.
        blocks: Ids of the blocks that it empties.
        entries: What to send.
        merged: Entries of the blocks that are identical to others sent, and need no row of their own.
    """

    run: int
    kind: Kind
    blocks: Sequence[int]
    entries: Sequence[Entry]
    merged: int


_REMEMBERED: Final = 2
"""Batches; of each the last thousand points, which is all of one that MLflow's own way takes."""
_OF_EACH: Final = 1000


class Twins:
    """Finds identical points: MLflow's SQL stores keep one row for equal (key, timestamp, step, value).

    Within a batch, and against the last few batches: one process logs twins one right behind the other, and what
    others log to the same run may come in between.
    """

    def __init__(self) -> None:
        self._recent: deque[set[tuple[object, ...]]] = deque(maxlen=_REMEMBERED)

    def drop(self, points: Iterable[Point]) -> tuple[list[Point], int]:
        """The distinct points, and how many were left out. Does not remember them: see `sent`."""
        seen = set().union(*self._recent)
        distinct: list[Point] = []
        total = 0
        for point in points:
            total += 1
            mark = _mark(point)
            if mark not in seen:
                seen.add(mark)
                distinct.append(point)
        return distinct, total - len(distinct)

    def sent(self, points: Sequence[Point]) -> None:
        """These points are in MLflow now."""
        if points:
            self._recent.append({_mark(point) for point in points[-_OF_EACH:]})


class Answered:
    """Points of one run that MLflow has answered, while others of their batch are still to be sent.

    The next batch may be cut smaller than theirs was, so each point stays until its own batch is settled.
    """

    def __init__(self) -> None:
        self._marks: set[tuple[object, ...]] = set()

    def add(self, points: Iterable[Point]) -> None:
        """These were answered."""
        self._marks.update(map(_mark, points))

    def left(self, points: Iterable[Point]) -> list[Point]:
        """Those that were not."""
        return [point for point in points if _mark(point) not in self._marks]

    def settle(self, points: Iterable[Point]) -> None:
        """These are settled, and never come again."""
        self._marks.difference_update(map(_mark, points))


def _mark(point: Point) -> tuple[object, ...]:
    # NaN equals nothing, not even itself, and would never be found among the points before.
    return ("nan", *point[:1], *point[2:]) if point.value != point.value else point


def metrics_batch(
    blocks: Sequence[Block],
    twins: Twins,
    names: Mapping[str, str],
    steps_before: Mapping[str, int] | None = None,
    kept: Mapping[str, float] | None = None,
) -> Batch:
    """One request from blocks of one run that together keep the limit.

    Args:
        blocks: The blocks.
        twins: What was sent just before.
        names: The name in MLflow of each key.
        steps_before: By name in MLflow: how many steps later than in the blocks points are.
        kept: By name in MLflow: what best values of a run, which are written at step 0, give way to.
    """
    points: Iterable[Point] = (
        Point(names[key], value if value.__class__ is float else float(value), time_ns // 1_000_000, step)
        for block in blocks
        for _, step, time_ns, values in decode_rows(block.body)
        for key, value in values.items()
    )
    if steps_before:
        points = (_later(point, steps_before.get(point.key, 0)) for point in points)
    if kept:
        points = (point if point.step else point._replace(value=kept.get(point.key, point.value)) for point in points)
    distinct, merged = twins.drop(points)
    return Batch(blocks[0].run, "metric", [block.id for block in blocks], distinct, merged)


def _later(point: Point, steps: int) -> Point:
    return point._replace(step=point.step + steps) if steps else point


def as_logged(entry: Entry, steps_before: Mapping[str, int]) -> Entry:
    """An entry of a batch with the step that it had in its block: it is moved again when it is put back."""
    return _later(entry, -steps_before.get(entry.key, 0)) if isinstance(entry, Point) else entry


def texts_batch(blocks: Sequence[Block], names: Mapping[str, str]) -> Batch:
    """One request of params or tags.

    Params never change, so a block that contradicts an earlier one waits for a request of its own, where MLflow can
    refuse it alone. Of tags the last value wins.
    """
    kind = blocks[0].kind
    texts: dict[str, str] = {}
    taken: list[int] = []
    total = 0
    for block in blocks:
        more = {names[key]: value for key, value in _texts_decoder.decode(block.body).items()}
        if kind == "param" and any(texts.get(key, value) != value for key, value in more.items()):
            break  # it, and those behind it, wait for the next request
        texts.update(more)
        total += len(more)
        taken.append(block.id)
    return Batch(blocks[0].run, kind, taken, list(texts.items()), total - len(texts))


def body_of(run: int, entry: Entry, key: str | None = None) -> bytes:
    """One entry as a block's body, for a dead letter that can be put back as it is; `key` is what it was logged as."""
    key = entry[0] if key is None else key
    if isinstance(entry, Point):
        return encode([(run, entry.step, entry.timestamp * 1_000_000, {key: entry.value})])
    return encode({key: entry[1]})


def keys_of(entries: Iterable[Entry]) -> list[tuple[str, int]]:
    """How many entries each key has."""
    return list(Counter(entry[0] for entry in entries).items())
