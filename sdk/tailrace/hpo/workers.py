"""A search by several processes of this machine over one storage: `tailrace hpo CONFIG --workers N`.

* The process that starts them runs no trial. It counts out turns (see `worker`), owns the parent run or joins it, and
  shows how far the study is.
* A worker that dies leaves the others alone. Its trial is FAIL at once, and in MLflow KILLED, by the agent. Another one
  takes its place, as long as trials have begun since the last time: one that dies at once does so without end.
* Workers have a session of their own: Ctrl-C reaches this process, which passes it on once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace.hpo.studies import count, fail_the_dead
from tailrace.hpo.worker import Job
from tailrace_agent.errors import TailraceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna import Study

    from tailrace.hpo.progress import Progress

__all__ = ["Crew"]

_LOOK_EVERY: Final = 0.2
_LEAVES_WITHIN: Final = 60.0
"""Seconds that a worker has after Ctrl-C."""
_OTHERS_WITHIN: Final = 600.0
_WITHOUT_END: Final = 1 << 16  # as many as a pipe holds
_CODE: Final = """\
import json, sys
sys.path[:] = json.loads(sys.stdin.buffer.readline())
from tailrace.hpo.worker import main
sys.exit(main())
"""


class Crew:
    """The workers of one search.

    Args:
        study: The study.
        asked_to_stop: Whether no trial is to begin any more.
        job: What each is to do; number and pipe are set here.
        size: How many there are at a time.
        progress: Shows how far the study is.
        output: Where what they print goes: a file descriptor, or None for where this process's goes.

    Attributes:
        killed: How many were ended by a signal.
    """

    def __init__(
        self,
        study: Study,
        asked_to_stop: Callable[[], bool],
        job: Job,
        size: int,
        progress: Progress,
        output: int | None = None,
    ) -> None:
        self._study, self._job, self._size, self._progress, self._output = study, job, size, progress, output
        self._asked_to_stop, self._said = asked_to_stop, False
        self._workers: list[subprocess.Popen[bytes]] = []
        self._started = self.killed = self._stopped = 0
        self._began = -1

    def work(self) -> None:
        """Lets them work until the study has its trials, or the time is over."""
        most, first = self._job.search.n_trials, count(self._study).total
        while not self._late() and not self._stops():
            before = count(self._study)
            missing = _WITHOUT_END if most is None else most - before.total
            if missing <= 0 or not self._round(missing) or count(self._study).total == before.total:
                break
        if self._stopped and count(self._study).total == first:
            raise TailraceError("no trial has begun: no worker could start, as is said above")
        self._await_others()

    def _late(self) -> bool:
        return self._job.ends_at is not None and time.time() >= self._job.ends_at

    def _stops(self) -> bool:
        """Whether no trial begins any more since somebody has asked for it, which is said once."""
        if not self._said and self._asked_to_stop():
            self._said = True
            self._progress.say(
                "the search was asked to stop: no trial begins any more, those that run go to their ends"
            )
        return self._said

    def _round(self, turns: int) -> bool:
        """So many turns; whether a worker was killed on the way, so that some may have been lost."""
        reading, writing = os.pipe()
        try:
            os.set_blocking(writing, False)
            self._workers = [self._start(reading) for _ in range(min(self._size, turns))]
            killed = 0
            while self._workers:
                if self._stops():  # what is in the pipe already they leave there
                    turns = 0
                turns -= _fill(writing, turns)
                killed += (dead := self._look())
                if dead and not self._said and self._gets_on():
                    self._workers += [self._start(reading) for _ in range(dead)]
                time.sleep(_LOOK_EVERY)
                if turns <= 0 and writing >= 0:
                    os.close(writing)
                    writing = -1
        except BaseException:
            self._stop()
            raise
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
        return killed > 0

    def _start(self, reading: int) -> subprocess.Popen[bytes]:
        job = msgspec.structs.replace(self._job, number=self._started, turns=reading)
        self._started += 1
        worker = subprocess.Popen(
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=self._output,
            pass_fds=[reading],
            start_new_session=True,
        )
        assert worker.stdin is not None
        with worker.stdin, contextlib.suppress(BrokenPipeError):  # it has died already: seen at the next look
            worker.stdin.write(msgspec.json.encode(sys.path) + b"\n" + msgspec.json.encode(job))
        return worker

    def _gets_on(self) -> bool:
        """Whether trials have begun since it was asked last."""
        before, self._began = self._began, count(self._study).total
        return self._began > before

    def _look(self) -> int:
        """Shows what is new, and takes note of workers that have left; how many were killed."""
        gone = [worker for worker in self._workers if worker.poll() is not None]
        self._workers = [worker for worker in self._workers if worker not in gone]
        killed = [worker for worker in gone if worker.returncode < 0]
        self._stopped += sum(worker.returncode > 0 for worker in gone)
        self.killed += len(killed)
        failed = fail_the_dead(self._study) if killed else 0
        for worker in killed:
            name = signal.Signals(-worker.returncode).name
            trial = "its trial is FAIL" if failed == len(killed) else "a trial that it ran is FAIL"
            self._progress.say(f"worker {worker.pid} was ended by {name}; {trial}, the others go on")
        self._progress.show()
        return len(killed)

    def _stop(self) -> None:
        """Passes Ctrl-C on, and waits until they have ended their trials' runs."""
        try:
            for worker in self._workers:
                worker.send_signal(signal.SIGINT)
            deadline = time.monotonic() + _LEAVES_WITHIN
            for worker in self._workers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(max(0.0, deadline - time.monotonic()))
        finally:  # a second Ctrl-C
            for worker in self._workers:
                worker.kill()
                self.killed += worker.wait() < 0
            with contextlib.suppress(Exception):  # a storage that is away: whoever goes on with the study does it
                fail_the_dead(self._study)

    def _await_others(self) -> None:
        """Trials of other machines end, as long as that may take a trial."""
        deadline = time.monotonic() + _OTHERS_WITHIN
        said = False
        while (running := count(self._study).running) and time.monotonic() < deadline and not self._late():
            if not said:
                self._progress.say(f"waiting for {running} running elsewhere; Ctrl-C goes on without")
                said = True
            fail_the_dead(self._study)
            self._progress.show()
            time.sleep(1.0)


def _fill(writing: int, turns: int) -> int:
    """Puts turns into the pipe, as many as find room."""
    if turns <= 0:
        return 0
    try:
        return os.write(writing, bytes(1) * min(turns, _WITHOUT_END))
    except BlockingIOError:
        return 0


def job_of(search: Any, folder: str, **options: Any) -> Job:
    """What the workers of a search are to do."""
    ends_at = None if search.timeout is None else time.time() + search.timeout
    return Job(search=search, number=0, turns=-1, folder=folder, ends_at=ends_at, **options)
