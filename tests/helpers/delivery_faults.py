"""Stores that count what is requested, and refuse what the test names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.delivery_rigs import UploadRig
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import RunSpec
from tailrace_agent.sinks.memory import MemorySink


class CountingSink(MemorySink):
    """A memory sink that counts its requests and can refuse points by their key."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, list[str]]] = []
        self.bad: Callable[[str], bool] = lambda _: False
        self.find_first: list[bool] = []

    def log_batch(self, run_id: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        kind = "metric" if metrics else "param" if params else "tag"
        keys = [entry[0] for entry in (*metrics, *params, *tags)]
        self.requests.append((kind, keys))
        if any(map(self.bad, keys)):
            raise Refused(f"one of {len(keys)} is bad")
        super().log_batch(run_id, metrics=metrics, params=params, tags=tags)

    def open_run(self, spec: RunSpec, parent_run_id: str | None, *, find_first: bool) -> Any:
        self.find_first.append(find_first)
        return super().open_run(spec, parent_run_id, find_first=find_first)

    def sent(self, kind: str) -> list[list[str]]:
        """The keys of the requests of one kind, tailrace's own tags left out."""
        ours = [[key for key in keys if not key.startswith("tailrace.")] for k, keys in self.requests if k == kind]
        return [keys for keys in ours if keys]


def cannot_store(rig: UploadRig, *names: str, error: Exception | None = None) -> list[str]:
    """The store fails for files of these names, whatever directory they lie in; what was tried."""
    tried: list[str] = []
    log_artifact, log_artifacts = rig.sink.log_artifact, rig.sink.log_artifacts
    error = error or Unavailable("answered 500: Internal Server Error", answered=500)

    def file(run_id: str, path: Path, artifact_path: str | None) -> dict[str, str]:
        tried.append(path.name)
        if path.name in names or any(below.name in names for below in path.rglob("*")):
            raise error
        return log_artifact(run_id, path, artifact_path)

    def directory(run_id: str, path: Path, artifact_path: str | None) -> dict[str, str]:
        tried.append(f"{path.name}/")
        if any(below.name in names for below in path.rglob("*")):
            raise error
        return log_artifacts(run_id, path, artifact_path)

    rig.sink.log_artifact = file  # type: ignore[method-assign]
    rig.sink.log_artifacts = directory  # type: ignore[method-assign]
    return tried
