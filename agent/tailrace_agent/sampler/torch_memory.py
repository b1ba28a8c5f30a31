"""The source `torch`: what PyTorch's allocator holds, which only the training process knows and writes on a board."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tailrace_agent.ipc.sample_board import BoardReader

__all__ = ["TorchOfRanks", "TorchSource", "torch_board"]

_BOARD: Final = "-torch.board"


def torch_board(shared: Path, pid: int) -> Path:
    """Where a training process writes it."""
    return shared / f"{pid}{_BOARD}"


class TorchSource:
    """Allocated and reserved memory by visible GPU; nothing unless it was written anew since the last sample.

    Args:
        path: The board.
    """

    name = "torch"
    every = 0.0

    def __init__(self, path: Path) -> None:
        self._board = BoardReader(path)

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        del now
        # A trainer that stands still, or was killed, leaves its last values on the board for ever.
        before = self._board.sequence
        values = self._board.read()
        return values if self._board.sequence != before else {}

    def tags(self) -> dict[str, str]:
        """None."""
        return {}

    def totals(self) -> dict[str, float]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""


class TorchOfRanks:
    """The same of all processes of a job on this machine, which name GPUs by its index; of one GPU it is their sum.

    Args:
        shared: The session's directory in shared memory.
    """

    name = "torch"
    every = 0.0

    def __init__(self, shared: Path) -> None:
        self._shared = shared
        self._sources: dict[Path, TorchSource] = {}

    def sample(self, now: float) -> dict[str, float]:
        """See `Source`."""
        values: dict[str, float] = {}
        for path in self._shared.glob(f"*{_BOARD}"):
            source = self._sources.setdefault(path, TorchSource(path))
            for key, value in source.sample(now).items():
                values[key] = values.get(key, 0.0) + value
        return values

    def tags(self) -> dict[str, str]:
        """None."""
        return {}

    def totals(self) -> dict[str, float]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""
        self._sources.clear()
