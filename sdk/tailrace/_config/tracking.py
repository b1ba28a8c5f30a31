"""What a file or a dictionary sets for tracking: `TrackingConfig`, and `load_config`, which reads one.

What this module promises:

* A name that is unknown or a value of the wrong type is a `SettingsError` that names the key, the file, and the nearest
  name that there is.
* The environment is stronger than a configuration: `TAILRACE_ENABLED=false` turns any of them off.
* No password is printed. One that stands in a file draws a warning.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from tailrace._config.files import Document, Entry, credentials_in, expand, overridden, read_document, tracking_entries
from tailrace._messages.voice import Voice
from tailrace_agent.errors import SettingsError
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import check_setting
from tailrace_agent.settings.uris import mask_uri

__all__ = ["TrackingConfig", "load_config"]

_voice = Voice()


class TrackingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How an experiment is tracked. `load_config` reads one from a file.

    Attributes:
        enabled: False: nothing is tracked; the run leaves local reports.
        backend: `mlflow`; `local` for local reports only; `none` for nothing at all.
        tracking_uri: Where MLflow is; None means MLflow's default.
        experiment_name: MLflow's experiment; `name` by default.
        run_name: Of each run; `name` by default.
        tags: Of each run.
        log_params: False switches params off; so do the next three for what they name.
        log_metrics: Metrics.
        log_artifacts: Files, texts, figures, images, tables.
        log_model: Models.
        log_input_example: Keep a model's input example with it.
        log_model_signature: Keep a model's signature with it.
        register_model: Register each logged model as a new version of `model_name`.
        model_name: Name in the registry.
        model_stage: Stage or alias of the new version.
        model_description: Description of the new version.
        registry_uri: Where the model registry is; None means where the runs are.
        name: Of the experiment.
        seed: Of its random numbers; see `Experiment`.
        settings: Any of tailrace's own settings; see docs/settings.md.
        experiment: What else the document holds: the experiment's own configuration.
        source: The file that it was read from.

    Raises:
        SettingsError: A value is wrong.

    Example:
        >>> TrackingConfig(tracking_uri="http://localhost:5000", experiment_name="digits", log_model=False)
        TrackingConfig(tracking_uri='http://localhost:5000', experiment_name='digits', log_model=False)
    """

    enabled: bool = True
    backend: Literal["mlflow", "local", "none"] = "mlflow"
    tracking_uri: str | None = None
    experiment_name: str | None = None
    run_name: str | None = None
    tags: dict[str, str] = {}
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
    registry_uri: str | None = None
    name: str | None = None
    seed: int | None = None
    settings: dict[str, Any] = {}
    experiment: dict[str, Any] = {}
    source: str | None = None

    def __post_init__(self) -> None:
        for key, value in self._changed():
            if key not in ("settings", "experiment", "source"):
                # The class is frozen; a value that was checked may be another one ("true" as True).
                msgspec.structs.force_setattr(self, key, _checked(Entry(key, value, f"TrackingConfig: {key}"), None))
        for key in ("settings", "experiment"):
            if not isinstance(table := getattr(self, key), Mapping):
                raise SettingsError(f"TrackingConfig: {key} is {_shown(table)}; allowed: a table of names and values")
        for key, value in self.settings.items():
            _checked(Entry(key, value, f"TrackingConfig: settings.{key}"), None)

    def _changed(self) -> list[tuple[str, Any]]:
        """What differs from the defaults."""
        return [(key, value) for key in self.__struct_fields__ if (value := getattr(self, key)) != _DEFAULTS[key]]

    def __repr__(self) -> str:
        return f"TrackingConfig({', '.join(f'{key}={_shown(value)}' for key, value in self._changed())})"

    def tracker_settings(self, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The arguments for a `Tracker`: what this sets, but not where a variable `TAILRACE_…` does."""
        environ = os.environ if environ is None else environ
        # Fields are stronger than the table `settings`, which may have a setting of the same name.
        chosen = {**self.settings, **{key: value for key, value in self._changed() if key in _SETTINGS}}
        if self.experiment_name is None and self.name is not None:
            chosen["experiment_name"] = self.name
        # An empty variable counts as none, as everywhere in the settings.
        return {key: value for key, value in chosen.items() if not environ.get(f"TAILRACE_{key.upper()}", "").strip()}


_SETTINGS: Final = frozenset(Settings.__struct_fields__)
_FIELDS: Final = tuple(
    key for key in TrackingConfig.__struct_fields__ if key not in ("settings", "experiment", "source")
)
_DEFAULTS: Final = {
    # msgspec keeps a factory for these, which equals no value.
    key: {} if key in ("tags", "settings", "experiment") else default
    for key, default in zip(TrackingConfig.__struct_fields__, TrackingConfig.__struct_defaults__, strict=True)
}


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | TrackingConfig | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrackingConfig:
    """Reads a configuration. The layouts are on docs/configuration.md.

    Args:
        source: A TOML, YAML or JSON file, or a dictionary; None means the table `tracking` of the nearest
            `tailrace.toml` or `pyproject.toml`, if there is one.
        environ: Where `${VAR}` is looked up; `os.environ` when None.
        overrides: Values by their dotted names in the document (`mlflow.run_name`), in place of those that it has.

    Returns:
        The configuration, checked; for `Tracker(config=…)`.

    Raises:
        SettingsError: A file cannot be read, a name is unknown, a value is wrong, or a variable is missing.

    Example:
        >>> load_config({"tracking": {"enabled": False}}).enabled
        False
    """
    if isinstance(source, TrackingConfig):
        return source
    environ = os.environ if environ is None else environ
    document = overridden(read_document(source), overrides or {})
    entries, own = tracking_entries(document)
    fields: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for entry in entries:
        _warn_of_credentials(entry, document)
        value = expand(entry.value, environ, entry.place)
        # As `${VAR:-}` is where the variable is not set.
        if value is None or value == "":
            continue
        checked = _checked(entry._replace(value=value), document)
        (fields if entry.key in _FIELDS else settings)[entry.key] = checked
    path = None if document.path is None else str(document.path)
    return TrackingConfig(**fields, settings=settings, experiment=own, source=path)


def _warn_of_credentials(entry: Entry, document: Document) -> None:
    if document.path is None or not entry.key.endswith("_uri") or not isinstance(entry.value, str):
        return
    if credentials_in(entry.value):
        _voice.warn(
            f"{entry.place} holds a password ({mask_uri(entry.value)[0]}): write ${{VARIABLE}} in its place, "
            "or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def _shown(value: Any) -> str:
    return repr(_masked(value))


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    # Every text, and not only those named `…_uri`: a password may stand in any of them.
    return mask_uri(value)[0] if isinstance(value, str) else value


def _checked(entry: Entry, document: Document | None) -> Any:
    """The value of one entry, as the field or setting holds it."""
    key, value, place = entry
    if key in _SETTINGS:
        return check_setting(key, value, lambda _: place, document.path if document is not None else None)
    if key not in _FIELDS:
        from difflib import get_close_matches

        known = (*_FIELDS, *sorted(_SETTINGS.difference(_FIELDS)))
        near = get_close_matches(key, known, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise SettingsError(f"{place} is no key of tailrace; {advice}")
    if key == "tags":
        if not isinstance(value, Mapping):
            raise SettingsError(f"{place} is {value!r}; allowed: a table of names and values")
        return {str(name): str(tag) for name, tag in value.items()}
    if key == "seed":
        try:
            return int(value) if isinstance(value, str) else _integer(value)
        except (ValueError, TypeError):
            raise SettingsError(f"{place} is {value!r}; allowed: a whole number") from None
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"{place} is {value!r}; allowed: a text that is not empty")
    return value


def _integer(value: Any) -> int:
    # `True` is an int as well, and no seed.
    if type(value) is not int:
        raise TypeError(value)
    return value
