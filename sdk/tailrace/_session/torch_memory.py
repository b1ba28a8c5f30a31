"""What PyTorch's allocator holds on each GPU, put where the agent's sampler reads it: no thread, no system call.

Called from the ring's sampled slow path (about one `log()` call in 200), at most once a second, and only when the
program itself has imported torch and used CUDA.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from tailrace_agent.ipc.sample_board import BoardWriter
from tailrace_agent.sampler.torch_memory import torch_board

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TorchMemory"]

_EVERY = 1.0  # seconds
_MEGABYTE = 1e6


class TorchMemory:
    """This process's end of the board.

    Args:
        shared: The session's directory in shared memory.
        by_machine: GPUs have the machine's own index, and not that of this process, which sees some of them.

    Raises:
        OSError: There is no room for the board.
    """

    def __init__(self, shared: Path, *, by_machine: bool = False) -> None:
        self._numbers = _numbers(os.environ.get("CUDA_VISIBLE_DEVICES")) if by_machine else None
        self._board = BoardWriter(torch_board(shared, os.getpid()))
        self._next = 0.0

    def look(self) -> None:
        """Puts up what torch holds now, if it is there and it is time."""
        now = time.monotonic()
        torch = sys.modules.get("torch")
        # Never imported from here: that takes seconds, and the program may not use it.
        if torch is None or now < self._next:
            return
        # Before the look: one that fails is not tried again with the next row.
        self._next = now + _EVERY
        try:
            values = _held(torch, self._numbers)
        except Exception:  # noqa: BLE001 - a torch of another make, or still being imported: nothing to report then
            return
        if values:
            self._board.write(values)


def _numbers(visible: str | None) -> list[str] | None:
    """The machine's index of each GPU that this process sees; None: it is the same."""
    if visible is None:
        return None
    # Of what is named by its UUID only the driver knows the index: its figures are left out.
    return [number if number.isdigit() else "" for number in map(str.strip, visible.split(","))]


def _held(torch: Any, numbers: list[str] | None = None) -> dict[str, float]:
    cuda = torch.cuda
    # CUDA is not touched before the program does it: children that are forked after that cannot use it.
    if not cuda.is_initialized():
        return {}
    values = {}
    for device in range(cuda.device_count()):
        reserved = cuda.memory_reserved(device)
        index = str(device) if numbers is None else numbers[device] if device < len(numbers) else ""
        if reserved and index:  # 0 on a GPU that this process does not use
            values[f"gpu_{index}_torch_allocated_megabytes"] = cuda.memory_allocated(device) / _MEGABYTE
            values[f"gpu_{index}_torch_reserved_megabytes"] = reserved / _MEGABYTE
    return values
