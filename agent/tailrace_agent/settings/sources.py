"""Where settings come from, and one clear error when one is wrong.

What this module promises:

* The nearest source wins: arguments, then `TAILRACE_*` variables, then `tailrace.toml` or `[tool.tailrace]` in
  `pyproject.toml`, then MLflow's own variables, then defaults. Sources are merged key by key.
* A wrong value or an unknown name is a `SettingsError` that names the key, the value, the source and what is allowed.
  No password gets into it.
* A path in a file is meant from that file's directory; anywhere else, from the working directory.

`import tailrace` loads this module, so whatever costs milliseconds (tomllib, difflib) is imported where it is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tailrace_agent.decoding import convert
from tailrace_agent.errors import SettingsError
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.settings.found_files import fault_of_directory, read_found
from tailrace_agent.settings.plug_in import INSTALLED
from tailrace_agent.settings.service_variables import is_of_a_service
from tailrace_agent.settings.settings import Settings, shown
from tailrace_agent.settings.table import TABLE
from tailrace_agent.settings.uris import resolve_uri

__all__ = [
    "INTERNAL_VARIABLES",
    "check_setting",
    "load_settings",
    "own_table",
    "parse_toml",
    "settings_file",
]

INTERNAL_VARIABLES: Final = frozenset(
    {
        "TAILRACE_SESSION",
        "TAILRACE_RUN",
        "TAILRACE_JOB",
        "TAILRACE_RANK",
        "TAILRACE_NATIVE",
        "TAILRACE_GPU_SLOTS",
        "TAILRACE_BUILD_NATIVE",
        INSTALLED,
    }
)
"""No settings: what tailrace sets for its own processes, and what is read before there are any."""


class _Source(NamedTuple):
    """One place where settings come from: raw values, how to call each in a message, and where paths start."""

    values: Mapping[str, object]
    name: Callable[[str], str]
    path: Path | None = None


def load_settings(
    overrides: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    start_dir: Path | None = None,
) -> Settings:
    """Resolves every setting from all sources.

    Args:
        overrides: Settings given as arguments. A value of None counts as not given.
        environ: The environment; `os.environ` when None. An empty variable counts as not set.
        start_dir: Where the search for a file starts, upwards; the working directory when None.

    Raises:
        SettingsError: A name or a value is wrong, or a file is no valid TOML.

    Example:
        >>> load_settings({"flush_interval": "250ms"}, environ={"TAILRACE_NICE": "5"}).nice
        5
    """
    environ = os.environ if environ is None else environ
    resolved: dict[str, object] = {}
    # From the weakest to the strongest, checking all of them: a wrong setting is wrong even where it is overridden.
    for source in (_mlflow(environ), _file(start_dir), _environment(environ), _arguments(overrides or {})):
        for key, value in source.values.items():
            resolved[key] = _check(key, value, source)
    # What has no store needs no agent; all code behind this reads `agent` alone.
    if resolved.get("enabled") is False or resolved.get("backend", "mlflow") != "mlflow":
        resolved["agent"] = "off"
    return convert(resolved, Settings)


def check_setting(key: str, value: object, name: Callable[[str], str], path: Path | None = None) -> object:
    """One setting from another kind of file, checked as `load_settings` would.

    Args:
        key: Name of a setting.
        value: What stands there.
        name: What to call a key in a message.
        path: The file, whose directory relative paths are meant from.

    Raises:
        SettingsError: The value is wrong.
    """
    return _check(key, value, _Source({}, name, path))


def settings_file(start_dir: Path | None = None) -> Path | None:
    """The file that `load_settings` reads settings from, or None. Arguments and errors as there."""
    return _file(start_dir).path


# ── Sources ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _arguments(overrides: Mapping[str, object]) -> _Source:
    for key in overrides:
        _require_known(key, f"argument {key!r}")
    given = {key: value for key, value in overrides.items() if value is not None}
    return _Source(given, lambda key: f"argument {key!r}")


def _environment(environ: Mapping[str, str]) -> _Source:
    values = {}
    for variable, value in environ.items():
        if not variable.startswith("TAILRACE_") or variable in INTERNAL_VARIABLES:
            continue
        if is_of_a_service(variable, value):  # before the name is looked up: it would be an unknown setting
            continue
        key = variable[len("TAILRACE_") :].lower()
        _require_known(key, f"environment variable {variable}", lambda near: f"TAILRACE_{near.upper()}")
        if value.strip():  # a variable cannot be taken back in many CI systems, only emptied
            values[key] = value
    return _Source(values, lambda key: f"environment variable TAILRACE_{key.upper()}")


_MLFLOW_VARIABLES: Final = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "registry_uri": "MLFLOW_REGISTRY_URI",
    "experiment_name": "MLFLOW_EXPERIMENT_NAME",
    "log_system_metrics": "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
    "system_metrics_interval": "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL",
    "system_metrics_node": "MLFLOW_SYSTEM_METRICS_NODE_ID",
}


def _mlflow(environ: Mapping[str, str]) -> _Source:
    values = {key: value for key, name in _MLFLOW_VARIABLES.items() if (value := environ.get(name, ""))}
    return _Source(values, lambda key: f"environment variable {_MLFLOW_VARIABLES[key]}")


def _file(start_dir: Path | None) -> _Source:
    """The nearest `tailrace.toml`, or `pyproject.toml` with a table of ours, up to the repository's root or home.

    What others may have written is left out (`found_files`).
    """
    start = Path(working_directory()) if start_dir is None else start_dir.absolute()
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is no home
    for directory in (start, *start.parents):
        fault = fault_of_directory(directory)  # one stat for both files
        for name, table in (("tailrace.toml", False), ("pyproject.toml", True)):
            source = _read_file(directory / name, fault, table=table)
            if source is not None:
                return source
        if fault is not None:  # whoever may write here also decides what is above
            break
        if directory == home or os.path.exists(directory / ".git"):  # noqa: PTH110 - also where it may not be looked
            break
    return _Source({}, str)


def _read_file(path: Path, fault: str | None, *, table: bool) -> _Source | None:
    # A `pyproject.toml` without that word is somebody's project: parsing it is not ours to pay for.
    data = read_found(path, fault, about=b"tailrace" if table else b"")
    if data is None:
        return None
    values: Any = parse_toml(path, data)
    if table and (values := own_table(values)) is None:
        return None
    where = f"{path} [tool.tailrace]" if table else str(path)
    if not isinstance(values, dict):
        raise SettingsError(f"{where}: must be a table of settings, not {shown(values)}")
    values = {key: value for key, value in values.items() if key != "tracking"}  # tailrace.config reads that table
    for key in values:
        _require_known(key, f"{where}: {key!r}")
    return _Source(values, lambda key: f"{where}: {key}", path)


def parse_toml(path: Path, data: bytes) -> dict[str, Any]:
    """A TOML file's content.

    Raises:
        SettingsError: It is none; the message names the line.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        parsed: dict[str, Any] = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path} is no valid TOML: not UTF-8 (at line {line})") from None
    except RecursionError:
        raise SettingsError(f"{path} is no valid TOML: it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits is none of TOML's own errors
        last_line = data.count(b"\n") + 1
        end = f"at line {last_line}"  # tomllib gives no number there
        reason = str(error).replace("at end of document", end)
        raise SettingsError(f"{path} is no valid TOML: {reason}") from None
    return parsed


def own_table(values: Mapping[str, Any]) -> Any:
    """What a `pyproject.toml` holds for tailrace, None if nothing."""
    tool = values.get("tool")
    return tool.get("tailrace") if isinstance(tool, dict) else None


def _require_known(key: object, origin: str, spell: Callable[[str], str] = repr) -> None:
    if key in TABLE:
        return
    from difflib import get_close_matches

    near = get_close_matches(str(key), TABLE, n=1, cutoff=0.5)
    advice = f"did you mean {spell(near[0])}?" if near else f"known settings: {', '.join(TABLE)}"
    raise SettingsError(f"{origin} is no setting of tailrace; {advice}")


def _check(key: str, value: object, source: _Source) -> object:
    """The value as `Settings` holds it."""
    setting = TABLE[key]
    try:
        parsed = setting.parse(value)
        if parsed is None:  # `as_flag` of another word: None would mean "not set"
            raise ValueError("no value")
        # Through the whole struct: its bounds and types stand there, and nowhere else.
        parsed = getattr(convert({key: parsed}, Settings), key)
    except SettingsError as error:  # its message is more exact than "allowed" could be
        raise SettingsError(f"{source.name(key)}: {error}") from None
    except ValueError:  # msgspec.ValidationError is a ValueError
        allowed = setting.allowed + setting.written
        raise SettingsError(f"{source.name(key)} is {shown(value, key)}; allowed: {allowed}") from None
    return _anchor(key, parsed, None if source.path is None else str(source.path.parent))


def _anchor(key: str, value: object, directory: str | None) -> object:
    """Makes what is relative in a file absolute. A tracking URI from elsewhere stays as it is: a run keeps its cwd."""
    if not isinstance(value, str):
        return value
    if key in ("dir", "ring_dir"):  # absolute at once: the program may change its working directory later
        return str(Path(directory or working_directory(), value))
    if key == "reports_dir":
        return str(Path(directory or "", value))
    if key in ("tracking_uri", "registry_uri") and directory is not None:
        return resolve_uri(value, directory)
    return value
