"""Children of a fork that do nothing, and keep what they have of their parent until they are to end."""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["ForkedChild"]


class ForkedChild:
    """A child that another thread forks right now, as one that starts data loaders does."""

    def __init__(self) -> None:
        self.pid = 0
        thread = threading.Thread(target=self._fork)
        thread.start()
        thread.join()

    def _fork(self) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, b"!")
            signal.pause()
            os._exit(0)
        os.read(reading, 1)  # what is to be done in a child after a fork is done
        os.close(reading)
        os.close(writing)
        self.pid = child

    def end(self) -> None:
        """Kills it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
