"""The tag by which MLflow knows which tables a run has: one value, which names them all.

Each process of a run, and each that resumes it, knows the tables that it has logged itself. So their lists are united
with the one that the run has, where they are written.

Loading this module is cheap: the training process does. Thread safety: stateless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

__all__ = ["LOGGED_ARTIFACTS", "logged_artifacts", "with_stored_tables"]

LOGGED_ARTIFACTS: Final = "mlflow.loggedArtifacts"
"""The tag by which `mlflow.load_table` and the UI know which tables a run has."""


def logged_artifacts(current: str | None, artifact_file: str) -> str:
    """The value of the tag `mlflow.loggedArtifacts` with one more table in it.

    Args:
        current: What it is now, or None. What is no JSON list is replaced.
        artifact_file: The table's path in the run's artifacts.

    Example:
        >>> logged_artifacts(None, "eval.json")
        '[{"path": "eval.json", "type": "table"}]'
    """
    return _united(_entries(current), [{"path": artifact_file, "type": "table"}])


def with_stored_tables(
    tags: Sequence[tuple[str, str]], stored: Callable[[], Mapping[str, str]], longest: int
) -> Sequence[tuple[str, str]]:
    """Tags to write, of which that of the tables names those before, too.

    Args:
        tags: Names and values.
        stored: Gives the tags that the run has; called only where there is one of tables among these.
        longest: Characters that a tag may have. A list that would be longer is written as it came.
    """
    if all(key != LOGGED_ARTIFACTS for key, _ in tags):
        return tags
    before = stored().get(LOGGED_ARTIFACTS)
    united = [
        (key, _united(_entries(before), _entries(value)) if key == LOGGED_ARTIFACTS else value) for key, value in tags
    ]
    return tags if any(len(value) > longest for _, value in united) else united


def _united(before: list[Any], more: list[Any]) -> str:
    import json  # not at the top: the training process loads this module

    # In MLflow's own spelling, spaces included: `load_table` looks for it with LIKE.
    return json.dumps([*before, *(entry for entry in more if entry not in before)])


def _entries(value: str | None) -> list[Any]:
    import json

    try:
        entries = json.loads(value) if value else []
    except ValueError:
        return []
    return entries if isinstance(entries, list) else []
