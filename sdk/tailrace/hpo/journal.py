"""Optuna's journal in a file that is the same one from the search's beginning to its end."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Journal"]


class Journal(BaseJournalBackend):
    """A journal file that has to stay the one that was opened.

    Optuna opens it by its name each time: one that was removed or replaced on the way would be begun anew, and read
    from where the old one ended, so that trials would be lost in silence, or counted wrongly.

    Args:
        path: Of the file; it is made where there is none.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._file = JournalFileBackend(path)
        self._opened = self._identity()

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """As Optuna's.

        Raises:
            OSError: The file is not the one that was opened.
        """
        self._check()
        return self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """As Optuna's.

        Raises:
            OSError: The file is not the one that was opened.
        """
        self._check()
        self._file.append_logs(logs)

    def _check(self) -> None:
        if self._identity() != self._opened:
            raise OSError(errno.ESTALE, "the file was replaced by another one while the search ran", str(self._path))

    def _identity(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_dev, found.st_ino
