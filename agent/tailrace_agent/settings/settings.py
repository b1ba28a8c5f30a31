"""Settings: where each comes from, what is allowed, and one clear error when one is wrong.

What this module promises:

* The nearest source wins: arguments, then `TAILRACE_*` variables, then `tailrace.toml` or `[tool.tailrace]` in
  `pyproject.toml`, then MLflow's own variables, then defaults. Sources are merged key by key.
* A wrong value or an unknown name is a `SettingsError` that names the key, the value, the source and what is allowed.
  No password gets into it.
* A path in a file is meant from that file's directory; anywhere else, from the working directory.

`import tailrace` loads this module, so whatever costs milliseconds (platformdirs, tomllib, difflib) is imported where
it is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from tailrace_agent.errors import SettingsError
from tailrace_agent.runtime.places import temporary_state_dir, working_directory
from tailrace_agent.settings.found_files import fault_of_directory, read_found
from tailrace_agent.settings.service_variables import is_of_a_service
from tailrace_agent.settings.units import (
    as_flag,
    as_number,
    as_path,
    as_text,
    as_whole,
    as_word,
    by_pattern,
    parse_duration,
    parse_size,
)
from tailrace_agent.settings.uris import mask_uri, mask_url, misspelt, resolve_uri, shown_uri

__all__ = [
    "INTERNAL_VARIABLES",
    "Settings",
    "check_setting",
    "load_settings",
    "parse_duration",
    "parse_size",
    "parse_toml",
    "settings_file",
    "state_dir",
]

INTERNAL_VARIABLES: Final = frozenset({"TAILRACE_SESSION", "TAILRACE_RUN", "TAILRACE_NATIVE", "TAILRACE_BUILD_NATIVE"})
"""No settings: what tailrace sets for its own processes, and what is read before there are any."""

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_GIB: Final = 1024 * _MIB

_Positive = Annotated[float, msgspec.Meta(gt=0, le=60)]
_Hour = Annotated[float, msgspec.Meta(gt=0, le=3600)]
_Day = Annotated[float, msgspec.Meta(ge=0, le=86400)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked. Built by `load_settings`.

    Attributes:
        enabled: False is `agent = "off"`.
        backend: `mlflow`; `local` keeps nothing but local reports; `none` not even those.
        agent: `process` delivers from a process of its own, `thread` from a thread of the training process, `off`
            tracks nothing and leaves local reports.
        reports_dir: Directory of the local reports.
        tracking_uri: Where MLflow is; None means MLflow's default.
        registry_uri: Where its model registry is; None means beside the runs.
        experiment_name: Created when missing; None means MLflow's default experiment.
        on_error: What happens when tracking cannot work at all: `warn` once and keep the run locally, or `raise`.
        strict: Raise on a call with arguments that can never work, instead of warning once and counting it.
        quiet: Print nothing.
        dir: Directory of all state; None means the user's state directory.
        ring_dir: Directory of the rings; None means `/dev/shm` when there is one.
        ring_bytes: Size of one process's ring.
        spool_max_bytes: Bound of what waits on disk for one session.
        flush_interval: Seconds between deliveries.
        drain_interval: Seconds between looks into the rings.
        end_timeout: Seconds that `end_run` waits for the delivery at most.
        exit_timeout: Seconds that the interpreter's exit waits at most.
        request_timeout: Seconds that one request to MLflow may take.
        retry_max_delay: Longest pause between two attempts, in seconds.
        artifact_snapshot: How an artifact is kept as it was at the call: `copy`, or `link` for files that are only
            ever replaced, never written in place.
        every: Pattern of a metric's key to n: of its values, only each n-th is logged, and the last one.
        min_interval: Pattern of a metric's key to the least number of seconds between two values of it that are logged.
        nice: Added to the niceness of the agent process.
        keep_days: Days that a finished session stays for `tailrace verify`.
        linger: Seconds that the agent goes on trying to deliver after its programs have ended.
        log_level: Of the agent's log file.
        log_system_metrics: Sample the machine while a run lasts.
        system_metrics_interval: Seconds between two samples.
        system_metrics_node: Name of this machine among several that log to one run.
        metadata: Store with each new run where it comes from: git, command line, host, Python, packages, GPUs.
        git_diff: Store the uncommitted changes too, as an artifact.
        log_params: False makes `log_params` a no-op; so do the next three for their calls.
        log_metrics: `log`, `log_metric`, `log_metrics`.
        log_artifacts: Files, texts, figures, images and tables.
        log_model: Models.
        log_input_example: Keep a model's input example with it.
        log_model_signature: Keep a model's signature with it.
        register_model: Register each logged model under `model_name`.
        model_name: Name in the registry.
        model_stage: Stage or alias of the new version.
        model_description: Description of the new version.
        prometheus_port: Port on which the agent serves the latest metrics to Prometheus: None for not at all, 0 for any
            that is free.
        prometheus_host: Address that it serves on.
        alerts: Rules such as `loss is NaN`; see docs/dashboards.md.
        alert_webhook: URL to which each alert is posted as JSON.
    """

    enabled: bool = True
    backend: Literal["mlflow", "local", "none"] = "mlflow"
    agent: Literal["process", "thread", "off"] = "process"
    reports_dir: str = "reports"
    tracking_uri: str | None = None
    registry_uri: str | None = None
    experiment_name: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    on_error: Literal["warn", "raise"] = "warn"
    strict: bool = False
    quiet: bool = False
    dir: str | None = None
    ring_dir: str | None = None
    ring_bytes: Annotated[int, msgspec.Meta(ge=64 * _KIB, le=64 * _GIB)] = 8 * _MIB
    spool_max_bytes: Annotated[int, msgspec.Meta(ge=_MIB, le=_GIB * _GIB)] = 4 * _GIB
    flush_interval: _Positive = 0.5
    drain_interval: _Positive = 0.1
    end_timeout: _Day = 60.0
    exit_timeout: _Day = 30.0
    request_timeout: _Hour = 30.0
    retry_max_delay: _Hour = 30.0
    artifact_snapshot: Literal["copy", "link"] = "copy"
    every: dict[str, Annotated[int, msgspec.Meta(ge=1)]] | None = None
    min_interval: dict[str, _Day] | None = None
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 10
    keep_days: Annotated[float, msgspec.Meta(ge=0, le=36500)] = 7.0
    linger: _Day = 86400.0
    log_system_metrics: bool = False
    system_metrics_interval: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 1.0
    system_metrics_node: str | None = None
    metadata: bool = True
    git_diff: bool = False
    log_params: bool = True
    log_metrics: bool = True
    log_artifacts: bool = True
    log_model: bool = True
    log_input_example: bool = True
    log_model_signature: bool = True
    register_model: bool = False
    model_name: str | None = None
    model_stage: str | None = None
    model_description: str | None = None
    prometheus_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    prometheus_host: str = "127.0.0.1"
    alerts: tuple[str, ...] = ()
    alert_webhook: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __repr__(self) -> str:
        shown = (f"{key}={_show(getattr(self, key), key)}" for key in self.__struct_fields__)
        return f"Settings({', '.join(shown)})"


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
    if resolved.get("enabled") is False or resolved.get("backend", "mlflow") != "mlflow":
        resolved["agent"] = "off"
    return msgspec.convert(resolved, Settings)


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


