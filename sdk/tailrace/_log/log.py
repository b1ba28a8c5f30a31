"""The hot path: `log()` costs about a microsecond, and when it returns, the values outlive the process.

`make_log` makes every `log` there is (the module's, a tracker's, a run's) from one body, so that what is measured is
what runs. In it: no system call, no logging, no import, no lock, no look at the values' types. The encoder stops at
what is no plain number and only then the slow path, `Channel.slow`, begins.

Where the hot path in C was built (`tailrace_agent.ipc.native`), that one takes the calls with numbers that are in the
processor's memory, NumPy's and torch's included, and `log` below takes all others; otherwise it takes all. So `log`
defines what a call means; tests hold the C against it.

The body of `RingWriter.put` stands in `log` once more: a call of it would cost a tenth of a `log()`, in a tight loop as
between training steps. A test compares the two.
"""

from __future__ import annotations

from functools import update_wrapper
from time import time_ns
from typing import TYPE_CHECKING, Any, Protocol
from zlib import adler32

from tailrace._log.channel import encode_checked, encode_row
from tailrace._values.numbers import KINDS
from tailrace_agent.errors import CallError
from tailrace_agent.ipc import native
from tailrace_agent.ipc.ring_format import HEAD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import ContextVar

    from tailrace._log.channel import Channel

__all__ = ["LogCall", "Pointer", "make_log", "python_log"]

_NEW = LookupError("a name that was not there before")


class LogCall(Protocol):
    """How every `log` is called."""

    def __call__(
        self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, *others: Any, **values: Any
    ) -> None:
        """Logs values at a step."""


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
    return log if native.Log is None else native.Log(pointer, log, encode_row, encode_checked, KINDS).log


def python_log(pointer: Pointer) -> LogCall:
    """The `log` in Python: all of it, or what the one in C hands over."""
    # Looked up once here, not with each call.
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
                # In place: `latest` is the dictionary of all channels of the run.
                latest |= values if metrics is None else {**metrics, **values}
            except Exception as error:  # noqa: BLE001 - as below
                channel.slow(values, metrics, step, 0, error)
                return None
            if len(latest) > channel.known:
                channel.slow(values, metrics, step, 0, _NEW)
            return None
        now = time_ns()
        # Outside of the `try`: the slow path goes on with the same step.
        at = next(steps) if step is None else step
        try:
            named = values if metrics is None else {**metrics, **values}
            row = encode((channel.run, at, now, named))
        except CallError:  # a selection's: under `strict` it has dealt with the call
            raise
        except Exception as error:  # noqa: BLE001 - whatever the values raise, the slow path sorts it out
            # Of `log("loss", 0.5)` the second argument is the value: the message quotes it, and no step of the counter.
            return channel.slow(values, metrics, step if isinstance(metrics, str) and not values else at, now, error)
        # RingWriter.put, word for word.
        ring = channel.ring
        size = len(row)
        word = size | adler32(row) << 32
        # One line: a tracer written in Python lets others run between lines. 15: 8 for the word, 7 to round up by.
        if (end := (off := ring.off) + ((size + 15) & -8)) <= ring.limit: ring.off = end  # noqa: E701  # fmt: skip
        else:
            return ring.put_slowly(row)
        words = ring.words
        words[off >> 3] = word
        off += 8
        ring.memory[off : off + size] = row
        # Not `end`: another caller may have reserved behind this row and published it, and the head must not go back.
        words[HEAD] = ring.off
        return None

    # Called as that one is. It is not written so, since `log("loss", 0.1, step=3)` would be a TypeError then.
    return update_wrapper(log, _documented, assigned=("__doc__", "__name__", "__qualname__", "__module__"))
