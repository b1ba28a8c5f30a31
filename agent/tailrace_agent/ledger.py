"""The ledger: what became of everything that a run logged. It adds up, always.

`accepted = delivered + pending + dead + sum(dropped)`, for each kind and in all. Counting unit: one value of one
metric at one step, one param, one tag, one artifact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from tailrace_agent.text.cards import brief, table

__all__ = ["Counts", "Ledger", "as_dropped"]

_DROPPED = "dropped"


class Counts(msgspec.Struct, kw_only=True):
    """The counts of one kind.

    Attributes:
        accepted: Taken over from the training process.
        delivered: Acknowledged by MLflow.
        dead: Refused by MLflow for what they are; kept, with the reason (`tailrace dead list`).
        dropped: Given up, by reason.
        merged: Part of `delivered`: identical to one delivered before (key, step, time and value), so that MLflow's
            SQL stores keep one row for both.
        late: Part of `delivered`: after the run's end was reported to MLflow.
    """

    accepted: int = 0
    delivered: int = 0
    dead: int = 0
    dropped: dict[str, int] = {}  # msgspec copies an empty default for each instance
    merged: int = 0
    late: int = 0

    @property
    def pending(self) -> int:
        """Accepted, and on the way."""
        return self.accepted - self.delivered - self.dead - sum(self.dropped.values())

    def add(self, other: Counts) -> None:
        """Adds another count to this one."""
        self.accepted += other.accepted
        self.delivered += other.delivered
        self.dead += other.dead
        self.merged += other.merged
        self.late += other.late
        # A new dict: the other's is not to grow with this one.
        self.dropped = {
            reason: self.dropped.get(reason, 0) + other.dropped.get(reason, 0)
            for reason in (*self.dropped, *(r for r in other.dropped if r not in self.dropped))
        }


class Ledger(msgspec.Struct, kw_only=True):
    """Counts by kind (`metric`, `param`, `tag`, `artifact`); the requests that delivered them; calls of `log()`.

    Attributes:
        partial: From a wait that ended before the agent had counted all that was logged until then.

    Example:
        >>> ledger = Ledger(kinds={"metric": Counts(accepted=3, delivered=2)})
        >>> ledger.accepted, ledger.pending, ledger.balanced
        (3, 1, True)
    """

    kinds: dict[str, Counts] = {}
    requests: int = 0
    calls: int = 0
    partial: bool = False

    def __repr__(self) -> str:
        total = self.total
        counted = {"delivered": total.delivered, "pending": total.pending, "dead": total.dead}
        parts = [f"{n:,} {what}" for what, n in counted.items() if n or what == "delivered"]
        dropped = [f"{n:,} dropped: {reason}" for reason, n in total.dropped.items() if n]
        partial = "not all counted yet" if self.partial else None
        return brief("Ledger", None, f"{total.accepted:,} accepted", *parts, *dropped, partial)

    def _repr_html_(self) -> str:
        """Kind by kind, for a notebook."""
        counted = {**dict(sorted(self.kinds.items())), "total": self.total}
        rows = [
            (kind, counts.accepted, counts.delivered, counts.pending, counts.dead, _reasons(counts))
            for kind, counts in counted.items()
        ]
        title = "Ledger (not all counted yet)" if self.partial else "Ledger"
        return table(title, ("", "accepted", "delivered", "pending", "dead", "dropped"), rows)

    def of(self, kind: str) -> Counts:
        """Counts of one kind."""
        return self.kinds.get(kind, Counts())

    @property
    def total(self) -> Counts:
        """All kinds together."""
        total = Counts()
        for counts in self.kinds.values():
            total.add(counts)
        return total

    @property
    def accepted(self) -> int:
        """Everything that was taken over."""
        return self.total.accepted

    @property
    def delivered(self) -> int:
        """Everything that MLflow acknowledged."""
        return self.total.delivered

    @property
    def pending(self) -> int:
        """Everything on the way."""
        return self.total.pending

    @property
    def dead(self) -> int:
        """Everything that MLflow refused for what it is."""
        return self.total.dead

    @property
    def dropped(self) -> dict[str, int]:
        """Everything that was given up, by reason."""
        return self.total.dropped

    @property
    def merged(self) -> int:
        """Identical repetitions among the delivered."""
        return self.total.merged

    @property
    def settled(self) -> bool:
        """Whether nothing is on the way: neither what the agent has counted, nor what it has not."""
        return self.pending == 0 and not self.partial

    @property
    def balanced(self) -> bool:
        """Whether no kind has settled more than it accepted."""
        return all(counts.pending >= 0 for counts in self.kinds.values())

    def add(self, other: Ledger) -> Ledger:
        """This ledger and another as one."""
        kinds = {kind: Counts() for kind in (*self.kinds, *other.kinds)}
        for ledger in (self, other):
            for kind, counts in ledger.kinds.items():
                kinds[kind].add(counts)
        requests, calls = self.requests + other.requests, self.calls + other.calls
        return Ledger(kinds=kinds, requests=requests, calls=calls, partial=self.partial or other.partial)

    def summary(self) -> dict[str, object]:
        """As plain data, for JSON and for the tag `tailrace.ledger`."""
        total = self.total
        return {
            "accepted": total.accepted,
            "delivered": total.delivered,
            "pending": total.pending,
            "dead": total.dead,
            "dropped": total.dropped,
            "merged": total.merged,
            "late": total.late,
            "requests": self.requests,
            "calls": self.calls,
            "kinds": {
                kind: {**msgspec.to_builtins(counts), "pending": counts.pending}
                for kind, counts in sorted(self.kinds.items())
            },
        }

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str, int]]) -> Ledger:
        """From `(kind, what, n)` rows as the spool keeps them.

        `what` is a field of `Counts`, `dropped:<reason>`, `requests` or `calls`; anything else, of another version
        or of a damaged disk, counts for nothing.
        """
        ledger = cls()
        for kind, what, n in rows:
            field, _, reason = what.partition(":")  # at the first: a reason may hold one itself
            if field in ("requests", "calls"):
                setattr(ledger, field, getattr(ledger, field) + n)
                continue
            counts = ledger.kinds.setdefault(kind, Counts())
            if field == _DROPPED:
                counts.dropped[reason] = n
            elif field in Counts.__struct_fields__:
                setattr(counts, field, n)
        return ledger

    def shortage(self, found: Mapping[str, int], keys: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Metric keys whose rows in MLflow differ from what was delivered: `{key: (delivered, found)}`."""
        return {
            key: (keys.get(key, 0), found.get(key, 0))
            for key in sorted({*found, *keys})
            if keys.get(key, 0) != found.get(key, 0)
        }


def as_dropped(reason: str) -> str:
    """What a count of entries that were given up is called, see `Ledger.from_rows`."""
    return f"{_DROPPED}:{reason}"


def _reasons(counts: Counts) -> str:
    return "; ".join(f"{n:,} {reason}" for reason, n in counts.dropped.items() if n) or "0"
