"""Tables as people write them into configurations, checked key by key before they become objects."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from tailrace.training.nearest_name import advice
from tailrace_agent.decoding import convert
from tailrace_agent.errors import SettingsError

__all__ = ["read_struct"]

S = TypeVar("S", bound=msgspec.Struct)


def read_struct(table: Any, kind: type[S], place: str) -> S:
    """A table as an object.

    Args:
        table: Names and values.
        kind: What it becomes.
        place: How to call it in a message: `digits.yaml: training`.

    Raises:
        SettingsError: A key is unknown (the nearest is named) or missing, or a value is of a wrong type.

    Example:
        >>> read_struct({"framework": "sklearn", "model_type": "svc"}, ModelConfig, "the config: model").model_type
        'svc'
    """
    _check_keys(table, kind, place)
    try:
        return convert(table, kind)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        raise SettingsError(f"{place}{at.rstrip('`')}: {text[0].lower()}{text[1:]}") from None


def _check_keys(table: Any, kind: type[msgspec.Struct], place: str) -> None:
    if not isinstance(table, dict):
        raise SettingsError(f"{place} is {table!r}; allowed: a table of names and values")
    for key in table:
        if key not in kind.__struct_fields__:
            raise SettingsError(f"{place}.{key} is no key there; {advice(str(key), kind.__struct_fields__)}")
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in table:
            raise SettingsError(f"{place}.{field.name} is missing")
        if field.name in table and isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            _check_keys(table[field.name], field.type, f"{place}.{field.name}")
