"""A channel: where the rows of a run go, and how they are encoded.

A channel of a run that another process has begun has a `page`: that process changes its first word when a run begins or
ends there, and the next call looks where its values belong now (`renew`), before it is delivered.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tailrace._values.numbers import to_number
from tailrace_agent.ipc import native

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["Channel", "Elsewhere", "Observing", "Ring", "Row", "Selecting", "encode_checked", "encode_row"]

Row = tuple[int, Any, int, dict[str, Any]]
"""Run, step, time in nanoseconds, values."""

_MAX_STEP = 2**63 - 1  # MLflow's column for steps is a signed 64-bit integer

# `decimal_format`: by default msgspec writes a Decimal as a string, which the agent would have to refuse.
encode_row = msgspec.msgpack.Encoder(enc_hook=to_number, decimal_format="number").encode


def encode_checked(row: tuple[int, object, int, Mapping[Any, object]]) -> bytes:
    """The encoder under `strict=True`: stops at what the encoder could write, but MLflow could not take."""
    _, step, _, values = row
    if type(step) is not int or not -_MAX_STEP <= step <= _MAX_STEP:
        # Only the type counts: whatever the encoder raises sends the call to `slow`, which names the fault for people.
        raise TypeError("step")
    for key, value in values.items():
        if type(key) is not str:
            raise TypeError(key)
        # msgspec would write a string, a None or a list as it stands, without a call of `to_number`.
        if type(value) is not float:
            to_number(value)
    return encode_row(row)


class Ring(Protocol):
    """What `log` needs of a `RingWriter`."""

    off: int
    limit: int
    words: memoryview[int]
    memory: mmap.mmap

    def put(self, row: bytes, /) -> None:
        """Takes a row."""

    def put_slowly(self, row: bytes, /) -> None:
        """Takes a row that reaches beyond `limit`."""


class Elsewhere:
    """Stands where there is no ring: every row goes to a function."""

    # No row ends below -1, so `log` comes to `put_slowly` with each, and never touches `words` or `memory`.
    off, limit = 0, -1
    words: memoryview[int]
    memory: mmap.mmap

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self.put = self.put_slowly = put


class Selecting(Protocol):
    """What a channel needs of a `Selection`."""

    def encoder(self, encode: Callable[[Any], bytes], slow: Callable[..., None]) -> Callable[[Any], bytes]:
        """The channel's encoder, which puts on the ring what is due."""

    def gate(self, ring: Ring) -> Ring:
        """What stands in the place of the ring."""

    def rest(self) -> Iterable[bytes | Row]:
        """What is held back, at the end."""

    def begin_anew(self) -> None:
        """In a forked child: what is held back is the parent's."""


class Observing(Protocol):
    """What a channel needs of its `Observers`."""

    def gate(self, ring: Ring) -> Ring:
        """What stands in the place of the ring."""


class Channel(native.Route):
    """Where a run's rows go.

    Attributes (all but `slow` and `observers` are `Route`'s, where the hot path in C finds them):
        run: tailrace's id of the run.
        ring: Takes the rows' bytes.
        encode: The encoder; one that raises sends every call to `slow`; None: the run is not delivered, and all that is
            kept of it is `latest`.
        latest: The last value of each metric of a run that is not delivered; see `last_values`.
        known: Names in `latest` that have been looked at.
        steps: The run's own counter, for calls without a step.
        slow: `(values, metrics, step, time_ns, error)` of a call that the fast path could not take.
        selection: Which values are logged, where not all of them are.
        observers: Who is called with the values, where somebody is.
        page: Shared memory of the process that has begun the run, where that is another one; see `watch`.
        seen: Its first word, as it was when it was looked at last.
        renew: Called, without an argument, when that has changed.
    """

    __slots__ = ("__weakref__", "observers", "renew", "slow")

    def __init__(
        self,
        run: int,
        put: Callable[[bytes], None],
        slow: Callable[..., None],
        *,
        strict: bool = False,
        selection: Selecting | None = None,
    ) -> None:
        self.run = run
        self.slow = slow
        self.selection: Selecting | None = selection
        self.observers: Observing | None = None
        self.steps: Iterator[int | None] = itertools.count()
        self.latest: dict[str, Any] = {}
        self.known = 0
        self.page: memoryview[int] | None = None
        self.seen = 0
        self.renew: Callable[[], None] = _nothing
        encode = encode_checked if strict else encode_row
        self.encode: Callable[[Any], bytes] | None = encode if selection is None else selection.encoder(encode, slow)
        self.lead_to(Elsewhere(put))

    def lead_to(self, ring: Ring) -> None:
        """Rows go there from now on."""
        ring = ring if self.selection is None else self.selection.gate(ring)
        self.ring: Ring = ring if self.observers is None else self.observers.gate(ring)

    def observe(self, observers: Observing) -> None:
        """The rows pass by these, from now on."""
        self.observers, self.ring = observers, observers.gate(self.ring)

    def put(self, row: bytes) -> None:
        """Takes a row's bytes."""
        self.ring.put(row)

    def twin(self, slow: Callable[..., None]) -> Channel:
        """A channel to the same run that can be closed on its own; it shares the counter."""
        # Without the selection: `encoder` would be called anew, and the selection would go on with the twin's `slow`.
        twin = Channel(self.run, self.put, slow)
        twin.selection = self.selection
        twin.ring, twin.steps, twin.encode = self.ring, self.steps, self.encode
        return twin

    def watch(self, page: memoryview[int], seen: int, renew: Callable[[], None]) -> None:
        """From now on `renew` is called before a row is delivered, once after each change of the page's first word.

        It sets `seen` anew; it may also `close` this channel, and the call then goes to `slow`.
        """
        watched, self.page, self.seen, self.renew = self.page is not None, page, seen, renew
        # Once: a second wrapper would be around the first one, and look at the page twice.
        if not watched and native.Log is None:
            _Watched(self)

    def close(self, encode: Callable[[Any], bytes]) -> None:
        """Sends every call to `slow` from now on, by an encoder that raises; a call without a step comes with None.

        In this order: whoever finds the new `steps` finds the new `encode` too, and no row without a step is encoded.
        """
        self.encode = encode
        self.steps = itertools.repeat(None)


def _nothing() -> None:
    pass


class _Watched:
    """Steps and encoder of a channel with a page, that look there first, as the `log` in C does by itself."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._steps, self._encode = channel, channel.steps, channel.encode
        # Both, since a call with a step never comes by the counter.
        channel.steps = self
        if self._encode is not None:
            channel.encode = self.encode

    def __iter__(self) -> _Watched:
        return self

    def __next__(self) -> int | None:
        self._look()
        # `_look` may have closed the channel: then the counter that was put here meanwhile gives None.
        return next(self._steps) if self._channel.steps is self else next(self._channel.steps)

    def encode(self, row: Any) -> bytes:
        self._look()
        # `==`: each look at a method makes a new object, so `is` would never be true.
        encode = self._encode if self._channel.encode == self.encode else self._channel.encode
        assert encode is not None
        return encode(row)

    def _look(self) -> None:
        page = self._channel.page
        if page is not None and page[0] != self._channel.seen:
            self._channel.renew()
