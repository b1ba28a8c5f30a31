"""The model calls of a run: the model is copied at the call, saved and uploaded in the background."""

from __future__ import annotations

import operator
import os
import re
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from tailrace._api.model_handle import ModelHandle
from tailrace._background.lane import SAVES, drain
from tailrace._models.copying import SAVED, FrozenModel, freeze_model
from tailrace._values.params import plain_config
from tailrace_agent.errors import CallError
from tailrace_agent.ipc.records import Artifact, Drop, ModelOutcome, ModelSpec
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.settings.uris import mask_uri, resolve_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tailrace._api.run import Run
    from tailrace._messages.voice import Voice
    from tailrace._session.connection import Connection
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.settings.settings import Settings

__all__ = ["ModelCalls", "aliases_of", "check_names", "tags_of"]

_MOST_WAITING: Final = 4
"""Copies that may wait for being saved; each takes as much memory as the model."""
_NOT_IN_A_NAME: Final = re.compile(r"[/:.%\"']")
_ALIAS: Final = re.compile(r"(?!(?i:latest|v\d+)$)[\w-]{1,255}")


class ModelCalls:
    """`log_model` and `register_model`. A base of `Run`."""

    _connection: Connection | None
    _settings: Settings
    _spec: RunSpec
    _voice: Voice

    def _lose(self, text: str) -> None:
        raise NotImplementedError  # ArtifactCalls has it

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
        handle = ModelHandle(cast("Run", self), name, os.urandom(8).hex())
        settings = self._settings
        if self._connection is None or not settings.log_model:
            handle._settle(ModelOutcome(error="models are not tracked: tracking is off, or log_model is false"))
            return handle
        if registered_model_name is None and settings.register_model:
            registered_model_name = settings.model_name or name
        if registered_model_name is not None:
            stage = stage or (settings.model_stage if alias is None else None)
            description = description or settings.model_description
        try:
            check_names(name, registered_model_name, alias, stage, description)
            spec = ModelSpec(
                token=handle._token,
                name=name,
                step=_step(step),
                tags=tags_of(tags),
                registered_name=registered_model_name,
                aliases=aliases_of(alias),
                stage=stage,
                description=description,
                registry_uri=self._registry_uri(),
            )
            _make_room(self._voice)
            arguments = {
                "signature": signature if settings.log_model_signature else None,
                "keep_example": settings.log_input_example,
                "metadata": metadata and plain_config(_mapping("metadata", metadata)),
                "options": _mapping("save_options", save_options) or {},
            }
            frozen = freeze_model(model, flavor, input_example)
            if frozen.flavor == SAVED:
                self._take_model(frozen.model, spec)
                return handle
        except Exception as error:  # noqa: BLE001 - foreign objects may raise anything; it must not reach training
            handle._settle(ModelOutcome(error=str(error)))
            self._lose(f"log_model {name!r}: {error}")
            return handle
        _finish_before_exit(settings.exit_timeout)
        SAVES.submit(partial(self._save_model, [frozen], spec, arguments), on_error=partial(self._model_failed, handle))
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
            _NOT_IN_A_NAME.sub("-", str(model_name)) or "model",
            input_example=sample_input,
            registered_model_name=model_name,
            alias=alias,
            stage=stage,
            tags=tags,
            description=description,
        )

    def _drain(self, timeout: float) -> None:
        """Waits for the background at a run's end, and says what it leaves behind."""
        if not drain(timeout) and not SAVES.drain(0.0):
            self._voice.warn(
                f"a model is still being saved after {timeout:.0f} s, and is lost if the program ends before that is "
                "done: give end_run a longer timeout",
                once=("unsaved", self._spec.run),
            )

    # -- inside ------------------------------------------------------------------------------------------------------

    def _registry_uri(self) -> str | None:
        """The registry's URI without its password, which the agent is told apart."""
        uri = self._settings.registry_uri
        if uri is None or self._connection is None:
            return None
        masked, credentials = mask_uri(resolve_uri(uri, working_directory()))
        if credentials:
            self._connection.keeper.remember(masked, credentials)
        return masked

    def _take_model(self, path: Path, spec: ModelSpec) -> None:
        """A model that is saved already."""
        from tailrace._artifacts.snapshot import snapshot

        assert self._connection is not None
        taken = snapshot(path, self._connection.session.artifacts, mode=self._settings.artifact_snapshot)
        self._connection.put(Artifact(run=self._spec.run, staged=taken.name, model=spec))

    def _save_model(self, frozen: list[FrozenModel], spec: ModelSpec, arguments: dict[str, Any]) -> None:
        """Saves the copy, which is then free, and hands it over. In the background."""
        from tailrace._artifacts.snapshot import stage
        from tailrace._models.saving import save_model

        assert self._connection is not None
        model = frozen.pop()
        staged = stage(self._connection.session.artifacts, spec.name, lambda path: save_model(model, path, **arguments))
        self._connection.put(Artifact(run=self._spec.run, staged=staged.name, model=spec))

    def _model_failed(self, handle: ModelHandle, error: BaseException) -> None:
        handle._settle(ModelOutcome(error=f"it could not be saved: {error}"))
        if self._connection is not None:
            self._connection.put(Drop(self._spec.run, "artifact", "could not be saved", 1))
        text = f"model {handle.name!r} could not be saved: {error}"
        self._voice.warn(text, once=text)


