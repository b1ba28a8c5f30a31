"""Configuration as people write it: which file, which layout, and `${VAR}` in its values.

What this module promises:

* Four layouts are read as they are: a table `tracking` (with `mlflow`, `local` and `settings` below it, if you like);
  a table `mlflow`; `mlflow_…` keys beside those of an experiment; and the fields of `TrackingConfig` alone.
* Whatever else a document holds is the experiment's own, and comes back untouched.
* A mistake is a `SettingsError` that names the file and what is wrong with it.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tailrace_agent.errors import SettingsError
from tailrace_agent.settings.sources import own_table, parse_toml, settings_file
from tailrace_agent.settings.uris import mask_uri

__all__ = [
    "Document",
    "Entry",
    "credentials_in",
    "expand",
    "overridden",
    "read_document",
    "read_override",
    "tracking_entries",
]

_VARIABLE = re.compile(r"\$(?P<escaped>\$?)\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_EXPONENT: Final = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z")
_FLAT: Final = ("enabled", "backend", "tracking_uri", "experiment_name", "registry_uri", "run_name")
"""One of them at the top means that the whole document is about tracking."""
_BESIDE: Final = {
    "mlflow_tracking": "enabled",
    "mlflow_tracking_uri": "tracking_uri",
    "mlflow_registry_uri": "registry_uri",
    "mlflow_experiment_name": "experiment_name",
    "mlflow_run_name": "run_name",
    "mlflow_tags": "tags",
}
_BELOW: Final = ("mlflow", "local", "settings")
_TABLES: Final = ("tracking", "mlflow")
_MOST_VALUES: Final = 100_000
"""YAML's aliases let a small file stand for more than any memory holds."""


class Document(NamedTuple):
    """A configuration before anything in it is checked.

    Attributes:
        values: What it holds.
        name: How to call it in a message.
        path: The file, or None for a dictionary.
    """

    values: Mapping[str, Any]
    name: str
    path: Path | None = None


class Entry(NamedTuple):
    """One value that is about tracking: the field's name, what stands there, and how to call the place."""

    key: str
    value: Any
    place: str


def read_document(source: str | os.PathLike[str] | Mapping[str, Any] | None) -> Document:
    """A file (TOML, YAML, JSON), a mapping, or with None the nearest `tailrace.toml` or `pyproject.toml`.

    Raises:
        SettingsError: It cannot be read, or is no table of keys.
    """
    if isinstance(source, Mapping):
        return Document(source, "the config")
    if source is not None and not isinstance(source, (str, os.PathLike)):
        raise SettingsError(f"a configuration is a file, a dictionary or a TrackingConfig, not {type(source).__name__}")
    # What nobody named is taken only from where it is safe (`settings_file`); what was named is read wherever it lies.
    path = settings_file() if source is None else Path(os.path.expanduser(source))  # noqa: PTH111 - also of a str
    if path is None:
        return Document({}, "the config")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from None
    # JSON goes by the parser for YAML, of which it is a part.
    values: Any = parse_toml(path, data) if path.suffix == ".toml" else _parse_yaml(path, data)
    if path.name == "pyproject.toml":
        # The rest of a pyproject.toml is other tools'.
        values = own_table(values) or {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must hold keys and values, not {type(values).__name__}")
    return Document(values, str(path), path.absolute())


def overridden(document: Document, overrides: Mapping[str, Any]) -> Document:
    """The document with other values in place of its own, or beside them, by their dotted names.

    Raises:
        SettingsError: A name leads through something that is no table.

    Example:
        >>> overridden(Document({"model": {"depth": 3}}, "the config"), {"model.depth": 5}).values
        {'model': {'depth': 5}}
    """
    values = dict(document.values)
    for name, value in overrides.items():
        table: dict[str, Any] = values
        *tables, last = name.split(".")
        for key in tables:
            inner = table.get(key, {})
            if not isinstance(inner, Mapping):
                raise SettingsError(f"{document.name}: {name} cannot be set: {key} is {inner!r}, and no table")
            table[key] = dict(inner)
            table = table[key]
        table[last] = value
    return document._replace(values=values)


def read_override(text: str, example: str) -> tuple[str, Any]:
    """What a command line has in place of a value: the name, and the value as YAML has it.

    Args:
        text: `model.depth=5`.
        example: One that would be right, for the message.

    Raises:
        SettingsError: It is no `key=value`.
    """
    import yaml

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise SettingsError(f"{text!r} is no override: write key=value, such as {example}")
    try:
        return name, yaml.load(value, _loader())  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise SettingsError(f"{text!r}: {' '.join(str(error).split())}") from None


def _parse_yaml(path: Path, data: bytes) -> Any:
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise SettingsError(f"{path}: a configuration is a .toml, .yaml, .yml or .json file")
    import yaml

    try:
        values = yaml.load(data, _loader())  # noqa: S506 - a SafeLoader
    except Exception as error:  # noqa: BLE001 - PyYAML raises anything where a value does not fit its tag
        what = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"{path} is no valid YAML: {what}") from None
    # Before anything walks through it: an alias is one object here, and as many values as it stands for later.
    if _size(values, {}) > _MOST_VALUES:
        raise SettingsError(f"{path} holds more than {_MOST_VALUES:,} values once its aliases are followed")
    return {} if values is None else values


