"""A directory in MLflow's model format becomes a model of a run, once, and is whole before anybody can find it.

What this module promises:

* Repeating a call creates nothing twice: the logged model of an earlier attempt is found by the tag `tailrace.model`.
* A logged model is `READY` when every file has been read back from the artifact store's listing with its size.
* In a store that knows no logged models (MLflow before 3), the files are artifacts of the run, as MLflow 2 has them.

Nothing here loads a model. What goes wrong comes out as MLflow raises it; `sinks.mlflow` translates.
"""

from __future__ import annotations

import json
import posixpath
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from mlflow.entities import (
    LoggedModelOutput,
    LoggedModelParameter,
    LoggedModelStatus,
    LoggedModelTag,
    RunTag,
)
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_MODELS, MLFLOW_MODEL_VERSIONS

from tailrace_agent.errors import NotFound, Refused, Unavailable
from tailrace_agent.files.ownership import write_own
from tailrace_agent.ipc.records import ModelSpec
from tailrace_agent.ipc.tags import MODEL_TAG
from tailrace_agent.mlflow.errors import refused_code
from tailrace_agent.mlflow.proxied_files import list_directory
from tailrace_agent.mlflow.stores import Store

__all__ = ["Placed", "find_model", "link_version", "place_model"]

_MLMODEL: Final = "MLmodel"
_IN_THE_HISTORY: Final = ("run_id", "utc_time_created", "artifact_path", "model_uuid", "flavors")


class Placed(NamedTuple):
    """Where a model lies: its URI, the store's location of its files, and its id if it is a logged model."""

    uri: str
    location: str
    model_id: str | None


def place_model(
    store: Store, open_repository: Callable[[str], Any], run_id: str, directory: Path, spec: ModelSpec
) -> Placed:
    """Makes a model of the run from the files.

    Args:
        store: MLflow's tracking store.
        open_repository: Opens the artifact repository of a location.
        run_id: MLflow's id of the run.
        directory: Holds `MLmodel`, into which its place is written.
        spec: What is wanted.

    Raises:
        Refused: It is no model, or the run was deleted.
        Unavailable: Not all files have arrived.
    """
    if not (directory / _MLMODEL).exists():
        raise Refused(f"{directory.name} holds no file {_MLMODEL}: it is no model in MLflow's format")
    run = store.get_run(run_id)
    # Requested here: a store takes a logged model for a run that was deleted.
    if run.info.lifecycle_stage == "deleted":
        raise Refused(f"run {run_id} was deleted")
    try:
        model = _found(store, run, spec) or _created(store, run, spec)
    except Exception as error:
        if not _unknown_to_the_store(error):
            raise
        return _as_artifacts(store, open_repository, run, directory, spec)
    # Each call adds an output; MLflow does not look for one that is there.
    if model.model_id not in {output.model_id for output in _outputs(run)}:
        store.log_outputs(run_id, [LoggedModelOutput(model.model_id, spec.step)])
    # READY: an earlier attempt was whole, and only its answer, or the registry, failed.
    if model.status != LoggedModelStatus.READY:
        _inscribe(directory, run_id, model.artifact_location, model.model_id)
        _upload(open_repository(model.artifact_location), directory, None)
        store.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return Placed(f"models:/{model.model_id}", model.artifact_location, model.model_id)