def state_dir(settings: Settings) -> Path:
    """Where all state is kept: `settings.dir`, or the user's state directory. Nothing is created."""
    if settings.dir is not None:
        return Path(settings.dir)
    from platformdirs import user_state_path

    try:
        path = user_state_path("tailrace", appauthor=False)
    except RuntimeError:  # what newer platformdirs says where there is no home
        return temporary_state_dir()
    return path if path.is_absolute() else temporary_state_dir()  # what older ones begin with `~`


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
        if is_of_a_service(variable, value):
            continue
        key = variable[len("TAILRACE_") :].lower()
        _require_known(key, f"environment variable {variable}", lambda near: f"TAILRACE_{near.upper()}")
        if value.strip():
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
        fault = fault_of_directory(directory)
        for name, table in (("tailrace.toml", False), ("pyproject.toml", True)):
            source = _read_file(directory / name, fault, table=table)
            if source is not None:
                return source
        if fault is not None:  # whoever may write here also says what is above
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
        raise SettingsError(f"{where}: must be a table of settings, not {_show(values)}")
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
        end = f"at line {last_line}"  # tomllib says no number there
        reason = str(error).replace("at end of document", end)
        raise SettingsError(f"{path} is no valid TOML: {reason}") from None
    return parsed


def own_table(values: Mapping[str, Any]) -> Any:
    """What a `pyproject.toml` holds for tailrace, None if nothing."""
    tool = values.get("tool")
    return tool.get("tailrace") if isinstance(tool, dict) else None


