"""Hands on what a program prints, and keeps it: the process between a program's output and where it would have gone.

Invariants
----------
1. What was read is kept first and handed on then, unchanged, in the order in which it came.
2. Nothing that happens to what is kept (a full disk, a deleted directory) keeps anything from being handed on.
3. It ends when nobody can print any more, whatever has become of the program, and not before that. It serves one run
   after the other, each by streams of its own; whoever still prints by those of an earlier one is served, and not kept.
4. Where nobody reads the original any more, nobody is left reading here, so that writers get what they would have got.

It is run as a script, by a Python without `site`, so it imports what is built in and, where there is a terminal or
there are others to be served, `terminal` and `forks`, which do no more: it is there within ten milliseconds, and takes
seven megabytes. The program may also call `Tee.run` in a thread of its own.

    control in (3), answers out (4), then for each stream where it is read and where it goes (5 and 6, 7 and 8), and
    behind these the socket where it is asked for forks, if there is one
    arguments: directory, bytes to keep, the program (0: no keys are its) and its group, number of streams, of sockets

By control, a socket, come lines: `end`, and for the next run `begin`, with the same arguments but the last, and the
descriptors of its streams.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # `typing` is not built in
if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace_agent.console.forks import Forks
    from tailrace_agent.console.terminal import Terminal

__all__ = [
    "ANSWER_BEGUN",
    "ANSWER_BROKEN",
    "ANSWER_DRAINED",
    "ANSWER_LOST",
    "BEGIN",
    "DONE",
    "END",
    "FIRST_STREAM",
    "HEAD",
    "PARTS",
    "Segments",
    "Stream",
    "Tee",
]

HEAD = 4
"""Segments of the beginning that are kept, of `PARTS`."""
PARTS = 16
DONE = "done"
"""A file beside the segments: nothing more comes."""
ANSWER_BEGUN = b"w"
"""The tee is at work: its first word."""
ANSWER_DRAINED = b"d"
"""All that was printed before the program has asked is kept, and handed on: the last word of a run."""
ANSWER_LOST = b"l"
"""Something could not be written where it goes: a disk is full, or a terminal was closed."""
ANSWER_BROKEN = b"b"
"""Where a stream goes nobody reads any more."""
BEGIN = b"begin"
END = b"end\n"
FIRST_STREAM = 5
_TRIES = 3
_CLOSE_ON_EXEC = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)
_CHUNK = 65536
_PIPE_BUF = 4096
"""What a pipe that can be written to takes at once, without keeping the writer waiting."""
_LOOK = 0.5
"""Seconds between two looks at the time, where it ends something."""
_RETURN = 0.01
"""Seconds for which a CR that ends what was read is held: whether it is the pty's own is known by what follows it."""
_QUIET = 0.02
"""Seconds for which a terminal is quiet when all is read: the kernel hands over between its ends a moment later."""
_DRAINING = 2.0
"""Seconds for which all that was printed is waited for, where children go on printing to a reader that keeps up."""
_LONG = 0.1
"""Seconds after which a reader does not keep up."""
_REST = 60.0
"""Seconds for which the program's next run is waited for."""
_ORPHANED = 10.0
"""Seconds after the program's end for which what its children print is still kept."""


