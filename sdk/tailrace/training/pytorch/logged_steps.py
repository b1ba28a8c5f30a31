"""How far a training has logged, kept beside its checkpoints, so that whoever goes on logs nothing twice.

MLflow knows it too, but only when all has been delivered; and of a run that was killed twice in a row it says that it
is over while the second process's values are still on their way. What is written here is in the file when the call
returns (the page is the kernel's), so it survives a `kill -9`. After a reboot it may be older or newer than what the
ring held: then MLflow alone counts.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

__all__ = ["LoggedSteps", "read"]

FILE = "logged_steps"
_LAYOUT = struct.Struct("=36s4xqq")
"""The boot in which it was written, the last step, the last epoch."""
_WORDS = _LAYOUT.size // 8


class LoggedSteps:
    """The file, as the process that trains writes it.

    Args:
        folder: Where checkpoints are kept.
        step: The last step that is logged already; -1: none.
        epoch: The last epoch; 0: none.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, folder: Path, step: int, epoch: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{FILE}.part"
        with part.open("w+b") as file:
            file.write(_LAYOUT.pack(_boot(), step, epoch))
            file.flush()
            # Put in its place as a whole: a kill leaves the one before, and whoever has that mapped may write to it.
            part.replace(folder / FILE)
            self._words = memoryview(mmap.mmap(file.fileno(), _LAYOUT.size)).cast("q")

    def step(self, step: int) -> None:
        """A step has been logged. As cheap as it can be: it is called after each of them."""
        self._words[_WORDS - 2] = step

    def epoch(self, epoch: int) -> None:
        """An epoch has been logged."""
        self._words[_WORDS - 1] = epoch


def read(folder: Path) -> tuple[int, int]:
    """The last step and epoch that were logged; -1 and 0 where nobody knows.

    Returns:
        What the file says, if the machine has not been started anew since.
    """
    try:
        boot, step, epoch = _LAYOUT.unpack((folder / FILE).read_bytes())
    except (OSError, struct.error):  # an older checkpoint has none, or it was not kept with it
        return -1, 0
    return (step, epoch) if boot == _boot() else (-1, 0)


def _boot() -> bytes:
    """Names the time since the machine was started; Linux says it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:36].ljust(36)
    except OSError:
        return b" " * 36
