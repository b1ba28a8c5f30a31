"""Room that a file gives back in its middle, while others write behind it.

Loading this module loads no `ctypes`: the first hole does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

__all__ = ["punch"]

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02  # <linux/falloc.h>
_NOT_HERE: Final = (errno.EOPNOTSUPP, errno.ENOSYS)

_Fallocate = Callable[[int, int, int, int], int]
_found: list[_Fallocate | None] = []


def punch(fd: int, start: int, end: int) -> bool:
    """Gives the blocks of a range of a file back to the file system; what is read there from then on is zero.

    Args:
        fd: The file, open for writing.
        start: First byte of the range.
        end: The byte behind it. The file keeps its length.

    Returns:
        False where the system, or the file system, cannot do that; nothing has changed then.

    Raises:
        OSError: It could, and has failed.
    """
    fallocate = _fallocate()
    if fallocate is None:
        return False
    if start < end and fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, start, end - start):
        import ctypes

        code = ctypes.get_errno()
        if code in _NOT_HERE:
            return False
        raise OSError(code, os.strerror(code))
    return True


def _fallocate() -> _Fallocate | None:
    """Linux's call, which Python does not have; None on other systems."""
    if not _found:
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        # By this name the offsets have 64 bits, on any machine.
        call = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
        if call is not None:
            call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        _found.append(call)
    return _found[0]