class Segments:
    """What is kept: files named by where they begin in all that was printed; of too many, the middle ones go.

    Args:
        directory: Where they are; it is there.
        limit: Bytes.
    """

    def __init__(self, directory: str, limit: int) -> None:
        self._directory, self._size = directory, max(limit // PARTS, 1)
        with contextlib.suppress(OSError):
            os.unlink(self._path(DONE))  # noqa: PTH108 - no pathlib here
        self._names, self._end = self._before()
        self._fd = -1
        self._room = 0

    def _before(self) -> tuple[list[str], int]:
        """What one that was killed has left, and where it ends."""
        for _ in range(_TRIES):
            names = sorted(name for name in _listed(self._directory) if name.isdigit())
            if not names:
                break
            with contextlib.suppress(OSError):  # the agent deletes just now what it has read
                return names, int(names[-1]) + os.stat(self._path(names[-1])).st_size  # noqa: PTH116
        return [], 0

    def keep(self, data: bytes) -> None:
        """Keeps it, if the disk does."""
        try:
            if self._room <= 0:
                self._roll()
            written = os.write(self._fd, data)
            while written < len(data):  # a disk that is nearly full takes a part
                written += os.write(self._fd, data[written:])
            self._drop()
        except OSError:
            self._room = 0  # a new one is tried with the next
            self._take_back()
        self._end += len(data)
        self._room -= len(data)

    def done(self) -> None:
        """Nothing more comes."""
        self._close()
        with contextlib.suppress(OSError):
            os.close(os.open(self._path(DONE), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _roll(self) -> None:
        self._close()
        name = f"{self._end:020d}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._path(name), flags, 0o600)
        self._names.append(name)
        self._room = self._size

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take_back(self) -> None:
        """An empty one is none: as many as a full disk does not take would have all that is kept make room for them."""
        with contextlib.suppress(OSError):
            if self._fd >= 0 and not os.fstat(self._fd).st_size:
                self._close()
                os.unlink(self._path(self._names.pop()))  # noqa: PTH108

    def _drop(self) -> None:
        while len(self._names) > PARTS:
            with contextlib.suppress(OSError):
                os.unlink(self._path(self._names[HEAD]))  # noqa: PTH108
            del self._names[HEAD]

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208
    except OSError:
        return []


class Stream:
    """One way from a program to where its output goes.

    Args:
        source: Where what it prints is read: a pipe, or the master of a pty.
        target: Where it goes.
        program: Process that prints; 0 for one that has no keys to be passed on.
        group: Process group that is told of a new window size; 0 for none.
    """

    def __init__(self, source: int, target: int, program: int = 0, group: int = 0) -> None:
        self.source, self.target = source, target
        self.terminal: Terminal | None = None
        if os.isatty(source):
            from tailrace_agent.console.terminal import Terminal

            self.terminal = Terminal(source, target, program, group)
        self.pending = b""
        self.held = b""
        self.blind = False  # nobody is there to see it: what comes is kept alone
        self.lost = False  # something of it could not be written
        self.over = False  # nobody can write any more

    def read(self) -> bytes:
        """What has come, as it was written: the terminal makes of a line's end what it wants, and the pty has, too."""
        try:
            data = os.read(self.source, _CHUNK)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return b""
            data = b""  # EIO: the last program has closed the pty
        self.over = not data
        if self.terminal is None or self.over or not (self.held or self.terminal.adds_returns):
            return self.release() + data
        data = self.release() + data
        if data.endswith(b"\r"):
            data, self.held = data[:-1], b"\r"
        return data.replace(b"\r\n", b"\n")

    def release(self) -> bytes:
        """What was held, since nothing has followed it."""
        held, self.held = self.held, b""
        return held

    def write(self, most: int) -> None:
        """Hands on what waits, or a part of it.

        Raises:
            BrokenPipeError: Nobody reads it any more.
        """
        try:
            written = os.write(self.target, self.pending[:most])
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):  # somebody has made the target one that does not wait
                return
            # A terminal that was closed, a full disk: the program goes on, and it is kept here.
            self.blind, self.lost = error.errno not in (errno.ENOSPC, errno.EDQUOT), True
            written = len(self.pending)
        self.pending = self.pending[written:]


class Tee:
    """Hands on and keeps until nobody can print any more.

    Args:
        streams: From where to where.
        segments: Where it is kept.
        control: Readable end by which the program speaks; at its end the program is gone.
        answers: Writable end of the pipe by which it is answered.
        receive: Gives what the program says, with descriptors; without, nothing comes after this run.
        forks: Those that others ask it for.
    """

    def __init__(
        self,
        streams: list[Stream],
        segments: Segments,
        control: int,
        answers: int,
        receive: Callable[[], tuple[bytes, list[int]]] | None = None,
        forks: Forks | None = None,
    ) -> None:
        self._control, self._answers, self._receive, self._forks = control, answers, receive, forks
        self._listens = True
        self._said, self._given = b"", list[int]()  # what is not yet a whole line, and its descriptors
        self._orphaned = float("inf")  # when the program went
        self._streams: list[Stream] = []
        self._begin(streams, segments)

    def _begin(self, streams: list[Stream], segments: Segments) -> None:
        self._streams += streams
        self._current, self._segments = list(streams), segments
        self._keeps = True
        self._answered = False
        self._asked = 0.0  # since when the program waits until all is drained; 0: it does not
        self._stalled = False  # since then a reader has kept us waiting, and what was printed before may still be here

    def run(self) -> tuple[list[str], list[int]] | None:
        """Until nobody can print any more, or, in a fork of it, at once: with what `Forks.fork` has returned."""
        self._answer(ANSWER_BEGUN)
        self._look_at_terminals(set())
        while self._streams or (self._receive is not None and self._listens):
            ready = self._poll()
            if self._control in ready:
                self._listen()
            if self._forks is not None and self._forks.fileno() in ready and (asked := self._forks.fork()) is not None:
                return asked
            for stream in list(self._streams):
                if stream.pending and stream.target in ready:
                    self._hand_on(stream)
                elif not stream.pending and stream.source in ready:
                    self._take(stream)
                elif not stream.pending and stream.held:
                    self._pass_on(stream, stream.release())
            if not (ready or self._streams):
                break
            self._look_at_end(ready)
            if time.monotonic() > self._orphaned + _ORPHANED:
                self._stop_keeping()
        self._stop_keeping()
        return None

    def _look_at_end(self, ready: set[int]) -> None:
        """Answers the program that waits for all to be handed on."""
        if not self._current:
            self._drained()
        if not self._asked:
            return
        if not (self._pending or self._control in ready or any(each.source in ready for each in self._current)):
            self._drained()
        elif time.monotonic() > self._asked + _DRAINING:
            self._stop_keeping()
            if not self._stalled:
                self._drained()

    @property
    def _pending(self) -> bool:
        return any(stream.pending for stream in self._current)

    def _poll(self) -> set[int]:
        poll = select.poll()
        if self._listens:
            poll.register(self._control, select.POLLIN)
        if self._forks is not None and self._forks.fileno() >= 0:
            poll.register(self._forks, select.POLLIN)
        for stream in self._streams:
            if stream.pending:
                poll.register(stream.target, select.POLLOUT)
            else:
                poll.register(stream.source, select.POLLIN)
        terminals = self._terminals
        for terminal in terminals:
            if terminal.wants_keys:
                poll.register(terminal.keys, select.POLLIN)
        if self._asked:
            wait: float | None = _LOOK if self._pending else _QUIET if terminals else 0.0
        else:
            waits = [terminal.wait for terminal in terminals]
            if any(stream.held for stream in self._streams):
                waits.append(_RETURN)
            if self._keeps and self._orphaned != float("inf"):
                waits.append(_LOOK)
            wait = min(waits, default=None if self._streams else _REST)
        ready = {fd for fd, _ in poll.poll(None if wait is None else wait * 1000)}
        self._stalled = self._stalled or any(each.pending and each.target not in ready for each in self._current)
        self._look_at_terminals(ready)  # what is read now was written in the modes that the pty has now
        return ready

    @property
    def _terminals(self) -> list[Terminal]:
        return [stream.terminal for stream in self._streams if stream.terminal is not None]

    def _look_at_terminals(self, ready: set[int]) -> None:
        for terminal in self._terminals:
            terminal.look(woken=terminal.keys in ready)

    def _take(self, stream: Stream) -> None:
        self._pass_on(stream, stream.read())
        if stream.over and not stream.pending:
            self._close(stream)

    def _pass_on(self, stream: Stream, data: bytes) -> None:
        if not data:
            return
        if self._keeps and stream in self._current:
            self._segments.keep(data)
        if not stream.blind:
            stream.pending = data
            if len(self._streams) == 1:
                self._hand_on(stream)

    def _hand_on(self, stream: Stream) -> None:
        began, lost, ours = time.monotonic(), stream.lost, stream in self._current
        try:
            # One alone may keep us waiting as its terminal would keep the program; two must not wait for each other.
            stream.write(_CHUNK if len(self._streams) == 1 else _PIPE_BUF)
            if ours and stream.lost and not lost:
                self._answer(ANSWER_LOST)
        except BrokenPipeError:
            if ours:
                self._answer(ANSWER_BROKEN)
            self._close(stream)
        self._stalled = self._stalled or (ours and time.monotonic() > began + _LONG)

    def _close(self, stream: Stream) -> None:
        if stream.terminal is not None:
            stream.terminal.close()
        self._streams.remove(stream)
        if stream in self._current:
            self._current.remove(stream)
        for fd in {stream.source, stream.target}:
            os.close(fd)

    def _listen(self) -> None:
        said, given = b"", list[int]()
        with contextlib.suppress(OSError):
            said, given = self._receive() if self._receive is not None else (os.read(self._control, 64), [])
        if not said:
            self._listens = False
            self._orphaned = time.monotonic()
            return
        self._given += given
        *lines, self._said = (self._said + said).split(b"\n")
        for line in lines:
            if line.startswith(BEGIN):
                self._go_on_with(line)
            elif not self._answered:
                self._asked, self._stalled = time.monotonic(), False

    def _go_on_with(self, line: bytes) -> None:
        """Another run of the program's begins."""
        limit, program, group, number, directory = line.removeprefix(BEGIN).split(maxsplit=4)
        fds, self._given = self._given[: 2 * int(number)], self._given[2 * int(number) :]
        streams = [
            Stream(source, target, int(program), int(group)) for source, target in zip(fds[::2], fds[1::2], strict=True)
        ]
        self._stop_keeping()
        self._begin(streams, Segments(os.fsdecode(directory), int(limit)))

    def _drained(self) -> None:
        self._asked = 0.0
        self._stop_keeping()
        if not self._answered:
            self._answered = True
            self._answer(ANSWER_DRAINED)

    def _stop_keeping(self) -> None:
        if self._keeps:
            self._keeps = False
            self._segments.done()

    def _answer(self, answer: bytes) -> None:
        with contextlib.suppress(OSError):  # the program is gone
            os.write(self._answers, answer)


def main() -> None:
    """The process."""
    words, fds = sys.argv[1:], list(range(FIRST_STREAM - 2, FIRST_STREAM + 2 * int(sys.argv[5])))
    listens, more = FIRST_STREAM + 2 * int(sys.argv[5]), int(sys.argv[6])
    # What the program has left inheritable: a pipe that lived on here would keep its reader waiting for ever.
    os.closerange(listens + more, os.sysconf("SC_OPEN_MAX"))
    # The last words are to arrive, whoever ends the program and those around it. Nobody waits for a fork's end.
    for name in ("SIGINT", "SIGHUP", "SIGTERM", "SIGQUIT", "SIGPIPE", "SIGTTOU", "SIGCHLD"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # Whoever prints is not to lose the processor to it for that.
    with contextlib.suppress(AttributeError, OSError):  # not Linux; or not allowed
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    sys.path.insert(0, __file__.rpartition("/tailrace_agent/")[0])  # a Python without `site` knows of no packages
    forks = None
    if more:
        from tailrace_agent.console.forks import Forks

        forks = Forks(_socket.socket(fileno=listens), _received)
    while (asked := _served(words, fds, forks)) is not None:
        (words, fds), forks = asked, None


def _served(words: list[str], fds: list[int], forks: Forks | None) -> tuple[list[str], list[int]] | None:
    """A tee from its beginning to its end; what a fork of it is asked for."""
    directory, limit, program, group = words[0], *map(int, words[1:4])
    control = _socket.socket(fileno=fds[0])
    streams = [Stream(source, target, program, group) for source, target in zip(fds[2::2], fds[3::2], strict=True)]
    try:
        return Tee(streams, Segments(directory, limit), fds[0], fds[1], lambda: _received(control), forks).run()
    finally:
        control.detach()  # in a fork its number is another one's


def _received(socket: _socket.socket) -> tuple[bytes, list[int]]:
    """What comes by a socket, with its descriptors."""
    said, beside, _, _ = socket.recvmsg(_CHUNK, _socket.CMSG_SPACE(16 * 4), _CLOSE_ON_EXEC)
    return said, [fd for _, _, data in beside for fd in memoryview(data[: len(data) // 4 * 4]).cast("i")]


if __name__ == "__main__":
    main()