def _require_known(key: object, origin: str, spell: Callable[[str], str] = repr) -> None:
    if key in _RULES:
        return
    from difflib import get_close_matches

    near = get_close_matches(str(key), _RULES, n=1, cutoff=0.5)
    advice = f"did you mean {spell(near[0])}?" if near else f"known settings: {', '.join(_RULES)}"
    raise SettingsError(f"{origin} is no setting of tailrace; {advice}")


# ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rules(value: object) -> object:
    """Alert rules: a list, or one text with a semicolon between two rules."""
    from tailrace_agent.settings.alert_rules import parse_rule

    if isinstance(value, str):
        value = [rule for part in value.split(";") if (rule := part.strip())]
    if not isinstance(value, (list, tuple)) or not all(isinstance(rule, str) for rule in value):
        raise ValueError("no list of rules")
    for rule in value:
        parse_rule(rule)
    return tuple(value)


def _webhook(value: object) -> object:
    if isinstance(value, str) and (not value.startswith(("http://", "https://")) or misspelt(value)):
        raise ValueError("no URL of a web server")
    return value


class _Rule(NamedTuple):
    parse: Callable[[object], object]
    allowed: str


_MINUTE_RULE = _Rule(parse_duration, 'more than 0 and at most 60 seconds, as a number or text such as "500ms"')
_HOUR_RULE = _Rule(parse_duration, 'more than 0 and at most 3600 seconds, as a number or text such as "30s"')
_DAY_RULE = _Rule(parse_duration, 'from 0 to 86400 seconds, as a number or text such as "500ms", "30s", "2min"')
_FLAG_RULE = _Rule(as_flag, "true or false (also 1/0, yes/no, on/off)")
_TEXT_RULE = _Rule(as_text, "a text that is not empty")
_URI_RULE = _Rule(lambda value: as_text(_uri(value)), "a tracking URI as MLflow takes it, e.g. sqlite:///mlflow.db")
_PATH_RULE = _Rule(lambda value: as_text(as_path(value)), "the path of a directory")

