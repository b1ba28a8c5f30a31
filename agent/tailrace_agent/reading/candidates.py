"""What a person may have meant: the runs that one name fits, and the name nearest to one that fits nothing.

A run is identified by the beginning of its id, its status and age, and the params in which it differs from the others.

Pure functions over plain data; no I/O.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tailrace_agent.settings.units import ago

__all__ = ["MOST", "Candidate", "fits_several", "nearest", "newest_first", "newest_taken", "shortest_ids"]

MOST: Final = 100
"""Candidates that are worth being looked for and counted; what is beyond them is "more than"."""
_SHORT: Final = 8
_SHOWN: Final = 5
_PARAMS: Final = 4
_CHARACTERS: Final = 40


class Candidate(NamedTuple):
    """A run that fits.

    Attributes:
        id: MLflow's id, or tailrace's where MLflow does not have the run yet.
        name: Its name.
        status: MLflow's word.
        started: Seconds since the epoch.
        params: As far as they are known.
        store: Where it is, for people; shown where the candidates are not all in one.
    """

    id: str
    name: str
    status: str
    started: float
    params: Mapping[str, str] = {}
    store: str = ""


def newest_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates by their start; of those of one moment the later one in the list comes first."""
    return sorted(candidates, key=lambda each: each.started)[::-1]


def fits_several(text: str, candidates: Iterable[Candidate], where: str, *, now: float | None = None) -> str:
    """An error's text: which runs fit.

    Args:
        text: What was requested.
        candidates: The runs, in any order.
        where: The store, or whatever was searched.
        now: Seconds since the epoch.
    """
    ordered = newest_first(candidates)
    return (
        f"{text!r} fits {_count(ordered)} runs of {where}: {'; '.join(_listed(text, ordered, now))}; give more of an id"
    )


def newest_taken(text: str, candidates: Iterable[Candidate], where: str, *, now: float | None = None) -> str:
    """A line on what was chosen, and what else there was.

    Args:
        text: The name that several runs have.
        candidates: The runs, in any order.
        where: The store, or whatever was searched.
        now: Seconds since the epoch.
    """
    ordered = newest_first(candidates)
    taken, *others = _listed(text, ordered, now)
    return (
        f"{text!r} names {_count(ordered)} runs of {where}. Taken: {taken}, the newest. "
        f"Others: {'; '.join(others)}. An id chooses one of them"
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'val/loss'?`, or an empty text where nothing is near, or `name` is a pattern.

    Args:
        name: What fits nothing.
        names: What there is. One that ends, after a slash, in something near will do.

    Example:
        >>> nearest("loss", ["train/loss", "val/loss", "lr"])
        "; did you mean 'train/loss' or 'val/loss'?"
    """
    from difflib import get_close_matches

    if not name or any(character in name for character in "*?["):
        return ""
    known = sorted(names)
    for shape in (str.lower, _last_part):
        near = get_close_matches(name.lower(), {shape(each) for each in known}, n=1)
        if near:  # as it was written first; then by the last part, since `loss` is far from `train/loss`
            meant = [repr(each) for each in known if shape(each) == near[0]]
            return f"; did you mean {' or '.join(meant[:3])}?"
    return ""


def shortest_ids(ids: Iterable[str]) -> dict[str, str]:
    """Beginnings of ids that distinguish them, eight characters at least."""
    whole = list(ids)
    length, longest = _SHORT, max(map(len, whole), default=0)
    while length < longest and len({run_id[:length] for run_id in whole}) < len(set(whole)):
        length += 1
    return {run_id: run_id[:length] for run_id in whole}


def _last_part(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _count(candidates: Sequence[Candidate]) -> str:
    return str(len(candidates)) if len(candidates) <= MOST else f"more than {MOST}"


def _listed(text: str, ordered: Sequence[Candidate], now: float | None) -> list[str]:
    now = time.time() if now is None else now
    ids = shortest_ids(each.id for each in ordered)
    keys = _differing(ordered)
    several_stores = len({each.store for each in ordered}) > 1
    shown = []
    for each in ordered[:_SHOWN]:
        name = "" if each.name == text else f" {each.name!r}"
        facts = [
            each.status,
            ago(each.started, now),
            *(_param(key, each.params[key]) for key in keys if key in each.params),
        ]
        where = [f"in {each.store}"] if several_stores else []
        shown.append(f"{ids[each.id]}{name} ({', '.join([*facts, *where])})")
    return [*shown, "…"] if len(ordered) > _SHOWN else shown


def _differing(candidates: Sequence[Candidate]) -> list[str]:
    """Params that are not the same in all of them, a few."""
    keys = sorted({key for each in candidates for key in each.params})
    return [key for key in keys if len({each.params.get(key) for each in candidates}) > 1][:_PARAMS]


def _param(key: str, value: str) -> str:
    shown = value if value.isprintable() else repr(value)
    return f"{key}={shown if len(shown) <= _CHARACTERS else f'{shown[: _CHARACTERS - 1]}…'}"
