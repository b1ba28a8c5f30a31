"""Checkpoints: all that a training needs to go on as if it had not stopped."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from tailrace_agent.errors import CallError

__all__ = ["BEST", "LAST", "keep", "load", "random_state", "restore_random_state", "save", "to_resume"]

LAST = "last_checkpoint.pt"
BEST = "best_checkpoint.pt"
FORMAT = 1


def save(path: Path, state: dict[str, Any], *, best: bool = False) -> None:
    """Writes a checkpoint as a whole or not at all: a crash leaves the one before.

    Args:
        path: The file.
        state: What it holds.
        best: Whether it is the best one, too. That one is there first: a checkpoint never speaks of a best one that is
            not there yet.

    Raises:
        OSError: It cannot be written.
    """
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # one that a crash has left may be the best one's own file: written to anew, not over
    try:
        with part.open("wb") as file:
            torch.save({"format": FORMAT, **_native(state)}, file)
            file.flush()
            os.fsync(file.fileno())  # the rename may reach the disk before the bytes do
        if best:
            keep(part, path.with_name(BEST))
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def keep(path: Path, to: Path) -> None:
    """The same file under another name, too, as a whole or not at all; a copy where links cannot be had.

    Raises:
        OSError: It cannot be written.
    """
    part = to.with_name(f".{to.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
    except OSError:
        shutil.copyfile(path, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
    part.replace(to)


def _native(value: Any) -> Any:
    """The same without NumPy's numbers, which `weights_only` refuses to read: a learning rate may be one."""
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _native(each)) for key, each in value.items())
    if type(value) in (list, tuple):
        return type(value)(map(_native, value))
    numpy: Any = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU. Nothing in it is run: `weights_only`.

    Raises:
        CallError: It is no checkpoint of a `Trainer`.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CallError(f"{path} cannot be read as a checkpoint: {first}") from error
    if not isinstance(state, dict) or "format" not in state:
        raise CallError(f"{path} is no checkpoint of a Trainer; load the weights into the model yourself")
    if state["format"] > FORMAT:
        raise CallError(f"{path} was written by a newer tailrace (format {state['format']}); upgrade to resume from it")
    return state


def to_resume(resume_from: str | os.PathLike[str] | None, folder: Path | None) -> Path | None:
    """The checkpoint to go on from, if there is one.

    Raises:
        CallError: A file that is named is not there; `auto` without a directory to look in.
    """
    if resume_from is None:
        return None
    if resume_from == "auto":
        if folder is None:
            raise CallError("resume_from='auto' looks for the last checkpoint in checkpoint_dir; give that, too")
        path = folder / LAST
        return path if path.exists() else None
    path = Path(resume_from)
    path = path / LAST if path.is_dir() else path
    if not path.is_file():
        raise CallError(f"resume_from: there is no checkpoint at {path}")
    return path


def random_state() -> dict[str, Any]:
    """The state of Python's, torch's and, where it is loaded, NumPy's random numbers."""
    import torch

    version, inner, gauss = random.getstate()
    state: dict[str, Any] = {"python": [version, list(inner), gauss], "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = [kind, torch.from_numpy(keys.astype("int64")), *rest]
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """The random numbers go on from there. Those of devices that are not here any more are left alone."""
    import torch

    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "numpy" in state:
        import numpy as np

        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype("uint32"), *rest))