def find_model(store: Store, run_id: str, name: str) -> Placed:
    """A run's model of that name, the last one if there are several.

    Raises:
        NotFound: The run has none; the message names those it has.
    """
    run = store.get_run(run_id)
    try:
        found = store.search_logged_models(
            experiment_ids=[run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'"
        )
    except Exception as error:
        if not _unknown_to_the_store(error):
            raise
        found = []
    # Others are on their way, or their upload was given up.
    whole = [model for model in found if model.status == LoggedModelStatus.READY]
    named = sorted((model for model in whole if model.name == name), key=lambda model: model.creation_timestamp)
    if named:
        return Placed(f"models:/{named[-1].model_id}", named[-1].artifact_location, named[-1].model_id)
    entries = json.loads(run.data.tags.get(MLFLOW_LOGGED_MODELS, "[]"))
    if any(entry.get("artifact_path") == name for entry in entries):
        return Placed(f"runs:/{run_id}/{name}", posixpath.join(run.info.artifact_uri, name), None)
    known = sorted({model.name for model in whole} | {entry.get("artifact_path", "") for entry in entries})
    raise NotFound(f"run {run_id} has no model {name!r}; it has: {', '.join(known) or 'none'}")


def link_version(store: Store, model_id: str, name: str, version: str) -> None:
    """Records in the logged model which version of a registered model it has become, for MLflow's UI."""
    versions = json.loads(store.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
    entry = {"name": name, "version": version}
    if entry not in versions:
        store.set_logged_model_tags(model_id, [LoggedModelTag(MLFLOW_MODEL_VERSIONS, json.dumps([*versions, entry]))])


# -- logged models ---------------------------------------------------------------------------------------------------


def _found(store: Store, run: Any, spec: ModelSpec) -> Any:
    """The model of an earlier attempt. Of twins, born of an answer that was lost, the older one stays."""
    found = store.search_logged_models(
        experiment_ids=[run.info.experiment_id], filter_string=f"tags.`{MODEL_TAG}` = '{spec.token}'"
    )
    # By age, so that two attempts that both look agree on which one goes.
    first, *twins = sorted(found, key=lambda model: model.creation_timestamp) or [None]
    for twin in twins:
        store.delete_logged_model(twin.model_id)
    return first


def _created(store: Store, run: Any, spec: ModelSpec) -> Any:
    tags = {**spec.tags, MODEL_TAG: spec.token}
    tags.update(
        {key: value for key, value in run.data.tags.items() if key.startswith(("mlflow.user", "mlflow.source"))}
    )
    return store.create_logged_model(
        experiment_id=run.info.experiment_id,
        name=spec.name,
        source_run_id=run.info.run_id,
        tags=[LoggedModelTag(key, value) for key, value in tags.items()],
        params=[LoggedModelParameter(key, value) for key, value in run.data.params.items()],
        model_type=None,
    )


def _outputs(run: Any) -> list[Any]:
    return list(run.outputs.model_outputs) if run.outputs is not None else []


def _unknown_to_the_store(error: Exception) -> bool:
    """Whether the store has never heard of logged models; a server then lacks the address."""
    # MLflow 2's stores lack the methods; in MLflow 3, a plug-in's store without them inherits some that raise.
    return isinstance(error, (NotImplementedError, AttributeError)) or refused_code(error, "ENDPOINT_NOT_FOUND")


def _as_artifacts(
    store: Store, open_repository: Callable[[str], Any], run: Any, directory: Path, spec: ModelSpec
) -> Placed:
    """As MLflow 2 keeps models: files of the run, and a tag that lists them."""
    run_id = run.info.run_id
    model = _inscribe(directory, run_id, spec.name, None)
    _upload(open_repository(run.info.artifact_uri), directory, spec.name)
    history = json.loads(run.data.tags.get(MLFLOW_LOGGED_MODELS, "[]"))
    entry = {key: model[key] for key in _IN_THE_HISTORY if key in model}
    if entry not in history:
        store.set_tag(run_id, RunTag(MLFLOW_LOGGED_MODELS, json.dumps([*history, entry])))
    return Placed(f"runs:/{run_id}/{spec.name}", posixpath.join(run.info.artifact_uri, spec.name), None)


# -- files -----------------------------------------------------------------------------------------------------------


def _inscribe(directory: Path, run_id: str, artifact_path: str, model_id: str | None) -> dict[str, Any]:
    """Writes into `MLmodel` what was not known when it was saved: of which run and which model it is."""
    # Not by MLflow's own class, which needs NumPy and pandas; the agent does without.
    path = directory / _MLMODEL
    model: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    model.update(run_id=run_id, artifact_path=artifact_path)
    if model_id is not None:
        model.update(model_id=model_id, model_uuid=model_id)
    model.setdefault("model_uuid", uuid.uuid4().hex)  # kept from attempt to attempt: it is written into the file
    # Renamed into its place: killed in between, the next attempt still finds an `MLmodel` that can be read.
    new = path.with_suffix(".new")
    write_own(new, yaml.safe_dump(model, default_flow_style=False, allow_unicode=True).encode())
    new.replace(path)
    return model


def _upload(repository: Any, directory: Path, under: str | None) -> None:
    repository.log_artifacts(str(directory), under)
    stored = dict(_listed(repository, under))
    for file in directory.rglob("*"):
        if not file.is_file():
            continue
        path = posixpath.join(under or "", file.relative_to(directory).as_posix())
        if path not in stored or stored[path] not in (file.stat().st_size, None):  # None: a store without sizes
            raise Unavailable(f"the model's file {path} has not arrived whole in the artifact store")


def _listed(repository: Any, path: str | None) -> Iterator[tuple[str, int | None]]:
    """Paths and sizes of all files below a directory of the artifact store."""
    for info in list_directory(repository, path):
        if info.is_dir:
            yield from _listed(repository, info.path)
        else:
            yield info.path, info.file_size
