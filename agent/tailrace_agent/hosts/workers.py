"""What both hosts share: a worker that drains, some for each tracking URI, and helpers, started as they are needed.

A tracking URI has one worker for uploads, and for deliveries and tailrace's own files as many as there are runs to be
served at a time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from tailrace_agent.hosts.worker import Worker
from tailrace_agent.log import Log
from tailrace_agent.pipeline.pipeline import Pipeline

__all__ = ["Host"]


def _stay(_: float) -> bool:
    return False


class Host:
    """Runs a pipeline's steps in threads.

    Args:
        pipeline: The logic.
        log: Where operators read.
        leave: Called after each drain; True ends `run`.

    Thread safety: `stop` from any thread.
    """

    def __init__(self, pipeline: Pipeline, log: Log, leave: Callable[[float], bool] = _stay) -> None:
        self.pipeline, self._log, self._leave = pipeline, log, leave
        self.drainer = Worker("tailrace-drain", self._drain, log)
        self._workers: dict[tuple[str | None, str], list[Worker]] = {}
        self._helpers: dict[str, Worker] = {}
        self._unstarted: list[Worker] = []
        self._warned = False
        pipeline.on_change = self._wake

    def run(self) -> None:
        """Drains in the calling thread until `leave` returns True or `stop` is called."""
        self.drainer.run()

    def start(self) -> None:
        """Drains in a daemon thread."""
        self.drainer.start()

    def stop(self, timeout: float) -> bool:
        """Ends all workers after their current steps; whether they did within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        # Only the flag, for all of them first: they end side by side, within one deadline.
        for worker in (self.drainer, *self._others()):
            worker.stop(0)
        drained = self.drainer.stop(max(0.0, deadline - time.monotonic()))
        others = self._others()  # anew: in its last step the drainer may have begun some, for a store it has just found
        for worker in others:
            worker.stop(0)
        ended = [worker.stop(max(0.0, deadline - time.monotonic())) for worker in others]
        return drained and all(ended)

    def _others(self) -> list[Worker]:
        # Copies: the drain adds helpers and workers meanwhile.
        groups = list(self._workers.values())
        return [*(worker for group in groups for worker in list(group)), *list(self._helpers.values())]

    def _drain(self, now: float) -> float:
        deadline = self.pipeline.drain(now)
        for uri, destination in self.pipeline.by_uri.items():
            wanted = (
                ("upload", self.pipeline.upload, 1),
                ("store", self.pipeline.store_files, destination.files.threads),
                ("deliver", self.pipeline.deliver, destination.delivery.threads),
            )
            for name, serve, threads in wanted:
                workers = self._workers.setdefault((uri, name), [])
                for number in range(len(workers) + 1, threads + 1):
                    numbered = name if number == 1 else f"{name}-{number}"
                    workers.append(self._worker(numbered, partial(serve, destination)))
        for name, step in self.pipeline.helpers.items():
            if name not in self._helpers:
                self._helpers[name] = self._worker(name, step)
        deadline = min(deadline, self._start_workers())
        if self._leave(now):
            self.drainer.leave()
        return deadline

    def _worker(self, name: str, step: Callable[[float], float]) -> Worker:
        worker = Worker(f"tailrace-{name}", step, self._log)
        self._unstarted.append(worker)
        return worker

    def _start_workers(self) -> float:
        """Starts those that are not yet. One that gets no thread has its step done here; when it wants the next.

        CPython 3.12 gives no thread to a program that is ending, which for a short one is when its delivery begins.
        """
        waiting, self._unstarted, deadline = self._unstarted, [], math.inf
        for worker in waiting:
            try:
                worker.start()
            except RuntimeError as error:
                self._warn_once(str(error))
                self._unstarted.append(worker)
                deadline = min(deadline, worker.step_once())
        return deadline

    def _warn_once(self, reason: str) -> None:
        if not self._warned:
            self._log.warning("no thread to be had; working without", reason=reason)
            self._warned = True

    def _wake(self) -> None:
        for worker in self._others():
            worker.wake()
