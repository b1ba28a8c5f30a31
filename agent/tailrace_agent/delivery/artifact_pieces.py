"""A directory, uploaded file by file, so that a file that its store does not take costs itself and no other.

Thread safety: one thread at a time.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import Artifact, encode
from tailrace_agent.ipc.staging import make
from tailrace_agent.sinks.base import Renamed, Sink

__all__ = ["Pieces", "Rest"]


class Rest(NamedTuple):
    """A file that was left: where it was to lie in the run's artifacts, its record as a dead letter has it, and why."""

    artifact_file: str
    body: bytes
    reason: str


class Pieces:
    """One directory on its way.

    Args:
        directory: What is to be uploaded.
        artifact_path: Where to: its contents lie right below.
    """

    def __init__(self, directory: Path, artifact_path: str | None) -> None:
        self.directory, self._under = directory, artifact_path
        self.refused: dict[str, str] = {}
        self._failing: dict[str, Unavailable] = {}
        self.sent: set[str] = set()

    def send(self, sink: Sink, run_id: str) -> Renamed:
        """Uploads what is still to be uploaded; which files the store has under other names.

        Raises:
            Unavailable: Files are left that the store does not take now. If it takes none at all, the others were not
                tried.
        """
        renamed: Renamed = {}
        self._failing.clear()
        worked = False
        for path in sorted(path for path in self.directory.rglob("*") if path.is_file()):
            name = path.relative_to(self.directory).as_posix()
            if name in self.sent or name in self.refused:  # by an earlier try
                continue
            try:
                renamed |= sink.log_artifact(run_id, path, self._folder_of(name))
            except Refused as error:
                self.refused[name] = str(error)
            except Unavailable as error:
                self._failing[name] = error
                # Two in a row and none before them: it is the store, which would be asked for each of thousands.
                if not worked and len(self._failing) > 1:
                    raise
            else:
                worked = True
                self.sent.add(name)
        if self._failing:
            name, first = next(iter(self._failing.items()))
            raise Unavailable(f"{name}: {first}", lacks=first.lacks)
        return renamed

    def give_up(self) -> None:
        """What the store does not take now it will never take."""
        self.refused |= {name: str(error) for name, error in self._failing.items()}
        self._failing.clear()

    def rest(self, run: int, staging: Path) -> list[Rest]:
        """What was refused, each file staged by itself, so that it can be sent again under another name."""
        left = []
        for name, reason in self.refused.items():
            staged = make(staging, uuid.uuid4().hex)
            _take(self.directory / name, staged / Path(name).name)
            folder = self._folder_of(name)
            body = encode(Artifact(run, staged.name, folder))
            left.append(Rest(f"{folder}/{Path(name).name}" if folder else Path(name).name, body, reason))
        return left

    def _folder_of(self, name: str) -> str | None:
        folder = Path(self._under or "", name).parent.as_posix()
        return None if folder == "." else folder


def _take(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
