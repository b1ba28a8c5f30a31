"""The hot path: `log()` costs about a microsecond, and when it returns, the values outlive the process.

`make_log` makes every `log` there is (the module's, a tracker's, a run's) from one body, so that what is measured is
what runs. In it: no system call, no logging, no import, no lock, no look at the values' types. The encoder stops at
what is no plain number and only then the slow path, `Channel.odd`, begins.

A channel of a run that another process has begun has a `page`: that process changes its first word when a run begins or
ends there, and the next call looks where its values belong now (`renew`), before it is delivered.

Where the hot path in C was built (`tailrace_agent.ipc.native`), that one takes the calls with plain numbers, and `log`
below takes all others; otherwise it takes all. So `log` says what a call means; tests hold the C against it.

The body of `RingWriter.put` stands in `log` once more: a call of it would cost a tenth of a `log()`, in a tight loop as
between training steps. A test compares the two.
"""

from __future__ import annotations

import itertools
from contextvars import ContextVar
from functools import update_wrapper
from time import time_ns
from typing import TYPE_CHECKING, Any, Protocol
from zlib import adler32

import msgspec

from tailrace._values.numbers import to_number
from tailrace_agent.errors import CallError
from tailrace_agent.ipc import native
from tailrace_agent.ipc.ring_format import HEAD

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator, Mapping

    from tailrace._log.selection import Selection

__all__ = ["Channel", "Elsewhere", "LogCall", "Pointer", "make_log", "python_log"]

_MAX_STEP = 2**63 - 1

_encode = msgspec.msgpack.Encoder(enc_hook=to_number, decimal_format="number").encode


_NEW = LookupError("a name that was not there before")


def _encode_checked(row: tuple[int, object, int, Mapping[Any, object]]) -> bytes:
    """The encoder under `strict=True`: stops at what the encoder could write, but MLflow could not take."""
    _, step, _, values = row
    if type(step) is not int or not -_MAX_STEP <= step <= _MAX_STEP:
        raise TypeError("step")
    for key, value in values.items():
        if type(key) is not str:
            raise TypeError(key)
        if type(value) is not float:
            to_number(value)
    return _encode(row)


class LogCall(Protocol):
    """How every `log` is called."""

    def __call__(
        self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, *others: Any, **values: Any
    ) -> None:
        """Logs values at a step."""


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

    off, limit = 0, -1
    words: memoryview[int]
    memory: mmap.mmap

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self.put = self.put_slowly = put


