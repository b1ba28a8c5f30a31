"""What a `freeze_…` function gives: the state at the call, and how to write it as files later."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, Any, NamedTuple

from tailrace._values.texts import as_text
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["BadArtifact", "BadArtifactType", "Frozen", "Part", "extension_of", "named"]


class BadArtifact(CallError, ValueError):
    """What was passed cannot be logged as requested. The message gives the reason."""


class BadArtifactType(BadArtifact, TypeError):
    """The same, where MLflow's own function raises a TypeError: an object of no kind that it takes, wrong arguments."""


class Part(NamedTuple):
    """One file to come.

    Attributes:
        artifact_file: Where in the run's artifacts, a normalized POSIX path.
        write: Writes the file at the path that it is given. Called once, in any thread; whatever it raises means
            that there is no such file.
        append: A part of a table that grows call by call (`records.Artifact.append`).
    """

    artifact_file: str
    write: Callable[[Path], None]
    append: bool = False

    @property
    def name(self) -> str:
        """The file's own name."""
        return posixpath.basename(self.artifact_file)

    @property
    def artifact_path(self) -> str | None:
        """The directory in the run's artifacts, or None for its root."""
        return posixpath.dirname(self.artifact_file) or None


class Frozen(NamedTuple):
    """One call, captured: nothing that the caller does afterwards changes what is written.

    Attributes:
        parts: The files. Most calls have one; `log_image` with a key has two, a table with images many.
        tags: Tags that MLflow's UI needs in order to show them. A table's `mlflow.loggedArtifacts` names this table
            only: merge it with `tailrace_agent.mlflow.logged_tables.logged_artifacts`.
        remark: What will not be stored as it was passed, for a warning; None as a rule.
    """

    parts: tuple[Part, ...]
    tags: dict[str, str]
    remark: str | None = None


def named(artifact_file: Any) -> str:
    """A run-relative artifact path, normalized.

    Raises:
        BadArtifact: It is neither a string nor a path, empty, absolute, or leads out of the run.
    """
    if not isinstance(artifact_file, (str, os.PathLike, int)):  # a figure in its place would have a text, too
        raise BadArtifact(f"artifact_file must be a str, not {type(artifact_file).__name__}")
    text = as_text(artifact_file, "artifact_file")
    # MLflow's client does the same, so that what is written here and there lies in one place.
    norm = posixpath.normpath(text)
    if not text or text.endswith("/") or norm in (".", "..") or norm.startswith(("/", "../")):
        raise BadArtifact(f"artifact_file must be a relative path to a file in the run, not {artifact_file!r}")
    return norm


def extension_of(artifact_file: str) -> str:
    """The extension with its dot, in lower case; empty when there is none."""
    return posixpath.splitext(artifact_file)[1].lower()
