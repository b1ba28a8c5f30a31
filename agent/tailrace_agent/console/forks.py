"""Tees for the other processes of a node's session: forked from one that is there already.

A tee of its own takes five megabytes that nobody shares, a forked one takes one: of many ranks on a node the tees would
take more than their agent. Each is a process of its own all the same, so that none waits for another's reader.

Whoever starts a tee makes a socket for it, in the session's directory in shared memory. The next process connects, and
hears the process id of a fork, which is sent the descriptors then, and no other: what lay in the socket of a tee that
is stopped would keep the readers of another rank waiting. Nobody depends on this: where there is no socket, or no
answer in time, another tee is started.

As `tee`, this is loaded by a Python without `site`.
"""

from __future__ import annotations

import _socket
import contextlib
import gc
import os
import sys

TYPE_CHECKING = False  # `typing` is not built in
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Forks", "ask", "listening"]

_ANSWERS_WITHIN = 0.5
"""Seconds in which a tee answers, or is not asked again: one that waits for its reader answers nobody."""
_GIVES_WITHIN = 5.0
_QUEUE = 64
_NO_SIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)


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
    """Asks the tee at a socket for a fork; its process id.

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
        answer = caller.recv(32)
        if not answer.isdigit():
            raise ConnectionAbortedError("the tee does not answer")
        said = b"\0".join(map(os.fsencode, words))
        # Without the signal: some programs take what Python has for it away.
        caller.sendmsg([said], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", fds))], _NO_SIGNAL)
    finally:
        caller.close()
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
        """The socket's descriptor: readable when somebody asks; -1 once there is none."""
        return self._listener.fileno()

    def fork(self) -> tuple[list[str], list[int]] | None:
        """Answers who asks. In the fork: what it is told, and its descriptors, the only ones that it has; else None."""
        try:
            caller = _socket.socket(fileno=self._listener._accept()[0])  # type: ignore[attr-defined]
        except OSError:  # no descriptor is left; tried again and again, it would take a processor
            self._listener.close()
            return None
        forked = False
        with contextlib.suppress(OSError):  # there may be no more processes
            forked = _waits(caller) and os.fork() == 0
        if forked:
            self._listener.detach()  # closed with all others: its number is another's then
            return self._begin(caller)
        caller.close()
        return None

    def _begin(self, caller: _socket.socket) -> tuple[list[str], list[int]]:
        """The first steps of a fork; it ends where it is not wanted any more."""
        os.setsid()
        _close_all_but(caller.fileno())
        _run_where_it_does(caller)
        said, fds = b"", list[int]()
        with contextlib.suppress(OSError):  # it has left, or says nothing
            caller.settimeout(_GIVES_WITHIN)
            caller.send(str(os.getpid()).encode(), _NO_SIGNAL)
            said, fds = self._receive(caller)
        if not fds:
            os._exit(0)
        caller.close()
        return list(map(os.fsdecode, said.split(b"\0"))), fds


def _waits(caller: _socket.socket) -> bool:
    """Whether it has not left: it says nothing before it is answered."""
    try:
        caller.recv(1, _socket.MSG_DONTWAIT | _socket.MSG_PEEK)
    except BlockingIOError:
        return True
    return False


def _run_where_it_does(caller: _socket.socket) -> None:
    """On its processors: where each rank has some of its own, the first tee has those of another one."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux; or they are not ours
        program = int.from_bytes(caller.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 4), sys.byteorder)
        os.sched_setaffinity(0, os.sched_getaffinity(program))


def _close_all_but(fd: int) -> None:
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
