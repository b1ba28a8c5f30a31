"""Params as MLflow stores them: flat names and strings.

Thread safety: `flatten_params` may be called from any thread; it reads its argument and changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FlatParams", "flatten_params", "plain_config"]

MAX_DEPTH: Final = 32
"""Levels of nesting that become part of a name; what is deeper stays one `str()`."""


class FlatParams(NamedTuple):
    """Params after flattening.

    Attributes:
        params: Name to value.
        collisions: Names that came up twice (`{"a.b": 1, "a": {"b": 2}}`), once each; the first value was kept.
    """

    params: dict[str, str]
    collisions: list[str]


def flatten_params(params: Mapping[Any, object], sep: str = ".") -> FlatParams:
    """Nested params as `a.b.c`, each value by `str()`, as MLflow does.

    Nested mappings, dataclass instances, msgspec structs and `argparse.Namespace` become part of the name. Lists stay
    whole. An enum that is also a string or a number counts as that (`"adam"`, not `"Optimizer.ADAM"`). An empty
    mapping stays, as `{}`. A mapping that contains itself ends at the first repetition.

    Args:
        params: What the user passed; a dataclass instance or Namespace will do too.
        sep: What joins the levels.

    Returns:
        The flat params, in order, and the names that came up twice.

    Raises:
        TypeError: `params` is nothing that has names.

    Example:
        >>> flatten_params({"model": {"layers": 2}, "lr": 0.1}).params
        {'model.layers': '2', 'lr': '0.1'}
    """
    children = _children(params)
    if children is None:
        raise TypeError(f"params must be a mapping, not {type(params).__name__}")
    flat = FlatParams({}, [])
    for name, value in _walk(children, sep, "", (id(params),)):
        if name not in flat.params:
            flat.params[name] = value
        elif name not in flat.collisions:
            flat.collisions.append(name)
    return flat


def plain_config(config: Any) -> dict[str, Any]:
    """A configuration as a dictionary of plain values that every reader of YAML takes, and that nobody else holds.

    Args:
        config: A mapping of any nesting; dataclass instances, msgspec structs and `argparse.Namespace` count as such.

    Raises:
        TypeError: It is nothing that has names.

    Example:
        >>> plain_config({"path": Path("data"), "sizes": (1, 2)})
        {'path': 'data', 'sizes': [1, 2]}
    """
    if _children(config) is None:
        raise TypeError(f"a config must be a mapping, not {type(config).__name__}")
    whole: dict[str, Any] = _plain(config, ())
    return whole


def _plain(value: Any, path: tuple[int, ...]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if id(value) in path or len(path) > MAX_DEPTH:
        return "..."
    below, path = _children(value), (*path, id(value))
    if below is not None:
        return {_text(key): _plain(child, path) for key, child in below}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, path) for item in value]
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays, and tensors
        return _plain(value.tolist(), path)
    if isinstance(value, Enum) and isinstance(value.value, (str, int, float)):
        return value.value
    return _text(value)


def _walk(
    children: list[tuple[object, object]], sep: str, prefix: str, path: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    for key, value in children:
        name = prefix + _text(key)
        if id(value) in path:
            yield name, "{...}"
            continue
        below = _children(value) if len(path) < MAX_DEPTH else None
        if below:
            yield from _walk(below, sep, name + sep, (*path, id(value)))
        else:
            yield name, _text(value)


def _children(value: Any) -> list[tuple[object, object]] | None:
    """The named parts of a value, or None when it has none of its own."""
    if isinstance(value, Mapping):
        return list(value.items())
    kind = type(value)
    if hasattr(kind, "__struct_fields__"):
        return [(name, getattr(value, name, None)) for name in kind.__struct_fields__]
    if hasattr(kind, "__dataclass_fields__"):
        fields = sys.modules["dataclasses"].fields(value)
        return [(field.name, getattr(value, field.name, None)) for field in fields]
    if kind.__module__ == "argparse" and kind.__name__ == "Namespace":
        return list(vars(value).items())
    return None


def _text(value: object) -> str:
    if isinstance(value, Enum) and isinstance(value, (str, int, float)):
        value = value.value
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a foreign __str__ may raise anything, and must not reach training
        return f"<{type(value).__name__} without a str()>"
