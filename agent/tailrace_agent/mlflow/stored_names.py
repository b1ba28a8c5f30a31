"""The names under which MLflow has what a run logs: its own, or a clean one where MLflow refuses that.

Invariants
----------
1. Two names never become one. What is clean already gives way, too, where it is what another name has become.
2. One name stays the same one for the whole life of a run, in whatever session: the rule (`names`) decides, and where
   it had to be departed from, the run's tags in MLflow say so. They are read before the first clean name is given.

Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from tailrace_agent.ipc.records import Kind
from tailrace_agent.mlflow.names import candidates, looks_cleaned, name_tag, originals

__all__ = ["Names", "StoredNames", "Texts", "cut", "fitting_tags"]

_MOST: Final = 50_000
"""Names that are remembered: a program may make them up. The others are found anew."""


class Texts(NamedTuple):
    """What MLflow has of a run beside its metrics."""

    tags: Mapping[str, str]
    params: Mapping[str, str]


class Names(dict[str, str]):
    """Names in MLflow by those that were logged, of one kind; what is not there yet is decided when it is looked up."""

    def __init__(self, decide: Callable[[str], str]) -> None:
        super().__init__()
        self._decide = decide

    def __missing__(self, name: str) -> str:
        if len(self) >= _MOST:
            self.clear()
        stored = self[name] = self._decide(name)
        return stored


class StoredNames:
    """The names of one run.

    Args:
        fault: Why MLflow refuses a name of this kind, or None.
        texts: Reads the run's tags and params from MLflow.
        delivered: The names in MLflow under which metrics were delivered before.

    Attributes:
        fresh: Names as they were logged, by those in MLflow, for which the run has no tag yet; whoever sends anything
            under them sends their tags first.
    """

    def __init__(
        self,
        fault: Callable[[Kind, str], str | None],
        texts: Callable[[], Texts],
        delivered: Callable[[], Iterable[str]],
    ) -> None:
        self._fault, self._texts, self._delivered = fault, texts, delivered
        self._of: dict[Kind, Names] = {}
        self._stored: dict[str, str] = {}
        self._originals: dict[str, str] = {}
        # Names that are as they were logged and look like what others become.
        self._clean: set[str] = set()
        self._loaded = False
        self.fresh: dict[str, str] = {}

    def of(self, kind: Kind) -> Names:
        """The names of metrics, params or tags."""
        if kind not in self._of:
            self._of[kind] = Names(lambda name: self._decide(kind, name))
        return self._of[kind]

    def original(self, stored: str) -> str:
        """The name that was logged."""
        return self._originals.get(stored, stored)

    def _decide(self, kind: Kind, name: str) -> str:
        taken = self._fault(kind, name) is None
        if taken and not looks_cleaned(name):
            return name
        self._load()
        if taken and name not in self._originals:
            self._clean.add(name)
            return name
        if name in self._stored:
            return self._stored[name]
        room = len(self._stored) < _MOST  # else only such names as need not be remembered
        free = (each for each in candidates(name, readable=room) if self._is_free(kind, each))
        stored = next(free, name)  # itself: then it is MLflow that refuses it
        if stored != name:
            self.fresh[stored] = name
            if room:
                self._stored[name], self._originals[stored] = stored, name
        return stored

    def _is_free(self, kind: Kind, stored: str) -> bool:
        return not (stored in self._originals or stored in self._clean or self._fault(kind, stored))

    def _load(self) -> None:
        """What was decided before, by whatever session; once, for a request to MLflow."""
        if not self._loaded:
            tags, params = self._texts()
            before = originals(tags)
            self._originals, self._stored = before, {name: stored for stored, name in before.items()}
            there = (*self._delivered(), *params, *tags)
            self._clean = {name for name in there if looks_cleaned(name)} - before.keys()
            self._loaded = True


def fitting_tags(tags: Mapping[str, str], fault: Callable[[Kind, str], str | None]) -> dict[str, str]:
    """Tags for a run that is to be created: under names that MLflow takes, with the tags that hold the others."""
    names = StoredNames(fault, lambda: Texts({}, {}), tuple)
    fitting = {names.of("tag")[name]: value for name, value in tags.items()}
    return fitting | {name_tag(stored): name for stored, name in names.fresh.items()}  # cut by whoever sends tags


def cut(name: str, longest: int) -> str:
    """A name as the value of its tag."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
