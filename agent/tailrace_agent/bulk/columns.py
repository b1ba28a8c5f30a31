"""The points of runs as columns: what a request to the bulk route holds, and what MLflow's tables take.

The body is MessagePack: `{"runs": [{"run_id", "keys", "key", "value", "timestamp", "step"}, ...]}`. Each column has one
entry a point; `key` says which of `keys` it is. Fields that are not known are passed over, so that either side may be
the newer one. A tenth of the bytes of `log_batch`'s JSON, and of the time to read them.

Loading this module does not import MLflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.ipc.records import Point

__all__ = [
    "BYTES_AT_MOST",
    "POINTS_AT_MOST",
    "ROUTE",
    "ModelOf",
    "Offer",
    "RunColumns",
    "Taken",
    "as_columns",
    "decode",
    "encode",
]

ROUTE: Final = "/api/2.0/tailrace/metrics"
"""Where a server with the app takes points: GET says how many at once, POST takes them."""
POINTS_AT_MOST: Final = 50_000
"""Points in one request, of all its runs."""
BYTES_AT_MOST: Final = 16 << 20
"""Bytes of one request; 50,000 points whose keys all differ and are as long as may be take 13 MB."""

_Index = Annotated[int, msgspec.Meta(ge=0)]
_Long = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class ModelOf(msgspec.Struct, frozen=True):
    """The logged model that a point is of, and the dataset that it was measured on."""

    model_id: str
    dataset_name: str | None = None
    dataset_digest: str | None = None


class RunColumns(msgspec.Struct):
    """Points of one run.

    Attributes:
        run_id: MLflow's id.
        keys: Names of metrics.
        key: For each point, which of `keys` it is.
        value: NaN and infinities included.
        timestamp: Milliseconds since the epoch.
        step: Training steps.
        models: Logged models that some of the points are of.
        model: For each point, which of `models` it is of, or None; empty where none is of any.
    """

    run_id: str
    keys: list[str]
    key: list[_Index]
    value: list[float]
    timestamp: list[_Long]
    step: list[_Long]
    models: list[ModelOf] = []
    model: list[_Index | None] = []

    def __post_init__(self) -> None:
        n = len(self.key)
        if not n == len(self.value) == len(self.timestamp) == len(self.step) or len(self.model) not in (0, n):
            raise ValueError("the columns of a run differ in length")
        named = [model for model in self.model if model is not None]
        if (n and max(self.key) >= len(self.keys)) or (named and max(named) >= len(self.models)):
            raise ValueError("a point has a key or a model that its run does not list")


class Offer(msgspec.Struct):
    """What the route answers to a GET: how many points one request may hold."""

    points: int


class Taken(msgspec.Struct):
    """What the route answers to a POST: how many points of it are in MLflow's tables now."""

    stored: int


class _Body(msgspec.Struct):
    runs: list[RunColumns]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgpack_decoder(_Body)


def as_columns(run_id: str, points: Sequence[Point]) -> RunColumns:
    """Points of one run as columns."""
    names, values, timestamps, steps = map(list, zip(*points, strict=True)) if points else ([], [], [], [])
    keys = dict.fromkeys(names)
    numbers = {key: number for number, key in enumerate(keys)}
    return RunColumns(run_id, list(keys), [numbers[name] for name in names], values, timestamps, steps)


def encode(runs: Sequence[RunColumns]) -> bytes:
    """The body of a request.

    Raises:
        Exception: A number that is none of 64 bits, or a text that is none of Unicode's.
    """
    return _encoder.encode(_Body(list(runs)))


def decode(body: bytes) -> list[RunColumns]:
    """What a request holds.

    Raises:
        ValueError: It is none, or holds more than `POINTS_AT_MOST` points. The message says what is wrong.
    """
    runs = _decoder.decode(body).runs  # a `ValidationError` is a ValueError
    points = sum(len(run.key) for run in runs)
    if points > POINTS_AT_MOST:
        raise ValueError(f"{points:,} points are more than the {POINTS_AT_MOST:,} that one request may hold")
    return runs
