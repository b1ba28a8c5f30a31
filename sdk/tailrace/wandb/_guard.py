"""What wandb can and tailrace cannot is said once; nothing here raises into training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, cast

from tailrace._messages.voice import Voice

__all__ = ["VOICE", "Absent", "Partial", "guarded", "unsupported"]

VOICE: Final = Voice()
F = TypeVar("F", bound=Callable[..., Any])


def unsupported(what: str, instead: str = "") -> Absent:
    """Says, once, that tailrace does not have this; what stands in its place does nothing."""
    VOICE.warn(f"{what} is not supported by tailrace.wandb and does nothing here" + (f": {instead}" if instead else ""))
    return Absent()


def guarded(result: Callable[[], Any] = lambda: None, called: str = "") -> Callable[[F], F]:
    """Whatever goes wrong in a call is one warning, and the call returns what `result` makes.

    Args:
        result: Makes it.
        called: The call's name for a script, where it has another one.
    """

    def decorate(call: F) -> F:
        name = called or call.__qualname__.removesuffix(".__init__").rpartition(".")[2]

        @functools.wraps(call)
        def quiet(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - it must not reach training
                VOICE.warn_undone(f"wandb.{name}", error)
                return result()

        return cast("F", quiet)

    return decorate


class Absent:
    """Takes every call, has every attribute, holds nothing, and is false.

    Nothing is an instance of it, and as a base class it adds nothing.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # what Python itself looks up
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Absent:
        return self

    def __getitem__(self, key: object) -> Absent:
        return self

    def __setitem__(self, key: object, value: object) -> None:
        return

    def __setattr__(self, name: str, value: object) -> None:
        return

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __instancecheck__(self, instance: object) -> bool:
        return False

    def __subclasscheck__(self, subclass: type) -> bool:
        return False

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return ()

    def __enter__(self) -> Absent:
        return self

    def __exit__(self, *error: object) -> None:
        return


class Partial:
    """One of wandb's classes, of which not everything is here: what is not says so once, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return unsupported(f"{type(self).__name__}.{name}")