_RULES: Final[dict[str, _Rule]] = {
    "enabled": _FLAG_RULE,
    "backend": _Rule(as_word, "mlflow, local or none"),
    "agent": _Rule(as_word, "process, thread or off"),
    "reports_dir": _PATH_RULE,
    "tracking_uri": _URI_RULE,
    "registry_uri": _URI_RULE,
    "experiment_name": _Rule(as_text, "a text of 1 to 500 characters"),
    "on_error": _Rule(as_word, "warn or raise"),
    "strict": _FLAG_RULE,
    "quiet": _FLAG_RULE,
    "dir": _PATH_RULE,
    "ring_dir": _PATH_RULE,
    "ring_bytes": _Rule(parse_size, 'from 64 KiB to 64 GiB, as a number of bytes or text such as "8MB", "64 KiB"'),
    "spool_max_bytes": _Rule(parse_size, 'at least 1 MiB, as a number of bytes or text such as "500MB", "4 GiB"'),
    "flush_interval": _MINUTE_RULE,
    "drain_interval": _MINUTE_RULE,
    "end_timeout": _DAY_RULE,
    "exit_timeout": _DAY_RULE,
    "request_timeout": _HOUR_RULE,
    "retry_max_delay": _HOUR_RULE,
    "artifact_snapshot": _Rule(as_word, "copy or link"),
    "every": _Rule(
        lambda value: by_pattern(value, as_whole),
        'a whole number from 1, or one for each pattern: {"train/*": 10}, or as text "train/*=10, grad/*=100"',
    ),
    "min_interval": _Rule(
        lambda value: by_pattern(value, parse_duration),
        'from 0 to 86400 seconds, or a duration for each pattern: {"train/*": "500ms"}, or as text "train/*=500ms"',
    ),
    "nice": _Rule(as_whole, "a whole number from 0 to 19"),
    "keep_days": _Rule(as_number, "a number of days, 0 or more"),
    "linger": _DAY_RULE,
    "log_system_metrics": _FLAG_RULE,
    "system_metrics_interval": _Rule(
        parse_duration, 'from 0.1 to 3600 seconds, as a number or text such as "500ms", "10s"'
    ),
    "system_metrics_node": _TEXT_RULE,
    "metadata": _FLAG_RULE,
    "git_diff": _FLAG_RULE,
    "log_params": _FLAG_RULE,
    "log_metrics": _FLAG_RULE,
    "log_artifacts": _FLAG_RULE,
    "log_model": _FLAG_RULE,
    "log_input_example": _FLAG_RULE,
    "log_model_signature": _FLAG_RULE,
    "register_model": _FLAG_RULE,
    "model_name": _TEXT_RULE,
    "model_stage": _TEXT_RULE,
    "model_description": _TEXT_RULE,
    "prometheus_port": _Rule(as_whole, "a port from 0 (any that is free) to 65535"),
    "prometheus_host": _TEXT_RULE,
    "alerts": _Rule(_rules, 'a list of rules such as "loss is NaN"'),
    "alert_webhook": _Rule(_webhook, "a URL that begins with http:// or https:// and names a host"),
    "log_level": _Rule(as_word, "debug, info, warning or error"),
}
"""How each setting is read, and what a person is told when it is wrong. The bounds are those of `Settings`."""


def _uri(value: object) -> object:
    if isinstance(value, os.PathLike):
        return Path(working_directory(), value).as_uri()
    if isinstance(value, str) and (fault := misspelt(value)) is not None:
        raise SettingsError(f"{shown_uri(value)!r} is no tracking URI: {fault}")
    return value


def _check(key: str, value: object, source: _Source) -> object:
    """The value as `Settings` holds it."""
    rule = _RULES[key]
    try:
        parsed = rule.parse(value)
        if parsed is None:
            raise ValueError("no value")
        parsed = getattr(msgspec.convert({key: parsed}, Settings), key)
    except SettingsError as error:  # it says more than "allowed" could
        raise SettingsError(f"{source.name(key)}: {error}") from None
    except ValueError:  # msgspec.ValidationError is a ValueError
        raise SettingsError(f"{source.name(key)} is {_show(value, key)}; allowed: {rule.allowed}") from None
    return _anchor(key, parsed, None if source.path is None else str(source.path.parent))


def _anchor(key: str, value: object, directory: str | None) -> object:
    """Makes what is relative in a file absolute. A tracking URI from elsewhere stays as it is: a run keeps its cwd."""
    if not isinstance(value, str):
        return value
    if key in ("dir", "ring_dir"):
        return str(Path(directory or working_directory(), value))
    if key == "reports_dir":
        return str(Path(directory or "", value))
    if key in ("tracking_uri", "registry_uri") and directory is not None:
        return resolve_uri(value, directory)
    return value


def _show(value: object, key: str = "") -> str:
    """A value for a message: on one line, not too long, without a password."""
    if isinstance(value, str):  # whoever knows a webhook's path may post to it
        value = mask_url(value) if key == "alert_webhook" else mask_uri(value)[0]
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
