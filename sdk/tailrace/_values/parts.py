"""What a value holds, by name or by place: mappings, models, structs, namespaces and lists of whichever library.

What this module promises:

* Nothing is imported for it: a library's classes are known by what they carry, or by the module that is loaded already.
* Foreign code may raise anything while it is read. What raises is an `Unread` in its place, and the rest is read.
* Fields are read, not computed: no property of a model that is no field of it is called.

Thread safety: every function from any thread; nothing is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOST", "PLAIN", "Unread", "items_of", "named_parts", "text_of", "unwrapped", "why"]

MOST: Final = 100_000
"""Parts that are looked at of one value: some make new ones for as long as somebody reads."""
_LONGEST_WHY: Final = 200
PLAIN: Final = frozenset({bool, float, int, str, type(None)})
"""Types of which every value is what it is."""
# By their very types, which is one look; a subclass of them may have names.
_NO_PARTS: Final = PLAIN | {bytes, complex, list, set}
# A range is short as it stands: `range(0, 1000000)`.
_NO_LISTS: Final = (str, bytes, bytearray, memoryview, range)


class Unread(NamedTuple):
    """In the place of what could not be read.

    Attributes:
        why: The error, in one line.
    """

    why: str


def named_parts(value: Any) -> list[tuple[object, Any]] | None:
    """The named parts of a value, or None when it has none of its own. What could not be read is an `Unread`.

    Mappings, `ml_collections.ConfigDict`, dataclass instances, attrs and pydantic models, msgspec structs, named
    tuples, `argparse.Namespace` and `types.SimpleNamespace` have named parts.
    """
    kind = type(value)
    if kind in _NO_PARTS:
        return None
    if isinstance(value, Mapping) or _of(value, "ml_collections", "ConfigDict"):
        return _entries(value)
    names = _fields(kind)
    if names is not None:
        return [(name, _read(partial(getattr, value, name))) for name in names]
    if isinstance(value, tuple):
        names = getattr(kind, "_fields", None)
        # A subclass may hold more than it has names for.
        return list(zip(names, value, strict=False)) if isinstance(names, tuple) else None
    if _is_pydantic(kind):
        extra = getattr(value, "__pydantic_extra__", None)
        # Not by `model_dump`, which runs the model's serializers and its computed fields.
        held = {**vars(value), **(extra if isinstance(extra, dict) else {})}
        return [(name, part) for name, part in held.items() if not name.startswith("_")]
    if isinstance(value, SimpleNamespace) or _of(value, "argparse", "Namespace"):
        return list(vars(value).items())
    return None


def items_of(value: Any) -> list[Any] | None:
    """The items of a list, a tuple, a set or another sequence; None for what is none, texts among it."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(islice(value, MOST))
    if isinstance(value, Sequence) and not isinstance(value, _NO_LISTS):
        # One by one: OmegaConf raises for a missing item, and the others are fine.
        return [_read(partial(value.__getitem__, at)) for at in range(min(len(value), MOST))]
    return None


def unwrapped(value: Any) -> Any:
    """What stands in a value that only wraps another one: an enum, a pydantic `RootModel`, a NumPy scalar.

    An enum that is also a string or a number, or whose value is a string, counts as that (`"adam"`, not
    `"Optimizer.ADAM"`); any other one by its name.
    """
    kind = type(value)
    if isinstance(value, Enum):
        return _of_enum(value)
    if _of(value, "ml_collections", "FieldReference"):
        return value.get()
    if _is_numpy_scalar(kind) and value.dtype.kind in "biufU":  # no dates, which would become a count of something
        number = value.item()
        return float(str(value)) if isinstance(number, float) else number  # 0.1, also of 32 bits
    return value.root if getattr(kind, "__pydantic_root_model__", False) is True else value


def text_of(value: object) -> str:
    """A value by `str()`; whatever that raises comes through."""
    # A subclass of str may have a `__str__` that gives one of its own kind, which cannot travel.
    text = str(unwrapped(value) if isinstance(value, Enum) else value)
    return text if type(text) is str else str.__str__(text)


def why(error: BaseException) -> str:
    """An error in one line that cannot steer a terminal, whatever its own `__str__` does."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - a foreign error may be as broken as what it reports
        lines = []
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    # Escape sequences would move the cursor, or colour what comes after them.
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_LONGEST_WHY])
    return text if len(text) < _LONGEST_WHY else f"{text[: _LONGEST_WHY - 1]}…"


def _of(value: object, module: str, name: str) -> bool:
    """Whether it is an instance of a class of a module, which is loaded already if it is one."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _fields(kind: type) -> Iterable[str] | None:
    """Names of the fields that a class declares: of msgspec, of dataclasses, of attrs."""
    if hasattr(kind, "__struct_fields__"):
        names: Iterable[str] = kind.__struct_fields__
        return names
    if hasattr(kind, "__dataclass_fields__"):
        # Loaded for sure, since somebody has made a dataclass. `fields` leaves out ClassVar and InitVar.
        return [field.name for field in sys.modules["dataclasses"].fields(kind)]
    if hasattr(kind, "__attrs_attrs__"):
        return [field.name for field in kind.__attrs_attrs__]
    return None


def _is_pydantic(kind: type) -> bool:
    """Whether it is a model of pydantic, version 2 or version 1."""
    return hasattr(kind, "__pydantic_validator__") or (hasattr(kind, "__fields__") and hasattr(kind, "__config__"))


def _is_numpy_scalar(kind: type) -> bool:
    generic = getattr(sys.modules.get("numpy"), "generic", None)
    return isinstance(generic, type) and issubclass(kind, generic)


def _of_enum(value: Enum) -> object:
    # Its `str()` differs between kinds of enums, and between versions of Python.
    if isinstance(value, (str, int, float)):
        return value.value
    # An enum with a `__str__` of its own has settled how it is written.
    own = isinstance(value.value, str) and type(value).__str__ is Enum.__str__
    return value.value if own else str(value)


def _entries(mapping: Any) -> list[tuple[object, Any]]:
    """A mapping's entries; one by one where it cannot give them all."""
    try:
        # `islice`: some mappings make entries for as long as they are read.
        return list(islice(mapping.items(), MOST))
    except Exception as error:  # noqa: BLE001 - one entry raises (`???` of OmegaConf): the others may be fine
        return list(_one_by_one(mapping, error))


def _one_by_one(mapping: Any, error: Exception) -> Iterator[tuple[object, Any]]:
    """What its keys lead to, when it could not give its entries because of an error."""
    found = 0
    try:
        for key in islice(iter(mapping), MOST):
            found += 1
            yield key, _read(partial(mapping.__getitem__, key))
    except Exception as another:  # noqa: BLE001 - keys that nobody has seen are missing
        # So that the line below says that there may be more.
        found, error = 0, another
    if not found:
        yield "…", Unread(why(error))


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and must not reach training
        return Unread(why(error))
