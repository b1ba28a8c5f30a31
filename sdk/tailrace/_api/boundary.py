"""The one guard between tailrace and the program that it is called from.

What the surroundings do (a directory that was deleted, a descriptor that cannot be had, another user's files) is
reported once, and the call gives something harmless in place of its answer. What is the caller's own comes out:
tailrace's own errors, which say what to do, time-outs that were requested, and arguments that the call does not take.
Under `on_error="raise"` everything comes out.

It stands around every public method of the classes that it is put on, properties included, so a method that is new is
guarded too. `log()` is not among them: it has no room for one.

To a program that has no descriptor left, those in reserve are lent for the time of the call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol, TypeVar

from tailrace_agent.errors import SessionError, StateDirError, TailraceError
from tailrace_agent.files.descriptors import SPARE

__all__ = ["Guarded", "NoMonitor", "protect"]

C = TypeVar("C", bound=type)
# TimeoutError and LookupError: of calls whose answer cannot be made up (`run_id`, `experiment_id`).
_OF_THE_CALLER: Final = (TailraceError, TimeoutError, LookupError, NotImplementedError)
# Both are tailrace's own errors, so they are looked at before those of the caller.
_OF_THE_SURROUNDINGS: Final = (SessionError, StateDirError)
_QUICK: Final = frozenset({"log_metric", "log_metrics", "log_training_metrics", "log_param", "set_tag", "id", "latest"})
"""What needs no descriptor and is called often: nothing is lent to it."""
_DUNDERS: Final = ("__enter__", "__exit__", "__repr__")


class NoMonitor:
    """Stands in the place of a system monitor that could not be had: it samples nothing."""

    def start(self) -> NoMonitor:
        """Does nothing."""
        return self

    def stop(self) -> None:
        """Does nothing."""

    def latest(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def __enter__(self) -> NoMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Guarded(Protocol):
    """What the guard needs of an object."""

    def _surprised(self, what: str, error: Exception) -> None:
        """Warns that a call could not be done, or raises the error if that is wanted."""


def protect(instead: Mapping[str, Callable[[Any], Any]], but: Collection[str] = ()) -> Callable[[C], C]:
    """Puts the guard around every public method and property of a class.

    Args:
        instead: What a call gives when it could not be done, by its name; None for all others.
        but: Methods that stay without.
    """

    def wrap(cls: C) -> C:
        # Of all bases as well: their methods are put on the class itself, with the guard around them.
        for name in dir(cls):
            if (name.startswith("_") and name not in _DUNDERS) or name in but:
                continue
            found = _found(cls, name)
            otherwise = instead.get(name, _nothing)
            if isinstance(found, property) and found.fget is not None:
                setattr(cls, name, property(_method(found.fget, name, otherwise), doc=found.__doc__))
            elif callable(found) and not isinstance(found, (type, staticmethod, classmethod)):
                setattr(cls, name, _method(found, name, otherwise))
        return cls

    return wrap


def _method(call: Callable[..., Any], name: str, otherwise: Callable[[Any], Any]) -> Callable[..., Any]:
    provided = name not in _QUICK

    @functools.wraps(call)
    def protected(self: Any, *args: Any, **kwargs: Any) -> Any:
        lent = provided and SPARE.lend()
        try:
            return call(self, *args, **kwargs)
        except _OF_THE_SURROUNDINGS as error:
            # `on_error="raise"` of the settings, which this guard does not read: to read them may be what has failed.
            if error.asked_for:
                raise
            self._surprised(name, error)
        except _OF_THE_CALLER:
            raise
        except Exception as error:
            trace = error.__traceback__
            # Without a frame below this one, nothing of the call has run.
            if isinstance(error, TypeError) and trace is not None and trace.tb_next is None:
                raise  # the call itself does not take these arguments
            self._surprised(name, error)
        finally:
            if lent:
                SPARE.take_back()
        # Outside of the `try`: what is made here is not to be taken for a failure of the call.
        return otherwise(self)

    return protected


def _found(cls: type, name: str) -> Any:
    """The attribute as it stands in the class, and not what it gives."""
    for base in cls.__mro__[:-1]:
        if name in vars(base):
            return vars(base)[name]
    return None


def _nothing(_: Any) -> None:
    return None
