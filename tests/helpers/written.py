"""What the tests of artifacts share: what was captured, written as the background does it; and its pixels."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from tailrace._artifacts.captured import Frozen
from tailrace._artifacts.snapshot import Snapshot


def written(frozen: Frozen, folder: Path) -> list[Path]:
    """All parts, written by another thread, as the lane does it."""
    paths = [folder / part.artifact_file for part in frozen.parts]
    errors: list[Exception] = []

    def work() -> None:
        for part, path in zip(frozen.parts, paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write(path)
            except Exception as error:  # noqa: BLE001 - raised again by the test's thread
                errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return paths


def pixels(path: Path) -> Any:
    return np.asarray(PIL.Image.open(path).convert("RGB"))


def taken(root: Path, result: Snapshot) -> Path:
    """The one entry of a snapshot."""
    (entry,) = (root / result.name).iterdir()
    return entry
