"""Params as MLflow stores them: flat names and strings.

Thread safety: every function may be called from any thread; it reads its argument and changes nothing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace._values.parts import MOST, PLAIN, Unread, items_of, named_parts, text_of, unwrapped, why

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FlatParams", "Unreadable", "flatten_params", "plain_config", "unreadable_line"]

MAX_DEPTH: Final = 32
"""Levels of nesting that become part of a name; what is deeper stays in one value, and ends in `...` soon."""
_UNKNOWN: Final = "???"
"""Stands where a value in a list could not be read."""
_NAMED_AT_MOST: Final = 5  # in one warning; all others are counted


class Unreadable(NamedTuple):
    """A param that could not be read.

    Attributes:
        name: Its name (`model.layers`, `models[2].name`).
        why: The error, in one line.
    """

    name: str
    why: str


class FlatParams(NamedTuple):
    """Params after flattening.

    Attributes:
        params: Name to value.
        collisions: Names that came up twice (`{"a.b": 1, "a": {"b": 2}}`), once each; the first value was kept.
        unreadable: What could not be read, and is not among the params.
    """

    params: dict[str, str]
    collisions: list[str]
    unreadable: list[Unreadable]


def flatten_params(params: Any, sep: str = ".") -> FlatParams:
    """Nested params as `a.b.c`, each value by `str()`, as MLflow does.

    What has named parts becomes part of the name, nested in whatever way (see `parts.named_parts`). An empty one stays,
    as `{}`. A list stays one value, whatever its length, and what is in it is written by what it holds:
    `[{'name': 'adam', 'lr': 0.1}]`. An enum that is also a string or a number, or whose value is a string, counts as
    that (`"adam"`, not `"Optimizer.ADAM"`). What contains itself ends at the first repetition.

    Args:
        params: What the user passed.
        sep: What joins the levels.

    Returns:
        The flat params, in order, the names that came up twice, and what could not be read.

    Raises:
        TypeError: `params` is nothing that has names.

    Example:
        >>> flatten_params({"model": {"layers": 2}, "lr": 0.1}).params
        {'model.layers': '2', 'lr': '0.1'}
    """
    flattening = _Flattening(sep)
    for key, value in _entries(params, "params"):
        # The ids on the way down show what contains itself. Frames above hold the values, so no id is used twice.
        flattening.visit(key, value, "", (id(params),))
    return flattening.flat


def plain_config(config: Any, unreadable: list[Unreadable] | None = None) -> dict[str, Any]:
    """A configuration as a dictionary of plain values that every reader of YAML takes, and that nobody else holds.

    Args:
        config: Anything that has names, as `flatten_params` takes it.
        unreadable: Gets what could not be read, which is left out then. Without it, `???` stands in its place.

    Raises:
        TypeError: It is nothing that has names.

    Example:
        >>> plain_config({"path": Path("data"), "sizes": (1, 2)})
        {'path': 'data', 'sizes': [1, 2]}
    """
    missed: list[Unreadable] = [] if unreadable is None else unreadable
    plain = _Plain(missed, keep=unreadable is None, for_yaml=True)
    return plain.named(_entries(config, "a config"), "", (id(config),))


def unreadable_line(unreadable: list[Unreadable]) -> str:
    """The warning about params that could not be read, all of them in one line."""
    names = [repr(each.name) for each in unreadable[:_NAMED_AT_MOST]]
    more = len(unreadable) - len(names)
    if len(unreadable) == 1:
        return f"param {names[0]} could not be read: {unreadable[0].why}"
    listed = f"{', '.join(names)} and {more} more" if more else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"params {listed} could not be read; {names[0]}: {unreadable[0].why}"


def _entries(params: Any, what: str) -> list[tuple[object, Any]]:
    """The entries of the whole.

    Raises:
        TypeError: It has none.
    """
    try:
        parts = named_parts(unwrapped(params))
    except Exception as error:  # noqa: BLE001 - a foreign object may raise anything
        return [("…", Unread(why(error)))]
    if parts is None:
        raise TypeError(f"{what} must be a mapping, not {type(params).__name__}")
    return parts


def _name_of(key: object) -> str:
    try:
        return key if type(key) is str else text_of(key)
    except Exception:  # noqa: BLE001 - a foreign key may raise anything
        return f"<{type(key).__name__} without a str()>"


class _Flattening:
    """One call of `flatten_params`."""

    def __init__(self, sep: str) -> None:
        self._sep = sep
        self._left = MOST
        self.flat = FlatParams({}, [], [])
        self._plain = _Plain(self.flat.unreadable)

    def visit(self, key: object, value: Any, prefix: str, path: tuple[int, ...]) -> None:
        """Takes one entry, and what is below it; never raises."""
        name = prefix + _name_of(key)
        self._left -= 1
        if self._left < 0:
            # Once: the warning names what was cut, and millions of lines would be the same trouble again.
            if self._left == -1:
                self.flat.unreadable.append(Unreadable(f"{prefix}…", f"these are more than {MOST:,} params"))
            return
        try:
            self._take(name, value, path)
        except Exception as error:  # noqa: BLE001 - foreign values may raise anything, and must not reach training
            self.flat.unreadable.append(Unreadable(name, why(error)))

    def _take(self, name: str, value: Any, path: tuple[int, ...]) -> None:
        if type(value) in PLAIN:
            self._add(name, str(value))
            return
        if isinstance(value, Unread):
            self.flat.unreadable.append(Unreadable(name, value.why))
            return
        value = unwrapped(value)
        if id(value) in path:
            self._add(name, "{...}")
            return
        # Deeper ones go to `_plain`, which cuts them: a mapping that makes new ones would never end.
        parts = named_parts(value) if len(path) < MAX_DEPTH else None
        if parts:
            for key, part in parts:
                self.visit(key, part, name + self._sep, (*path, id(value)))
        else:
            self._add(name, "{}" if parts is not None else self._plain.text(value, name, path))

    def _add(self, name: str, text: str) -> None:
        # The first one stays: MLflow refuses a second value for a param.
        if name not in self.flat.params:
            self.flat.params[name] = text
        elif name not in self.flat.collisions:
            self.flat.collisions.append(name)


class _Plain:
    """Makes values plain: dictionaries, lists, numbers and strings.

    Args:
        unreadable: Gets what cannot be read.
        keep: Put `???` in its place, also where it has a name.
        for_yaml: Every sequence becomes a list, and arrays do, too.
    """

    def __init__(self, unreadable: list[Unreadable], *, keep: bool = False, for_yaml: bool = False) -> None:
        self._unreadable, self._keep, self._for_yaml = unreadable, keep, for_yaml
        self._left = MOST

    def text(self, value: Any, name: str, path: tuple[int, ...]) -> str:
        """One value as a string; raises what its `str()` does."""
        # By its own `str()`: a path, a date or a class of the user's is written as MLflow writes it.
        if items_of(value) is None and named_parts(value) is None:
            return text_of(value)
        return str(self._of(value, name, path))

    def named(self, parts: Iterable[tuple[object, Any]], prefix: str, path: tuple[int, ...]) -> dict[str, Any]:
        """Entries, without those that cannot be read."""
        plain = {}
        for key, part in parts:
            name = _name_of(key)
            value = self._visit(part, prefix + name, path)
            if value is not _UNREAD or self._keep:
                plain[name] = _UNKNOWN if value is _UNREAD else value
        return plain

    def _visit(self, value: Any, name: str, path: tuple[int, ...]) -> Any:
        self._left -= 1
        if self._left < 0:
            return "..."
        try:
            found = Unreadable(name, value.why) if isinstance(value, Unread) else self._of(value, name, path)
        except Exception as error:  # noqa: BLE001 - as in _Flattening.visit
            found = Unreadable(name, why(error))
        if isinstance(found, Unreadable):
            self._unreadable.append(found)
            return _UNREAD
        return found

    def _of(self, value: Any, name: str, path: tuple[int, ...]) -> Any:
        value = value if type(value) in PLAIN else unwrapped(value)
        if type(value) in PLAIN:
            return value
        if id(value) in path or len(path) > MAX_DEPTH:
            return "..."
        parts, path = named_parts(value), (*path, id(value))
        if parts is not None:
            return self.named(parts, f"{name}.", path)
        items = items_of(value)
        if items is not None:
            return self._listed(value, [self._item(item, f"{name}[{at}]", path) for at, item in enumerate(items)])
        if self._for_yaml and hasattr(value, "tolist"):  # NumPy's arrays, and tensors
            return self._of(value.tolist(), name, path)
        return text_of(value)

    def _item(self, item: Any, name: str, path: tuple[int, ...]) -> Any:
        value = self._visit(item, name, path)
        return _UNKNOWN if value is _UNREAD else value

    def _listed(self, value: Any, items: list[Any]) -> Any:
        if self._for_yaml:
            return items
        if isinstance(value, tuple):
            # As `str()` of the value itself would write it, which is what MLflow stores.
            return tuple(items)
        if isinstance(value, (set, frozenset)):
            with contextlib.suppress(TypeError):  # models may be hashable, what they hold is not
                return set(items)
        return items


_UNREAD: Final = object()
"""In the place of a value that could not be read."""
