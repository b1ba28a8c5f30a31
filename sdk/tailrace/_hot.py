"""The hot path: `log()` costs about a microsecond, and when it returns, the values outlive the process.

`make_log` makes every `log` there is (the module's, a tracker's, a run's) from one body, so that what is measured is
what runs. In it: no system call, no logging, no import, no lock, no look at the values' types. The encoder stops at
what is no plain number and only then the slow path, `Channel.odd`, begins.

Where the hot path in C was built (`tailrace_agent.native`), that one takes the calls with plain numbers, and `log`
below takes all others; otherwise it takes all. So `log` says what a call means; tests hold the C against it.

The body of `RingWriter.put` stands in `log` once more: a call of it would cost a tenth of a `log()`, in a tight loop as
between training steps. A test compares the two.
"""

from __future__ import annotations

import itertools
from time import time_ns
from typing import TYPE_CHECKING, Any, Protocol
from zlib import adler32

import msgspec

from tailrace._values import to_number
from tailrace_agent import native
from tailrace_agent.errors import CallError
from tailrace_agent.ring import HEAD

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator, Mapping

    from tailrace._selective import Selection

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

    def __call__(self, metrics: Mapping[str, Any] | None = None, /, *, step: int | None = None, **values: Any) -> None:
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
    """

    __slots__ = ("__weakref__", "odd")

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

    def close(self, encode: Callable[[Any], bytes]) -> None:
        """Sends every call to `odd` from now on, by an encoder that raises; a call without a step comes with None.

        In this order: whoever finds the new `steps` finds the new `encode` too, and no row without a step is encoded.
        """
        self.encode = encode
        self.steps = itertools.repeat(None)


class Pointer(Protocol):
    """Something that knows the channel of the moment."""

    channel: Channel


def make_log(pointer: Pointer) -> LogCall:
    """The `log` that follows `pointer.channel`: in C where that was built."""
    log = python_log(pointer)
    return log if native.Log is None else native.Log(pointer, log, _encode, _encode_checked).log


def python_log(pointer: Pointer) -> LogCall:
    """The `log` in Python: all of it, or what the one in C hands over."""

    def log(metrics: Mapping[str, Any] | None = None, /, *, step: int | None = None, **values: Any) -> None:
        """Logs metrics of one training step: about a microsecond, and never an exception into training.

        When it returns, the values survive a `kill -9`; the agent carries them to MLflow, each exactly once.

        Args:
            metrics: Metrics by name, for names that are no Python identifiers (`"train/loss"`).
            step: Training step; without it, the run's own counter of calls without a step: 0, 1, 2, …
            **values: Metrics as keywords. Numbers of any kind: float, int, bool, NumPy scalars, tensors with one
                element. A tensor on a GPU is copied without a sync, and logged with this call's step and time.

        Raises:
            CallError: Under `strict=True` only: a value that is no number, a step that is no integer.

        Thread safety: any thread, forked child, signal handler or finalizer.

        Example:
            >>> log(step=7, loss=0.25)
            >>> log({"train/loss": 0.25, "train/accuracy": 0.9}, step=7)
        """
        channel = pointer.channel
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
            return channel.odd(values, metrics, at, now, error)
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

    return log
