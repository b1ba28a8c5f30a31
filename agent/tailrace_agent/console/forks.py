"""Tees for the other processes of a node's session: forked from one that is there already.

A tee of its own takes five megabytes that nobody shares, a forked one takes one: of many ranks on a node the tees would
take more than their agent. Each is a process of its own all the same, so that none waits for another's reader.

Whoever starts a tee makes a socket for it, in the session's directory in shared memory. The next process connects, and
sends its descriptors; the fork answers with its process id, and reads nothing before it has heard `GO` by its control
socket: whoever has given up waiting, and started a tee of its own, has closed that. Nobody depends on this: where there
is no socket, or no answer in time, another tee is started.

As `tee`, this is loaded by a Python without `site`.
"""

from __future__ import annotations

import _socket
import contextlib
import gc
import os
import select

TYPE_CHECKING = False  # `typing` is not built in
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["GO", "Forks", "ask", "listening"]

GO = b"go\n"
_ANSWERS_WITHIN = 0.5
"""Seconds in which a tee answers, or is not asked again: one that waits for its reader answers nobody."""
_ASKS_WITHIN = 0.2
_GOES_WITHIN = 5.0
_QUEUE = 64


def listening(place: str) -> _socket.socket | None:
    """A socket at which a tee can be asked; None where another one answers, or none can be made.

    Args:
        place: Its path. One at which nobody answers any more gives way.
    """
    made = f"{place}.{os.getpid()}"
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)  # noqa: PTH108 - no pathlib here
        listener.bind(made)
        listener.listen(_QUEUE)
        if not _appears(made, place):
            listener.close()
            return None
    except OSError:  # a path that is too long for a socket, a directory that is gone
        listener.close()
        return None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(made)  # noqa: PTH108
    return listener


def _appears(made: str, place: str) -> bool:
    """Whether it has its name now: it answers already, and takes it from nobody who does."""
    try:
        os.link(made, place)
    except FileExistsError:
        try:
            _connected(place).close()
        except OSError:
            os.replace(made, place)  # noqa: PTH105
        else:
            return False
    return True


def ask(place: str, words: Sequence[str], fds: Sequence[int]) -> int:
    """Asks the tee at a socket for a fork; its process id. It still waits for `GO`.

    Args:
        place: The socket's path.
        words: What a tee is told by its arguments.
        fds: What it has from control and answers on.

    Raises:
        OSError: There is no tee, or it does not answer in time.
    """
    from array import array

    caller = _connected(place)
    try:
        said = b"\0".join(map(os.fsencode, words))
        caller.sendmsg([said], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", fds))])
        answer = caller.recv(32)
    finally:
        caller.close()
    if not answer.isdigit():
        raise ConnectionAbortedError("the tee does not answer")
    return int(answer)


def _connected(place: str) -> _socket.socket:
    caller = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        caller.settimeout(_ANSWERS_WITHIN)
        caller.connect(place)
    except OSError:
        caller.close()
        raise
    return caller


class Forks:
    """Those of a tee, which is a process of one thread.

    Args:
        listener: Where it is asked for them.
        receive: Gives what comes by a socket, with descriptors.
    """

    def __init__(self, listener: _socket.socket, receive: Callable[[_socket.socket], tuple[bytes, list[int]]]) -> None:
        self._listener, self._receive = listener, receive
        gc.freeze()  # what is there is shared as long as nobody writes to it

    def fileno(self) -> int:
        """The socket's descriptor: readable when somebody asks."""
        return self._listener.fileno()

    def fork(self) -> tuple[list[str], list[int]] | None:
        """Answers who asks. In the fork: what it is told, and its descriptors, the only ones that it has; else None."""
        try:
            caller = _socket.socket(fileno=self._listener._accept()[0])  # type: ignore[attr-defined]
        except OSError:  # it has left
            return None
        said, fds, forked = b"", list[int](), False
        with contextlib.suppress(OSError):  # it says nothing, or there may be no more processes
            caller.settimeout(_ASKS_WITHIN)
            said, fds = self._receive(caller)
            forked = bool(fds) and os.fork() == 0
        if forked:
            _begin(caller, fds)
            return list(map(os.fsdecode, said.split(b"\0"))), fds
        caller.close()
        for fd in fds:
            os.close(fd)
        return None


def _begin(caller: _socket.socket, fds: Sequence[int]) -> None:
    """The first steps of a fork; it ends where it is not wanted any more."""
    os.setsid()
    _close_all_but([caller.fileno(), *fds])
    poll = select.poll()
    poll.register(fds[0], select.POLLIN)
    said = b""
    with contextlib.suppress(OSError):
        caller.send(str(os.getpid()).encode())
        caller.close()
        if poll.poll(_GOES_WITHIN * 1000):
            said = os.read(fds[0], len(GO))
    if said != GO:
        os._exit(0)


def _close_all_but(kept: Sequence[int]) -> None:
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
