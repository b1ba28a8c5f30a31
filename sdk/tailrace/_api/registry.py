"""The model registry as users call it: loading, listing and moving versions, in the caller, by MLflow.

These calls answer, or raise; they are not for the training loop. MLflow is imported by the first of them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace._api.model_handle import ModelHandle
from tailrace._api.tracker_part import TrackerPart
from tailrace._models.names import aliases_of, check_names, tags_of
from tailrace._models.progress import ModelProgress
from tailrace_agent.errors import CallError, NotFound, TailraceError
from tailrace_agent.ipc.records import ModelOutcome, ModelSpec
from tailrace_agent.runtime.places import working_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from tempfile import TemporaryDirectory

    import pandas as pd

    from tailrace_agent.mlflow.models import Placed
    from tailrace_agent.mlflow.registry import Registry
    from tailrace_agent.settings.settings import Settings

__all__ = ["RegistryCalls"]

_RUN_URI: Final = re.compile(r"runs:/([^/]+)/(.+)")
# A registered model may be named `m-…` as well: only hexadecimal digits make it the id of a logged one.
_MODEL_URI: Final = re.compile(r"models:/(m-[0-9a-f]+)")
_VERSION_URI: Final = re.compile(r"models:/([^/@]+)(?:@(.+)|/(\d+)|/(.+))")
_COLUMNS: Final = ("name", "version", "aliases", "stage", "description", "run_id", "created", "tags", "source")

_downloads: list[TemporaryDirectory[str]] = []
"""Files that loaded models may still read; deleted when the interpreter ends."""


class RegistryCalls(TrackerPart):
    """`load_model`, `list_models` and their kin. A base of `Tracker`."""

    def load_model(
        self,
        name: str,
        *,
        alias: str | None = None,
        version: str | int | None = None,
        stage: str | None = None,
        run_id: str | None = None,
        pyfunc: bool = False,
    ) -> Any:
        """Loads a model, as what it was when it was logged.

        Its files may hold pickles: load only what you trust.

        Args:
            name: A registered model; with `run_id`, a model of that run; or a URI: `models:/m-…`, `models:/name@alias`,
                `runs:/…`.
            alias: The version with this alias.
            version: This version.
            stage: The version in this stage. Without any of these: the newest version.
            run_id: MLflow's id of a run.
            pyfunc: Load it as an `mlflow.pyfunc` model, which takes and gives arrays and frames, whatever it is.

        Returns:
            The model: what its flavour loads, or an `mlflow.pyfunc.PyFuncModel`.

        Raises:
            NotFound: There is no such model; the message says which there are.
            CallError: More than one of `alias`, `version`, `stage` and `run_id` was passed.
            TailraceError: MLflow cannot be reached, or refuses.

        Example:
            >>> model = tailrace.load_model("digits", alias="champion")
        """
        choices = {"alias": alias, "version": version, "stage": stage, "run_id": run_id}
        chosen = [key for key, value in choices.items() if value is not None]
        if len(chosen) > 1:
            raise CallError(
                f"load_model takes one of alias, version, stage and run_id: {' and '.join(chosen)} were passed"
            )
        name = str(name)
        with _Stores(self._core.settings({})) as stores:
            placed = stores.by_uri(name) if run_id is None else stores.of_run(run_id, name)
            if placed is None:
                uri = _VERSION_URI.fullmatch(name)
                if uri is not None:
                    name, alias, version = uri[1], uri[2] or alias, uri[3] or version
                    stage = stage if uri[4] in (None, "latest") else uri[4]  # as MLflow reads it
                found = stores.registry.find(name, alias, None if version is None else str(version), stage)
                location = stores.registry.location(name, found.version)
            else:
                location = placed.location
            path = stores.download(location)
        return _load(path, pyfunc=pyfunc)

    def register_model(
        self,
        model: Any,
        model_name: str,
        sample_input: Any = None,
        stage: str | None = None,
        tags: Mapping[str, Any] | None = None,
        description: str | None = None,
        *,
        alias: str | Sequence[str] | None = None,
        run_id: str | None = None,
    ) -> ModelHandle:
        """Logs a model and registers it as a new version of `model_name`; or registers one that MLflow has.

        Args:
            model: As for `log_model`; or the URI of a model that MLflow has (`models:/m-…`, `runs:/…`), which is
                registered at once, in the caller.
            model_name: Of the registered model; created when missing. Without `/` and `:`.
            sample_input: A small input (a few rows); kept with the model, and the source of its signature.
            stage: `production`, `staging`, or any other word, which is then an alias; see docs/models.md.
            tags: Of the logged model and of the version.
            description: Of the version.
            alias: One or several aliases that then point to this version.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Returns:
            A handle to wait on. What goes wrong with a URI is in its `error`, and warned about.

        Raises:
            CallError: Under `strict=True`: it is no model, cannot be copied, or a name is not allowed.

        Thread safety: any thread; leave the model alone during the call.

        Example:
            >>> tailrace.register_model(model, "digits", sample_input=batch[:1], alias="champion").wait()
            True
            >>> tailrace.register_model("runs:/0f6a…/net", "digits").version
            '4'
        """
        if isinstance(model, str) and model.startswith(("models:/", "runs:/")):
            return self._register_uri(model, model_name, alias, stage, tags, description)
        run = self._to(run_id)
        return run.register_model(model, model_name, sample_input, stage, tags, description, alias=alias)

    def list_models(self, name: str | None = None) -> pd.DataFrame:
        """All versions of one registered model or of all of them, by name, the newest version first.

        Args:
            name: Of the registered model; all of them when None.

        Returns:
            A DataFrame with the columns `name`, `version`, `aliases`, `stage`, `description`, `run_id`, `created`,
            `tags` and `source`.

        Raises:
            TailraceError: MLflow cannot be reached, or refuses.

        Example:
            >>> tailrace.list_models("digits")[["version", "aliases"]]
        """
        import pandas as pd

        with _Stores(self._core.settings({})) as stores:
            rows = [_row(version) for version in stores.registry.versions(name)]
        return pd.DataFrame(rows, columns=list(_COLUMNS))

    def promote_model(
        self,
        name: str,
        version: str | int,
        *,
        alias: str | Sequence[str] | None = None,
        stage: str | None = None,
    ) -> None:
        """Points aliases to a version, or puts it into a stage: `production`, `staging`, `archived`, `none`.

        Args:
            name: Of the registered model.
            version: Its version.
            alias: One or several aliases; each leaves the version that had it.
            stage: A stage; see docs/models.md for what it means where MLflow has no stages any more.

        Raises:
            NotFound: There is no such version.
            TailraceError: MLflow cannot be reached, or refuses.

        Example:
            >>> tailrace.promote_model("digits", 3, alias="champion")
        """
        with _Stores(self._core.settings({})) as stores:
            found = stores.registry.find(name, version=str(version))
            stores.registry.point(name, str(found.version), aliases_of(alias), stage)

    def archive_model(self, name: str, version: str | int) -> None:
        """Puts a version aside: it loses the aliases `production` and `staging`.

        Args:
            name: Of the registered model.
            version: Its version.

        Raises:
            NotFound: There is no such version.
            TailraceError: MLflow cannot be reached, or refuses.

        Example:
            >>> tailrace.archive_model("digits", 2)
        """
        self.promote_model(name, version, stage="archived")

    def _register_uri(
        self,
        uri: str,
        name: str,
        alias: str | Sequence[str] | None,
        stage: str | None,
        tags: Mapping[str, Any] | None,
        description: str | None,
    ) -> ModelHandle:
        """Registers a model that MLflow has. What goes wrong is in the handle, and warned about."""
        token = os.urandom(8).hex()
        try:
            check_names("model", name, alias, stage, description)
            spec = ModelSpec(
                token,
                name,
                tags=tags_of(tags),
                registered_name=name,
                aliases=aliases_of(alias),
                stage=stage,
                description=description,
            )
            with _Stores(self._core.settings({})) as stores:
                outcome = ModelOutcome(uri, stores.register(spec, uri))
        # Not raised: whoever registers at the end of a training is not to lose it for that.
        except TailraceError as error:
            outcome = ModelOutcome(error=str(error))
            self._core.voice.warn(f"{uri} was not registered as {name!r}: {error}")
        return ModelHandle(name, ModelProgress(None, token, outcome))


class _Stores:
    """MLflow's stores for these settings. What they raise becomes one of our errors, without a password."""

    def __init__(self, settings: Settings) -> None:
        from tailrace_agent.mlflow import stores

        self._stores, self._settings = stores, settings
        self._cwd = working_directory()
        self.uri = stores.store_uri(settings.tracking_uri, self._cwd)

    def __enter__(self) -> _Stores:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        from tailrace_agent.mlflow.errors import refused_code, translate

        if isinstance(error, Exception):
            if refused_code(error, "RESOURCE_DOES_NOT_EXIST"):
                # `from None`: in the error that MLflow raised the URI may stand with its password.
                raise NotFound(str(translate(error, self.uri, remote=False, about_run=False))) from None
            remote = self.uri.startswith("http")
            raise translate(error, self.uri, remote=remote, about_run=False) from None

    @property
    def tracking(self) -> Any:
        return self._stores.open_store(self.uri, self._cwd, self._settings.request_timeout)

    @property
    def registry(self) -> Registry:
        from tailrace_agent.mlflow.registry import Registry

        named = self._settings.registry_uri
        uri = self._stores.store_uri(named, self._cwd) if named else self.uri
        return Registry(self._stores.open_registry(uri, self.uri, self._settings.request_timeout))

    def of_run(self, run_id: str, name: str) -> Placed:
        from tailrace_agent.mlflow.models import find_model

        return find_model(self.tracking, run_id, name)

    def by_uri(self, uri: str) -> Placed | None:
        """What `models:/m-…` and `runs:/…` mean; None for anything else."""
        from tailrace_agent.mlflow.models import Placed

        of_run, logged = _RUN_URI.fullmatch(uri), _MODEL_URI.fullmatch(uri)
        if of_run is not None:
            return self.of_run(of_run[1], of_run[2])
        return logged and Placed(uri, self.tracking.get_logged_model(logged[1]).artifact_location, logged[1])

    def register(self, spec: ModelSpec, uri: str) -> str:
        """A new version of what a URI means."""
        placed = self.by_uri(uri)
        if placed is None:
            raise NotFound(f"{uri} is no model that can be registered: write models:/m-… or runs:/RUN/NAME")
        of_run = _RUN_URI.fullmatch(uri)
        run_id = of_run[1] if of_run else self.tracking.get_logged_model(placed.model_id).source_run_id
        # A server finds the files by the model's URI; another registry, or a database, needs their location.
        source = placed.uri if self.uri.startswith("http") and not self._settings.registry_uri else placed.location
        return self.registry.register(spec, source, run_id, placed.model_id, None)

    def download(self, location: str) -> Path:
        """Fetches a model's files."""
        from tempfile import TemporaryDirectory

        folder = TemporaryDirectory(prefix="tailrace-model-")
        _downloads.append(folder)
        repository = self._stores.open_repository(location, self.uri, self._settings.request_timeout)
        return Path(repository.download_artifacts("", dst_path=folder.name))


def _load(path: Path, *, pyfunc: bool) -> Any:
    """Loads a model's files by the flavour that it was saved with."""
    import yaml

    from tailrace._models.saving import flavor_module

    flavors = yaml.safe_load((path / "MLmodel").read_text(encoding="utf-8"))["flavors"]
    # Every model has `python_function` as well, as a wrapper around what it is.
    native = next((name for name in flavors if name != "python_function"), None)
    module = flavor_module("pyfunc" if pyfunc or native is None else native)
    load: Callable[[str], Any] = module.load_model
    return load(str(path))


def _row(version: Any) -> tuple[Any, ...]:
    import pandas as pd

    from tailrace_agent.mlflow.registry import stage_of

    own = {key: value for key, value in version.tags.items() if not key.startswith("tailrace.")}
    created = pd.Timestamp(version.creation_timestamp, unit="ms", tz="UTC")
    text = version.description or ""
    return (
        version.name,
        int(version.version),
        version.aliases,
        stage_of(version),
        text,
        version.run_id,
        created,
        own,
        version.source,
    )