@functools.lru_cache(maxsize=1)
def _loader() -> Any:
    """PyYAML's safe one, for which `1e-5` is a number, as in JSON and YAML 1.2, and as whoever writes it means."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types here
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
    return Loader


def _size(value: Any, known: dict[int, float]) -> float:
    """How many values there are in it, what is aliased each time that it is; endless for what holds itself."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        # What is met again inside itself finds this, and has no end.
        known[id(value)] = math.inf
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(each, known) for each in inner)
    return known[id(value)]


def tracking_entries(document: Document) -> tuple[list[Entry], dict[str, Any]]:
    """What a document sets for tracking, later entries stronger; and the rest of it.

    Raises:
        SettingsError: A table is none, or an `mlflow_…` key is unknown.
    """
    name, values = document.name, document.values
    if document.path is not None and document.path.name in ("tailrace.toml", "pyproject.toml"):
        # In tailrace's own files the keys at the top are settings, and nothing in them is an experiment's.
        own = {key: value for key, value in values.items() if key != "tracking"}
        return [*_entries(own, f"{name}: "), *_table(document)], {}
    # With a table `tracking` such a key is the experiment's own: `enabled` may be anything there.
    if "tracking" not in values and any(key in values for key in _FLAT):
        return _entries(values, f"{name}: "), {}
    beside = [_beside(key, value, name) for key, value in values.items() if str(key).startswith("mlflow_")]
    # Both are of use to either side, so they stay in the rest as well.
    named = [Entry(key, values[key], f"{name}: {key}") for key in ("name", "seed") if key in values]
    rest = {key: value for key, value in values.items() if key not in _TABLES and not str(key).startswith("mlflow_")}
    # The tables last: they are stronger than the keys beside them.
    return [*named, *beside, *_table(document)], rest


def _table(document: Document) -> list[Entry]:
    """The tables `tracking` and `mlflow`, and those below the first."""
    entries = []
    tables = [(name, document.values[name]) for name in _TABLES if document.values.get(name) is not None]
    for path, values in (each for name, table in tables for each in ((name, table), *_below(name, table))):
        where = f"{document.name}: [{path}]"
        if not isinstance(values, Mapping):
            raise SettingsError(f"{where} must be a table, not {values!r}")
        below = _BELOW if path == "tracking" else ()
        entries += _entries({key: value for key, value in values.items() if key not in below}, f"{where} ")
    return entries


def _below(name: str, table: Any) -> list[tuple[str, Any]]:
    if name != "tracking" or not isinstance(table, Mapping):
        return []
    return [(f"tracking.{key}", table[key]) for key in _BELOW if table.get(key) is not None]


def _entries(values: Mapping[str, Any], where: str) -> list[Entry]:
    return [Entry(str(key), value, f"{where}{key}") for key, value in values.items()]


def _beside(key: str, value: Any, name: str) -> Entry:
    if key not in _BESIDE:
        from difflib import get_close_matches

        # `cutoff=0`: of so few keys the nearest is always worth a word.
        near = get_close_matches(key, _BESIDE, n=1, cutoff=0)
        raise SettingsError(f"{name}: {key} is no key of tailrace; did you mean {near[0]!r}?")
    return Entry(_BESIDE[key], value, f"{name}: {key}")


def expand(value: Any, environ: Mapping[str, str], place: str) -> Any:
    """`${VAR}` and `${VAR:-default}` in every text of a value; `$${VAR}` stands for `${VAR}` itself.

    Raises:
        SettingsError: A variable is not set and has no default.
    """
    if isinstance(value, Mapping):
        return {key: expand(item, environ, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, environ, place) for item in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        if match["escaped"]:
            # `$${X}` without its first sign.
            return match[0][1:]
        found = environ.get(match["name"]) or match["default"]  # empty is not set, as in a shell's `:-`
        if found is None:
            raise SettingsError(
                f"{place} needs the environment variable {match['name']}, which is not set, or empty; "
                f"set it, or write ${{{match['name']}:-default}}"
            )
        return found

    return _VARIABLE.sub(replaced, value)


def credentials_in(text: str) -> bool:
    """Whether a URI, as it is written in a file, holds a password: one from a variable does not count."""
    # A default stands in the file, so a password in it counts.
    written = _VARIABLE.sub(lambda match: match["default"] or "", text)
    _, found = mask_uri(written)
    return found is not None and bool(found.partition(":")[2])
