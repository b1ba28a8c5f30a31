"""The model registry: versions of registered models, the aliases that point to them, and stages.

A version is found by an alias; a stage is an alias with a history:

| stage | alias | what else |
|---|---|---|
| `production`, `staging` | of that name | MLflow's stage of that name; whoever had it before is archived there |
| `archived` | loses `production` and `staging` | MLflow's stage `Archived`, the tag `tailrace.stage` |
| `none` | loses `production` and `staging` | MLflow's stage `None` |
| any other word | of that name | |

MLflow has deprecated its stages. A registry without them keeps the aliases alone.

What goes wrong comes out as MLflow raises it, except for a version that is not there: that is `NotFound`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException

from tailrace_agent.errors import NotFound
from tailrace_agent.ipc.records import ModelSpec
from tailrace_agent.ipc.tags import MODEL_TAG
from tailrace_agent.mlflow.errors import refused_code
from tailrace_agent.mlflow.pages import PAGES_AT_MOST, pages
from tailrace_agent.mlflow.stores import Store

__all__ = ["Registry", "stage_of"]

_STAGE_TAG: Final = "tailrace.stage"
_ALIASED: Final = ("production", "staging")
_MLFLOW_STAGES: Final = {"production": "Production", "staging": "Staging", "archived": "Archived", "none": "None"}
_TAKEN: Final = ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS")
_NO_STAGES: Final = ("ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED")
_PAGE: Final = 1000


class Registry:
    """A model registry of MLflow.

    Args:
        store: Its store, from `stores.open_registry`.

    Attributes:
        store: The same.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- writing -----------------------------------------------------------------------------------------------------

    def register(
        self, spec: ModelSpec, source: str, run_id: str | None, model_id: str | None, directory: Path | None
    ) -> str:
        """A new version of `spec.registered_name`, with all that belongs to it; or the one of an earlier attempt.

        Args:
            spec: What is wanted.
            source: Where the files are, all of them.
            run_id: MLflow's id of the run.
            model_id: Of the logged model, if it is one.
            directory: The same files on this machine, for registries that keep files themselves.

        Returns:
            The version.
        """
        name = spec.registered_name
        assert name is not None
        # Read back, not taken from the answer: this deletes the twin of an earlier attempt that has shown up meanwhile.
        version = self._version_of(name, spec.token)
        if version is None:  # else an earlier attempt has made it, and its answer was lost
            self._make(name)
            self._make_version(name, spec, source, run_id, model_id, directory)
            version = self._version_of(name, spec.token)
        assert version is not None
        # Also for a version that was found: the attempt that made it may have ended before this.
        self.point(name, version, spec.aliases, spec.stage)
        return version

    def point(self, name: str, version: str, aliases: tuple[str, ...] = (), stage: str | None = None) -> None:
        """Points aliases to a version, and puts it into a stage."""
        for alias in aliases:
            self.store.set_registered_model_alias(name, alias, version)
        if stage is not None:
            self._put(name, version, stage)

    def _put(self, name: str, version: str, stage: str) -> None:
        known = stage.lower()
        # As it was written: an alias keeps its case, MLflow's stages do not.
        if known not in _MLFLOW_STAGES:
            self.store.set_registered_model_alias(name, stage, version)
            return
        for alias in _ALIASED:
            if alias == known:
                self.store.set_registered_model_alias(name, alias, version)
            elif self._aliases(name).get(alias) == version:
                self.store.delete_registered_model_alias(name, alias)
        if known == "archived":
            self.store.set_model_version_tag(name, version, ModelVersionTag(_STAGE_TAG, known))
        elif _STAGE_TAG in self.store.get_model_version(name, version).tags:
            self.store.delete_model_version_tag(name, version, _STAGE_TAG)
        try:
            self.store.transition_model_version_stage(name, version, _MLFLOW_STAGES[known], known in _ALIASED)
        except (MlflowException, NotImplementedError) as error:
            # Unity Catalog has no code for it, only words.
            # None: NotImplementedError has no code.
            if getattr(error, "error_code", None) not in (None, *_NO_STAGES) and "unsupported" not in str(error):
                raise

    def _make(self, name: str) -> None:
        try:
            self.store.create_registered_model(name, [], None)
        except MlflowException as error:
            if not any(refused_code(error, code) for code in _TAKEN):
                raise

    def _make_version(
        self,
        name: str,
        spec: ModelSpec,
        source: str,
        run_id: str | None,
        model_id: str | None,
        directory: Path | None,
    ) -> None:
        tags = [ModelVersionTag(key, value) for key, value in {**spec.tags, MODEL_TAG: spec.token}.items()]
        local = {"local_model_path": None if directory is None else str(directory)}
        # Unity Catalog uploads the files itself; older versions of MLflow's other stores do not know the argument.
        keeps_files = "local_model_path" in inspect.signature(self.store.create_model_version).parameters
        self.store.create_model_version(
            name,
            source,
            run_id,
            tags,
            None,
            spec.description,
            **(local if keeps_files else {}),
            **({} if model_id is None else {"model_id": model_id}),  # MLflow 2 does not know it
        )

    # -- reading -----------------------------------------------------------------------------------------------------

    def find(self, name: str, alias: str | None = None, version: str | None = None, stage: str | None = None) -> Any:
        """The version that is meant; the newest when none is given.

        Raises:
            NotFound: There is none; the message names those there are.
        """
        # All of them, and no look-up: what is not found is reported with those that there are.
        versions = self.versions(name)
        aliases = self._aliases(name) if versions else {}
        if version is not None:
            found = [v for v in versions if str(v.version) == str(version)]
        elif alias is not None or stage is not None:
            # A stage of our own (`Canary`) is an alias in the case it was given.
            wanted = aliases.get(alias or str(stage).lower()) or aliases.get(str(stage))
            found = [v for v in versions if str(v.version) == wanted]
            if stage is not None and not found:
                # It was put there by MLflow alone.
                found = [v for v in versions if v.current_stage == _MLFLOW_STAGES.get(stage.lower(), stage)]
        else:
            found = versions
        if not found:
            wanted = _wanted(alias, version, stage)
            raise NotFound(_missing(name, wanted, versions, aliases))
        return found[0]

    def location(self, name: str, version: str) -> str:
        """Where the files of a version are."""
        return str(self.store.get_model_version_download_uri(name, version))

    def versions(self, name: str | None = None) -> list[Any]:
        """Every version of one model or of all, by name, the newest first. Their `aliases` are filled in."""
        found = self._search(None if name is None else f"name = {_quoted(name)}")
        aliases = {of: self._aliases(of) for of in {version.name for version in found}}
        for version in found:
            # A search leaves them empty in MLflow's databases.
            version.aliases = sorted(a for a, v in aliases[version.name].items() if v == str(version.version))
        # As numbers: as text, "10" is before "9".
        return sorted(found, key=lambda version: (version.name, -int(version.version)))

    def _search(self, query: str | None) -> list[Any]:
        def fetch(token: str | None) -> Any:
            return self.store.search_model_versions(query, _PAGE, None, token)

        return [version for page in pages(fetch, PAGES_AT_MOST) for version in page]

    def _version_of(self, name: str, token: str) -> str | None:
        """The version that was made for a token. Of twins, born of an answer that was lost, the first one stays."""
        found = self._search(f"name = {_quoted(name)} AND tags.`{MODEL_TAG}` = '{token}'")
        # The same one stays whoever looks: versions are numbered in the order in which they were made.
        versions = sorted((str(version.version) for version in found), key=int)
        for twin in versions[1:]:
            self.store.delete_model_version(name, twin)
        return versions[0] if versions else None

    def _aliases(self, name: str) -> dict[str, str]:
        """Versions by alias; a database has numbers where a server has text."""
        return {alias: str(version) for alias, version in self.store.get_registered_model(name).aliases.items()}


def stage_of(version: Any) -> str:
    """The stage of a version whose aliases are filled in: by alias, else archived by us, else as MLflow has it."""
    by_alias = [alias for alias in _ALIASED if alias in version.aliases]
    return next(iter(by_alias), None) or version.tags.get(_STAGE_TAG) or (version.current_stage or "None").lower()


def _quoted(name: str) -> str:
    # MLflow's filters have no escape for a quote, only the other kind.
    return f'"{name}"' if "'" in name else f"'{name}'"


def _wanted(alias: str | None, version: str | None, stage: str | None) -> str:
    if version is not None:
        return f"version {version}"
    return f"alias {alias!r}" if alias is not None else f"version in the stage {stage!r}"


def _missing(name: str, wanted: str, versions: list[Any], aliases: Mapping[str, str]) -> str:
    if not versions:
        return f"there is no registered model {name!r}, or it has no version yet"
    known = ", ".join(f"{alias} (version {version})" for alias, version in sorted(aliases.items())) or "none"
    return f"{name!r} has no {wanted}; its newest version is {versions[0].version}, its aliases: {known}"
