"""What `wandb.init` is to begin: its arguments, and the WANDB_* variables that have a meaning here.

`WANDB_PROJECT`, `_NAME`, `_RUN_ID`, `_RESUME`, `_RUN_GROUP`, `_JOB_TYPE`, `_TAGS`, `_NOTES`, `_MODE`, `_DISABLED`,
`_DIR`, `_ENTITY`; an argument is stronger. All others concern wandb's own servers and processes.
"""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tailrace.wandb._guard import VOICE

__all__ = ["Wanted", "wanted"]

_OFF: Final = frozenset(("disabled", "dryrun-disabled"))
_MODES: Final = frozenset(("online", "offline", "shared", "dryrun", "run", *_OFF))


@dataclass(frozen=True)
class Wanted:
    """What a run is to be.

    Attributes:
        id: wandb's id; the tag `wandb.id`.
        resume: Whether, and how, an earlier run of this id is gone on with: None, `allow`, `must`, `never`, `auto`.
        tags: wandb's.
        mode: `online`, `offline` or `disabled`.
        dir: Where the directory `wandb` is.
    """

    id: str
    given_id: bool
    project: str | None
    entity: str | None
    name: str | None
    notes: str | None
    group: str | None
    job_type: str | None
    tags: tuple[str, ...]
    resume: str | None
    mode: str
    dir: Path

    @property
    def tracked_tags(self) -> dict[str, str]:
        """Its tags in MLflow."""
        facts = {"id": self.id, "entity": self.entity, "group": self.group, "job_type": self.job_type}
        own = {f"wandb.{name}": text for name, text in facts.items() if text}
        return {**dict.fromkeys(self.tags, "true"), **own}


def wanted(given: Mapping[str, Any]) -> Wanted:
    """What the arguments and the environment say.

    Args:
        given: The arguments of `init` by name; None stands for what is not given.
    """

    def text(name: str, variable: str) -> str | None:
        value = given.get(name)
        value = os.environ.get(f"WANDB_{variable}") if value is None else value
        return str(value) if value not in (None, "") else None

    given_id, directory = text("id", "RUN_ID"), Path(text("dir", "DIR") or ".")
    resume = _resume(given.get("resume"))
    if resume == "auto" and given_id is None:
        given_id = last_id(directory)
    return Wanted(
        id=given_id or new_id(),
        given_id=given_id is not None,
        project=text("project", "PROJECT"),
        entity=text("entity", "ENTITY"),
        name=text("name", "NAME"),
        notes=text("notes", "NOTES"),
        group=text("group", "RUN_GROUP"),
        job_type=text("job_type", "JOB_TYPE"),
        tags=_tags(given.get("tags")),
        resume=resume,
        mode=_mode(given.get("mode")),
        dir=directory,
    )


def new_id() -> str:
    """An id as wandb makes them."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def last_id(directory: Path) -> str | None:
    """The id of the last run that was begun in this directory with `resume="auto"`, and has not finished."""
    try:
        return _note(directory).read_text().strip() or None
    except OSError:
        return None


def note_id(directory: Path, run_id: str | None) -> None:
    """Keeps the id for a program that begins anew; None: the run is finished."""
    note = _note(directory)
    try:
        if run_id is None:
            note.unlink(missing_ok=True)
        else:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(run_id)
    except OSError as error:
        VOICE.warn(f"wandb.init: {note} cannot be written, so resume='auto' will not find this run: {error}")


def _note(directory: Path) -> Path:
    return directory / "wandb" / "tailrace-resume.txt"


def _resume(given: Any) -> str | None:
    value = os.environ.get("WANDB_RESUME") if given is None else given
    if value in (None, False, ""):
        return None
    if value is True:
        return "auto"
    if value not in ("allow", "must", "never", "auto"):
        VOICE.warn(f"wandb.init: resume={value!r} is none of 'allow', 'must', 'never', 'auto': taken as 'allow'")
        return "allow"
    return str(value)


def _mode(given: Any) -> str:
    value = str(given or os.environ.get("WANDB_MODE") or "online").lower()
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes") and given is None:
        return "disabled"
    if value not in _MODES:
        VOICE.warn(f"wandb.init: mode={value!r} is none of 'online', 'offline', 'disabled': taken as 'online'")
    if value in _OFF:
        return "disabled"
    return "offline" if value in ("offline", "dryrun") else "online"


def _tags(given: str | Sequence[str] | None) -> tuple[str, ...]:
    if given is None:
        return tuple(tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip())
    if isinstance(given, str) or not isinstance(given, Iterable):
        return (str(given),)
    return tuple(str(tag) for tag in given)
