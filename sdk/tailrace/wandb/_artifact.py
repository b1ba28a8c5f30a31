"""`wandb.Artifact`: files under one name, which become artifacts of the run under `artifacts/<name>`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from tailrace.wandb._guard import Partial, guarded
from tailrace.wandb._media import Media, Table

if TYPE_CHECKING:
    import os

    from tailrace import Run

__all__ = ["Artifact"]


class Artifact(Partial):
    """Files and directories under one name.

    Args:
        name: Its name.
        type: Its kind: `model`, `dataset`.
        description: What it is.
        metadata: Facts on it.
        **_: What else wandb takes.

    Example:
        >>> artifact = wandb.Artifact("weights", type="model", metadata={"step": 100})
        >>> artifact.add_file("weights.bin")
        >>> run.log_artifact(artifact)
    """

    @guarded()
    def __init__(
        self,
        name: str,
        type: str = "unspecified",  # noqa: A002 - wandb's own name
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        self.name, self.type, self.description = name, type, description
        self.metadata: dict[str, Any] = {}
        self.aliases: list[str] = []
        self._files: dict[str, Path] = {}
        self._references: dict[str, str] = {}
        self._tables: dict[str, Table] = {}
        self._written: tempfile.TemporaryDirectory[str] | None = None
        self.metadata.update(metadata or {})

    @guarded()
    def add_file(self, local_path: str | os.PathLike[str], name: str | None = None, **_: Any) -> None:
        """Adds a file, under its own name or another."""
        self._files[_inside(name or Path(local_path).name)] = Path(local_path)

    @guarded()
    def add_dir(self, local_path: str | os.PathLike[str], name: str | None = None, **_: Any) -> None:
        """Adds everything in a directory."""
        root = Path(local_path)
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            self._files[_inside(f"{name or ''}/{file.relative_to(root).as_posix()}".lstrip("/"))] = file

    @guarded()
    def add_reference(self, uri: str, name: str | None = None, **_: Any) -> None:
        """Notes where something is that stays there."""
        self._references[name or uri] = str(uri)

    @guarded()
    def add(self, obj: Any, name: str, **_: Any) -> None:
        """Adds a table; other objects are to be added as files."""
        if not isinstance(obj, Table):
            what = type(obj).__name__ if isinstance(obj, Media) else repr(type(obj))
            raise TypeError(f"an artifact takes tables and files here, not {what}")
        self._tables[_inside(name)] = obj

    @contextmanager
    def new_file(self, name: str, mode: str = "w", encoding: str | None = None) -> Iterator[IO[Any]]:
        """A file to be written, which is added."""
        self._written = self._written or tempfile.TemporaryDirectory(prefix="tailrace-wandb-")
        path = Path(self._written.name, _inside(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding=encoding) as file:
            yield file
        self._files[_inside(name)] = path

    def wait(self, timeout: float | None = None) -> Artifact:
        """Itself: it is delivered in the background."""
        return self

    def put(self, run: Run) -> None:
        """Logs it to a run."""
        folder = f"artifacts/{_inside(str(self.name))}"
        for name, path in self._files.items():
            self._put_file(run, PurePosixPath(folder, name), path)
        for name, table in self._tables.items():
            run.log_table(table.cells(), f"{folder}/{name.removesuffix('.json').removesuffix('.table')}.table.json")
        facts = {
            "type": self.type,
            "description": self.description,
            "metadata": self.metadata,
            "aliases": self.aliases,
            "references": self._references,
        }
        run.log_dict(facts, f"{folder}/artifact.json")

    @staticmethod
    @guarded(called="log_artifact")
    def _put_file(run: Run, place: PurePosixPath, path: Path) -> None:
        if place.name == path.name:
            run.log_artifact(path, str(place.parent))
            return
        with tempfile.TemporaryDirectory(prefix="tailrace-wandb-") as scratch:
            renamed = Path(scratch, place.name)
            shutil.copyfile(path, renamed)
            run.log_artifact(renamed, str(place.parent))


def _inside(name: str) -> str:
    """A name in the artifact.

    Raises:
        ValueError: It leads out of it.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is no name in an artifact")
    return str(path)
