"""The model calls of a run: the model is copied at the call, saved and uploaded in the background."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace._api.model_handle import ModelHandle
from tailrace._background.lane import SAVES
from tailrace._models.copying import SAVED, FrozenModel, freeze_model
from tailrace._models.names import NOT_IN_A_NAME, aliases_of, check_names, mapping_of, step_of, tags_of
from tailrace._models.progress import ModelProgress
from tailrace._runs.run_part import RunPart
from tailrace._values.params import plain_config
from tailrace_agent.ipc.records import Artifact, ModelOutcome, ModelSpec
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.settings.uris import mask_uri, resolve_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tailrace._messages.voice import Voice

__all__ = ["ModelCalls"]

_MOST_WAITING: Final = 4
"""Copies that may wait for being saved; each takes as much memory as the model."""


class ModelCalls(RunPart):
    """`log_model` and `register_model`. A base of `Run`."""

    def log_model(  # noqa: PLR0913 - what MLflow's own calls take
        self,
        model: Any,
        name: str = "model",
        *,
        input_example: Any = None,
        signature: Any = "infer",
        metadata: Mapping[str, Any] | None = None,
        registered_model_name: str | None = None,
        alias: str | Sequence[str] | None = None,
        stage: str | None = None,
        tags: Mapping[str, Any] | None = None,
        description: str | None = None,
        step: int | None = None,
        flavor: str | None = None,
        save_options: Mapping[str, Any] | None = None,
    ) -> ModelHandle:
        """Logs a model as it is now. Returns when a copy of it is made; saving and uploading go on in the background.

        Args:
            model: A PyTorch module, a scikit-learn or XGBoost model, an `mlflow.pyfunc.PythonModel`, a function, or
                the path of a model that MLflow has saved.
            name: Of the model in the run; without any of `/ : . % " '`.
            input_example: A small input; copied, kept with the model, and the source of its signature.
            signature: `infer` (from the example), None, or an MLflow `ModelSignature`.
            metadata: Kept with the model; what YAML does not know becomes a plain value or a string.
            registered_model_name: Registers it as a new version of this model, as soon as all its files are stored.
            alias: One or several aliases that then point to this version.
            stage: `production`, `staging`, or any other word, which is then an alias; see docs/models.md.
            tags: Of the logged model and of the version.
            description: Of the version.
            step: Training step; 0 by default.
            flavor: One of MLflow's flavours, for models of other kinds: `lightgbm`, `spacy`, …
            save_options: Passed to the flavour's `save_model`: `code_paths`, `pip_requirements`, …

        Returns:
            A handle to wait on. `end_run` waits for it, too.

        Raises:
            CallError: Under `strict=True`: it is no model, cannot be copied, or a name is not allowed.

        Example:
            >>> handle = run.log_model(model, "net", input_example=batch[:1], registered_model_name="digits")
            >>> handle.wait()
            True
        """
        # Random: models of several processes of one run must not have the same.
        progress = ModelProgress(self._core, os.urandom(8).hex())
        handle = ModelHandle(name, progress)
        settings = self._core.settings
        if self._core.connection is None or not settings.log_model:
            progress.settle(ModelOutcome(error="models are not tracked: tracking is off, or log_model is false"))
            return handle
        if registered_model_name is None and settings.register_model:
            registered_model_name = settings.model_name or name
        # A configuration's stage is for versions; without one `check_names` would refuse it.
        if registered_model_name is not None:
            stage = stage or (settings.model_stage if alias is None else None)
            description = description or settings.model_description
        try:
            # Before the copy, which may take seconds and gigabytes.
            check_names(name, registered_model_name, alias, stage, description)
            spec = ModelSpec(
                token=progress.token,
                name=name,
                step=step_of(step),
                tags=tags_of(tags),
                registered_name=registered_model_name,
                aliases=aliases_of(alias),
                stage=stage,
                description=description,
                registry_uri=self._registry_uri(),
            )
            # Before the copy as well, which takes as much memory as the model.
            _make_room(self._core.voice)
            arguments = {
                "signature": signature if settings.log_model_signature else None,
                "keep_example": settings.log_input_example,
                "metadata": metadata and plain_config(mapping_of("metadata", metadata)),
                "options": mapping_of("save_options", save_options) or {},
            }
            frozen = freeze_model(model, flavor, input_example)
            if frozen.flavor == SAVED:
                self._take_model(frozen.model, spec)
                return handle
        except Exception as error:  # noqa: BLE001 - foreign objects may raise anything; it must not reach training
            progress.settle(ModelOutcome(error=str(error)))
            self._core.lose(f"log_model {name!r}: {error}")
            return handle
        _finish_before_exit(settings.exit_timeout)
        # In a list, out of which the job takes it: this `partial` would keep the copy alive until the job is over.
        SAVES.submit(
            partial(self._save_model, [frozen], spec, arguments), on_error=partial(self._model_failed, name, progress)
        )
        return handle

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
    ) -> ModelHandle:
        """Logs a model and registers it as a new version of `model_name`; the signature comes from `sample_input`.

        `tailrace.register_model` also takes the URI of a model that MLflow has.

        Args:
            model: As for `log_model`.
            model_name: Of the registered model; created when missing. Without `/` and `:`.
            sample_input: A small input (a few rows); kept with the model, and the source of its signature.
            stage: `production`, `staging`, or any other word, which is then an alias; see docs/models.md.
            tags: Of the logged model and of the version.
            description: Of the version.
            alias: One or several aliases that then point to this version.

        Returns:
            A handle to wait on. `end` waits for it, too.

        Raises:
            CallError: Under `strict=True`: it is no model, cannot be copied, or a name is not allowed.

        Thread safety: any thread; leave the model alone during the call.

        Example:
            >>> run.register_model(model, "digits", sample_input=batch[:1], alias="champion").wait()
            True
        """
        return self.log_model(
            model,
            # Registered names may hold what names of models in a run may not.
            NOT_IN_A_NAME.sub("-", str(model_name)) or "model",
            input_example=sample_input,
            registered_model_name=model_name,
            alias=alias,
            stage=stage,
            tags=tags,
            description=description,
        )

    # -- inside ------------------------------------------------------------------------------------------------------

    def _registry_uri(self) -> str | None:
        """The registry's URI without its password, which the agent is given separately."""
        uri = self._core.settings.registry_uri
        if uri is None or self._core.connection is None:
            return None
        masked, credentials = mask_uri(resolve_uri(uri, working_directory()))
        if credentials:
            self._core.connection.keeper.remember(masked, credentials)
        return masked

    def _take_model(self, path: Path, spec: ModelSpec) -> None:
        """A model that is saved already."""
        from tailrace._artifacts.snapshot import snapshot

        assert self._core.connection is not None
        taken = snapshot(path, self._core.connection.session.artifacts, mode=self._core.settings.artifact_snapshot)
        self._core.connection.put(Artifact(run=self._core.spec.run, staged=taken.name, model=spec))

    def _save_model(self, frozen: list[FrozenModel], spec: ModelSpec, arguments: dict[str, Any]) -> None:
        """Saves the copy, which is then free, and hands it over. In the background."""
        from tailrace._artifacts.snapshot import stage
        from tailrace._models.saving import save_model

        assert self._core.connection is not None
        model = frozen.pop()
        staged = stage(
            self._core.connection.session.artifacts, spec.name, lambda path: save_model(model, path, **arguments)
        )
        self._core.connection.put(Artifact(run=self._core.spec.run, staged=staged.name, model=spec))

    def _model_failed(self, name: str, progress: ModelProgress, error: BaseException) -> None:
        progress.settle(ModelOutcome(error=f"it could not be saved: {error}"))
        self._core.count_lost("could not be saved")
        text = f"model {name!r} could not be saved: {error}"
        self._core.voice.warn(text, once=text)


def _make_room(voice: Voice) -> None:
    """Copies are as large as the model: whoever logs faster than models can be saved waits here."""
    if SAVES.waiting < _MOST_WAITING:
        return
    voice.warn("models are logged faster than they can be saved: log_model waits", once="models wait")
    SAVES.drain()


_hooked = False


def _finish_before_exit(timeout: float) -> None:
    """Models that a script leaves to the interpreter's exit are saved while there can still be threads and imports."""
    global _hooked
    if _hooked:
        return
    # Once in a process, by the first model's time-out: such a hook cannot be taken back.
    _hooked = True
    import concurrent.futures.thread  # noqa: F401 - registers its own end first, which then comes after ours

    # `atexit` would be too late: `concurrent.futures`, which MLflow uses, takes no work any more by then.
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        register(partial(SAVES.drain, timeout))