def aliases_of(alias: str | Sequence[str] | None) -> tuple[str, ...]:
    """One alias, several, or none.

    Raises:
        CallError: It is something else.
    """
    if alias is None or isinstance(alias, str):
        return () if alias is None else (alias,)
    if not isinstance(alias, (list, tuple, set, frozenset)):
        raise CallError(f"alias must be a text or several, not {alias!r}")
    return tuple(alias)


def tags_of(tags: Mapping[str, Any] | None) -> dict[str, str]:
    """Tags as texts.

    Raises:
        CallError: They have no names.
    """
    return {str(key): str(value) for key, value in (_mapping("tags", tags) or {}).items()}


def _mapping(what: str, value: Any) -> dict[Any, Any] | None:
    if value is not None and not hasattr(value, "items"):
        raise CallError(f"{what} must be a mapping, not {type(value).__name__}")
    return None if value is None else dict(value)


def _step(step: Any) -> int:
    try:
        number = 0 if step is None else operator.index(step)
    except TypeError:
        number = None
    if number is None or not -(2**63) <= number < 2**63:
        raise CallError(f"step must be an integer of 64 bits, not {step!r}")
    return number


def check_names(name: Any, registered: Any, alias: Any, stage: Any, description: Any = None) -> None:
    """MLflow's rules for names, so that a slip is known at the call and not after the upload."""
    if description is not None and not isinstance(description, str):
        raise CallError(f"the description must be a text, not {description!r}")
    if not isinstance(name, str) or not name or _NOT_IN_A_NAME.search(name):
        raise CallError(f"the name must be a text without any of / : . % \" ', not {name!r}")
    if registered is None:
        if alias is not None or stage is not None:
            raise CallError("alias and stage are a version's: pass registered_model_name, too")
        return
    if not isinstance(registered, str) or not registered.strip() or re.search("[/:]", registered):
        raise CallError(f"registered_model_name must be a text without / and :, not {registered!r}")
    for word in (*aliases_of(alias), *(() if stage is None else (stage,))):
        if not isinstance(word, str) or not _ALIAS.fullmatch(word):
            raise CallError(
                f"an alias or stage holds letters, digits, _ and -, and is neither latest nor v1, v2, …: not {word!r}"
            )


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
    _hooked = True
    import concurrent.futures.thread  # noqa: F401 - registers its own end first, which then comes after ours

    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        register(partial(SAVES.drain, timeout))
