"""A program that starts children of every kind, all of which log to its run. Run by the tests.

Arguments: what to do (a name of this module's functions), the tracking URI, the journal, and a number.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tailrace
from faults.oracle import Journal


def logs(journal: Path, who: str, count: int, pause: float = 0.0) -> None:
    """Logs `count` points under a key of its own."""
    book = Journal(journal)
    for step in range(count):
        values = {f"{who}/x": step / 3}
        before = time.time_ns()
        tailrace.log(values, step=step)
        book.note(step, values, before, time.time_ns())
        if pause:
            time.sleep(pause)


def fork(work: Callable[[], None]) -> int:
    """Runs `work` in a forked child, which then vanishes without any clean-up, as data-loader workers do."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a deadlock is a failure, not a hang
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def forks(journal: Path, count: int) -> None:
    """Forks while two other threads never stop logging, so that many a child is born with the lock held."""
    done = threading.Event()

    def hammer(who: str) -> None:
        book = Journal(journal)
        step = 0
        while not done.is_set():
            values = {f"{who}/x": float(step)}
            before = time.time_ns()
            tailrace.log(values, step=step)
            if step % 16 == 0:  # the journal costs more than the call: note some, the others may be there too
                book.note(step, values, before, time.time_ns())
            step += 1
            if step % 256 == 0:
                time.sleep(0.01)

    threads = [threading.Thread(target=hammer, args=(f"hammer{i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    children = [fork(lambda i=i: logs(journal, f"fork{i}", 100)) for i in range(count)]
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    done.set()
    for thread in threads:
        thread.join()
    assert not any(codes), codes


def kinds(journal: Path, count: int) -> None:
    """Children of `multiprocessing`, forked and spawned, and grandchildren."""
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        children: list[Any] = [context.Process(target=logs, args=(journal, f"{method}{i}", 100)) for i in range(count)]
        children.append(context.Process(target=grandparent, args=(journal, method)))
        for child in children:
            child.start()
        logs(journal, f"parent-of-{method}", 100)
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0] * len(children)


def grandparent(journal: Path, method: str) -> None:
    """A child that logs and has a child that logs."""
    logs(journal, f"{method}-child", 50)
    assert os.waitpid(fork(lambda: logs(journal, f"{method}-grandchild", 50)), 0)[1] == 0


def loaders(journal: Path, count: int) -> None:
    """Workers of torch's `DataLoader`, which log what they load."""
    from torch.utils.data import DataLoader, Dataset

    class Items(Dataset[int]):
        def __init__(self) -> None:
            self.book = Journal(journal)

        def __len__(self) -> int:
            return 400

        def __getitem__(self, index: int) -> int:
            values = {"loader/item": float(index)}
            before = time.time_ns()
            tailrace.log(values, step=index)
            self.book.note(index, values, before, time.time_ns())
            return index

    for index, _ in enumerate(DataLoader(Items(), batch_size=20, num_workers=count, persistent_workers=True)):
        values = {"loop/batch": float(index)}
        before = time.time_ns()
        tailrace.log(values, step=index)
        Journal(journal).note(index, values, before, time.time_ns())


def orphans(journal: Path, count: int) -> None:
    """Children that sleep while the agent is killed, then log; says `ready` when they have been forked."""
    go = Path(f"{journal}.go")

    def work(i: int) -> None:
        while not go.exists():
            time.sleep(0.01)
        logs(journal, f"orphan{i}", 50)

    logs(journal, "early", 50)
    children = [fork(lambda i=i: work(i)) for i in range(count)]
    print("ready", flush=True)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    assert not any(codes), codes
    logs(journal, "late", 50)


def own_runs(journal: Path, count: int) -> None:
    """Forked children that start runs of their own, one beside the parent's run and one nested under it."""

    def work(i: int) -> None:
        logs(journal, f"joined{i}", 20)
        for nested in (False, True):
            with tailrace.start_run(tracking_uri=sys.argv[2], quiet=True, nested=nested) as own:
                logs(journal, f"own{i}-{nested}", 20)
                print(f"own{i}-{nested}", own.id, flush=True)
        logs(journal, f"again{i}", 20)

    codes = [os.waitpid(fork(lambda i=i: work(i)), 0)[1] for i in range(count)]
    assert not any(codes), codes
    logs(journal, "parent", 20)


def threads(journal: Path, count: int) -> None:
    """Threads that log to the main thread's run, and threads with runs of their own."""
    with tailrace.Tracker(quiet=True).start_run(tracking_uri=sys.argv[2]) as other:

        def own(i: int) -> None:
            for step in range(100):
                other.log({f"other{i}/x": float(step)}, step=step)

        workers = [threading.Thread(target=logs, args=(journal, f"thread{i}", 200)) for i in range(count)]
        workers += [threading.Thread(target=own, args=(i,)) for i in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print("other", other.id, flush=True)


def reenter(journal: Path, count: int) -> None:
    """Logs from a signal handler and from `__del__` while the same thread is logging, values that are none too."""
    book = Journal(journal)
    calls = {"main": 0, "signal": 0, "del": 0}

    def log(who: str) -> None:
        step = calls[who]
        calls[who] += 1
        values = {f"{who}/x": step / 3}
        before = time.time_ns()
        tailrace.log(values, step=step)
        book.note(step, values, before, time.time_ns())
        if step % 8 == 0:
            tailrace.log({f"{who}/bad": object()}, step=step)

    class Finalized:
        def __init__(self) -> None:
            self.me = self  # so that only the garbage collector finds it, in the midst of anything

        def __del__(self) -> None:
            log("del")

    signal.signal(signal.SIGALRM, lambda *_: log("signal"))
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    while calls["main"] < count:
        log("main")
        Finalized()
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()
    print("calls", calls["main"], calls["signal"], calls["del"], flush=True)


if __name__ == "__main__":
    run = tailrace.start_run(tracking_uri=sys.argv[2], quiet=True)
    print("run", run.id, flush=True)
    globals()[sys.argv[1]](Path(sys.argv[3]), int(sys.argv[4]))
    tailrace.end_run()
    print("end", flush=True)