class Channel(native.Route):
    """Where a run's rows go.

    Attributes (all but `odd` are `Route`'s, where the hot path in C finds them):
        run: tailrace's id of the run.
        ring: Takes the rows' bytes.
        encode: The encoder; one that raises sends every call to `odd`; None: the run is not delivered, and all that is
            kept of it is `latest`.
        latest: The last value of each metric of a run that is not delivered; see `_latest`.
        known: Names in `latest` that have been looked at.
        steps: The run's own counter, for calls without a step.
        odd: `(values, metrics, step, time_ns, error)` of a call that the fast path could not take.
        selection: Which values are logged, where not all of them are.
        page: Shared memory of the process that has begun the run, where that is another one; see `watch`.
        seen: Its first word, as it was when it was looked at last.
        renew: Called, without an argument, when that has changed.
    """

    __slots__ = ("__weakref__", "odd", "renew")

    def __init__(
        self,
        run: int,
        put: Callable[[bytes], None],
        odd: Callable[..., None],
        *,
        strict: bool = False,
        selection: Selection | None = None,
    ) -> None:
        self.run = run
        self.odd = odd
        self.selection: Selection | None = selection
        self.steps: Iterator[int | None] = itertools.count()
        self.latest: dict[str, Any] = {}
        self.known = 0
        self.page: memoryview[int] | None = None
        self.seen = 0
        self.renew: Callable[[], None] = _nothing
        encode = _encode_checked if strict else _encode
        self.encode: Callable[[Any], bytes] | None = encode if selection is None else selection.encoder(encode, odd)
        self.lead_to(Elsewhere(put))

    def lead_to(self, ring: Ring) -> None:
        """Rows go there from now on."""
        self.ring: Ring = ring if self.selection is None else self.selection.gate(ring)

    def put(self, row: bytes) -> None:
        """Takes a row's bytes."""
        self.ring.put(row)

    def twin(self, odd: Callable[..., None]) -> Channel:
        """A channel to the same run that can be closed on its own; it shares the counter."""
        twin = Channel(self.run, self.put, odd)
        twin.selection = self.selection
        twin.ring, twin.steps, twin.encode = self.ring, self.steps, self.encode
        return twin

    def watch(self, page: memoryview[int], seen: int, renew: Callable[[], None]) -> None:
        """From now on `renew` is called before a row is delivered, once after each change of the page's first word.

        It sets `seen` anew; it may also `close` this channel, and the call then goes to `odd`.
        """
        watched, self.page, self.seen, self.renew = self.page is not None, page, seen, renew
        if not watched and native.Log is None:
            _Watched(self)

    def close(self, encode: Callable[[Any], bytes]) -> None:
        """Sends every call to `odd` from now on, by an encoder that raises; a call without a step comes with None.

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
        channel.steps = self
        if self._encode is not None:
            channel.encode = self.encode

    def __iter__(self) -> _Watched:
        return self

    def __next__(self) -> int | None:
        self._look()
        return next(self._steps) if self._channel.steps is self else next(self._channel.steps)

    def encode(self, row: Any) -> bytes:
        self._look()
        encode = self._encode if self._channel.encode == self.encode else self._channel.encode
        assert encode is not None
        return encode(row)

    def _look(self) -> None:
        page = self._channel.page
        if page is not None and page[0] != self._channel.seen:
            self._channel.renew()


class Pointer(Protocol):
    """Something that knows the channel of the moment.

    Attributes:
        own: Holds the channel of this thread or task, or None; or there is none that has one of its own.
        shared: The channel of all others.
    """

    own: ContextVar[Channel | None] | None
    shared: Channel


def _documented(
    metrics: Mapping[str, Any] | None = None,
    /,
    step: int | None = None,
    *others: Any,
    **values: Any,
) -> None:
    """Logs metrics of one training step: about a microsecond, and never an exception into training.

    When it returns, the values survive a `kill -9`; the agent carries them to MLflow, each exactly once.

    Args:
        metrics: Metrics by name, for names that are no Python identifiers (`"train/loss"`).
        step: Training step; without it, the run's own counter of calls without a step: 0, 1, 2, …
        *others: Not for use: what other trackers take there is said to be wrong, and stops nobody.
        **values: Metrics as keywords. Numbers of any kind: float, int, bool, NumPy scalars, tensors with one
            element. A tensor on a GPU is copied without a sync, and logged with this call's step and time.

    Raises:
        CallError: Under `strict=True` only: a value that is no number, a step that is no integer.

    Thread safety: any thread, forked child, signal handler or finalizer.

    Example:
        >>> log(step=7, loss=0.25)
        >>> log({"train/loss": 0.25, "train/accuracy": 0.9}, 7)
    """


_documented.__module__, _documented.__qualname__, _documented.__name__ = "tailrace", "log", "log"


def make_log(pointer: Pointer) -> LogCall:
    """The `log` that follows a pointer: in C where that was built."""
    log = python_log(pointer)
    return log if native.Log is None else native.Log(pointer, log, _encode, _encode_checked).log


def python_log(pointer: Pointer) -> LogCall:
    """The `log` in Python: all of it, or what the one in C hands over."""
    own = None if pointer.own is None else pointer.own.get

    def log(metrics: Any = None, /, *others: Any, step: int | None = None, **values: Any) -> None:
        if others and (step is None or isinstance(metrics, str)):  # the value of a name, as others take it
            step = others[0]
        channel = pointer.shared if own is None else own(None) or pointer.shared
        steps = channel.steps  # before `encode`: see Channel.close
        encode = channel.encode
        if encode is None:
            latest = channel.latest
            try:
                latest |= values if metrics is None else {**metrics, **values}
            except Exception as error:  # noqa: BLE001 - as below
                channel.odd(values, metrics, step, 0, error)
                return None
            if len(latest) > channel.known:
                channel.odd(values, metrics, step, 0, _NEW)
            return None
        now = time_ns()
        at = next(steps) if step is None else step
        try:
            named = values if metrics is None else {**metrics, **values}
            row = encode((channel.run, at, now, named))
        except CallError:  # a selection's: under `strict` it has dealt with the call
            raise
        except Exception as error:  # noqa: BLE001 - whatever the values raise, the slow path sorts it out
            return channel.odd(values, metrics, step if isinstance(metrics, str) and not values else at, now, error)
        # RingWriter.put, word for word.
        ring = channel.ring
        size = len(row)
        word = size | adler32(row) << 32
        if (end := (off := ring.off) + ((size + 15) & -8)) <= ring.limit: ring.off = end  # noqa: E701  # fmt: skip
        else:
            return ring.put_slowly(row)
        words = ring.words
        words[off >> 3] = word
        off += 8
        ring.memory[off : off + size] = row
        words[HEAD] = ring.off
        return None

    # Called as that one is. It is not written so, since `log("loss", 0.1, step=3)` would be a TypeError then.
    return update_wrapper(log, _documented, assigned=("__doc__", "__name__", "__qualname__", "__module__"))
