"""What the spool holds, as plain data: encoded rows that wait, dead letters, and what became of some rows.

A block's body is a MessagePack array header followed by the rows' own bytes: good rows are not even encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.ipc.reasons import Reason
from tailrace_agent.ipc.records import Kind, MetricRow
from tailrace_agent.ledger import as_dropped
from tailrace_agent.spool.extremes import Extreme

__all__ = [
    "BLOCK_POINTS",
    "DEVICE",
    "SYSTEM",
    "Block",
    "DeadLetter",
    "NewBlock",
    "Outcome",
    "Tally",
    "decode_rows",
    "encode_rows",
    "stored_kind",
]

BLOCK_POINTS: Final = 250
"""Points in a block. Four fill a request, so a request is at least three quarters full while there is a backlog."""

SYSTEM: Final = "system"
"""The kind of a new block that holds system metrics."""

DEVICE: Final = "device"
"""The kind of a block whose values a device has still to write: see `device_rows`. Nothing sends it."""

NewBlock = tuple[int, Kind, int, int, bytes]
"""`(run, kind, n, first_ns, body)`, as `Block` calls them. Those of the kind `SYSTEM` are metrics, too."""

Tally = tuple[int, Kind, str, int]
"""`(run, kind, what, n)`, `what` as in `Ledger.from_rows`."""

_rows_decoder = msgpack_decoder(list[MetricRow])


def stored_kind(kind: Kind) -> Kind:
    """The kind under which a new block waits."""
    return "metric" if kind == SYSTEM else kind


def encode_rows(bodies: list[bytes]) -> bytes:
    """A block's body from its rows' bytes: a MessagePack array32."""
    return b"\xdd" + len(bodies).to_bytes(4, "big") + b"".join(bodies)


def decode_rows(body: bytes) -> list[MetricRow]:
    """The rows of a metrics block."""
    return _rows_decoder.decode(body)


class Block(NamedTuple):
    """Encoded rows of one kind and run that wait. `n` counts points (or params, tags, artifacts).

    `body` is empty where the disk gives back another one than was written.
    """

    id: int
    run: int
    kind: Kind
    n: int
    first_ns: int
    body: bytes


class DeadLetter(NamedTuple):
    """What MLflow refuses, as it was, with the reason: one entry as a rule, a block of `n` when its run is gone.

    `body` is what a block's body is, so that it can be put back on the way as it stands.
    """

    id: int
    run: int
    kind: Kind
    key: str
    n: int
    body: bytes
    reason: str
    at: float


class Outcome(NamedTuple):
    """What became of some blocks: they leave, and the counts record how.

    `late`: after the run's end was reported to MLflow. `accepted`: entries that have come to light only now, such as
    the files of a directory that count by themselves.
    """

    run: int
    kind: Kind
    blocks: Sequence[int]
    delivered: int
    accepted: int = 0
    merged: int = 0
    late: bool = False
    requests: int = 0
    keys: Sequence[tuple[str, int]] = ()
    extremes: Mapping[str, Extreme] = MappingProxyType({})
    dead: Sequence[tuple[str, int, bytes, str]] = ()
    dropped: Sequence[tuple[Reason, int]] = ()

    @property
    def tallies(self) -> list[Tally]:
        """The counts, as the ledger takes them."""
        counted = [
            ("accepted", self.accepted),
            ("delivered", self.delivered),
            ("merged", self.merged),
            ("late", self.delivered if self.late else 0),
            ("requests", self.requests),
            ("dead", sum(n for _, n, _, _ in self.dead)),
            *((as_dropped(reason), n) for reason, n in self.dropped),
        ]
        return [(self.run, self.kind, what, n) for what, n in counted if n]
