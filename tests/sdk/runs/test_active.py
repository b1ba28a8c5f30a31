"""Which run is active: in threads, in asyncio tasks, below other runs, and after the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

from helpers.sdk_tools import Store, parent_of
from tailrace import Run, Tracker


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns in a thread of its own; what it raises is raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend([None, work()])
        except BaseException as error:  # noqa: BLE001 - handed on
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert outcome, "the thread is stuck"
    if outcome[0] is not None:
        raise outcome[0]
    return outcome[1]


def test_ending_a_parent_first_leaves_the_child_as_it_is(sdk: Tracker, sqlite_uri: str) -> None:
    parent = sdk.start_run()
    child = sdk.start_run(nested=True)
    parent.end()
    sdk.log(x=1)
    assert sdk.active_run() is child
    assert Store(sqlite_uri, child).status == "RUNNING"
    sdk.end_run()
    assert sdk.active_run() is None
    assert Store(sqlite_uri, child).history("x") == [(0, 1.0)]
    sdk.end_run()  # without a run, nothing happens, as in MLflow


def test_runs_of_several_threads_never_get_into_each_others(sdk: Tracker, sqlite_uri: str) -> None:
    workers, steps = 4, 50
    barrier = threading.Barrier(workers)
    runs: dict[int, Run] = {}

    def work(worker: int) -> None:
        barrier.wait(20)
        with sdk.start_run(run_name=f"worker {worker}") as run:
            runs[worker] = run
            for step in range(steps * (worker + 1)):  # each ends at another time
                sdk.log(worker=worker, step=step)
                run.log(worker_too=worker, step=step)
            sdk.set_tag("worker", worker)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for worker, run in runs.items():
        store = Store(sqlite_uri, run)
        expected = {(step, float(worker)) for step in range(steps * (worker + 1))}
        assert set(store.history("worker")) == set(store.history("worker_too")) == expected
        assert (store.status, store.tags["worker"]) == ("FINISHED", str(worker))
        assert "mlflow.parentRunId" not in store.tags


def test_the_end_of_one_threads_run_leaves_the_others_alone(sdk: Tracker, sqlite_uri: str) -> None:
    mine = sdk.start_run()
    started, ended = threading.Event(), threading.Event()
    theirs: list[Run] = []

    def other() -> None:
        theirs.append(sdk.start_run())
        started.set()
        ended.wait(20)
        sdk.log(after="the end of the other".count("e"), step=1)
        sdk.end_run("FAILED")

    thread = threading.Thread(target=other)
    thread.start()
    started.wait(20)
    sdk.log(mine=1, step=1)
    sdk.end_run()
    ended.set()
    thread.join(30)
    assert (Store(sqlite_uri, mine).status, Store(sqlite_uri, theirs[0]).status) == ("FINISHED", "FAILED")
    assert Store(sqlite_uri, mine).metrics() == {"mine": [(1, 1.0)]}
    assert Store(sqlite_uri, theirs[0]).metrics() == {"after": [(1, 4.0)]}


def test_a_helper_thread_logs_to_the_main_threads_run_and_may_end_it(sdk: Tracker, sqlite_uri: str) -> None:
    run = sdk.start_run()
    in_thread(lambda: sdk.log(helper=1, step=1))
    in_thread(lambda: sdk.log_param("p", 1))
    assert in_thread(sdk.active_run) is run
    assert in_thread(lambda: sdk.start_run(run_name="its own").end()) is None
    with sdk.start_run(nested=True) as child:
        in_thread(lambda: sdk.log(helper=2, step=2))
    sdk.log(main=1, step=3)
    in_thread(lambda: sdk.end_run("KILLED"))
    assert sdk.active_run() is None
    store = Store(sqlite_uri, run)
    assert (store.status, store.params) == ("KILLED", {"p": "1"})
    assert store.metrics() == {"helper": [(1, 1.0)], "main": [(3, 1.0)]}
    assert Store(sqlite_uri, child).metrics() == {"helper": [(2, 2.0)]}
    sdk.log(again=1)  # as in MLflow, a call without a run starts one
    fresh = sdk.active_run()
    assert fresh is not None
    assert fresh is not run
    sdk.end_run()
    assert Store(sqlite_uri, fresh).metrics() == {"again": [(0, 1.0)]}


def test_a_run_that_a_thread_has_left_open_stands_in_the_way_of_no_later_thread(sdk: Tracker, sqlite_uri: str) -> None:
    runs, idents = [], set()

    def work(n: int) -> None:
        idents.add(threading.get_ident())
        runs.append(sdk.start_run(run_name=f"thread {n}"))
        sdk.log(step=0, n=n)

    for n in range(5):  # one after the other: the system gives them the same identity
        thread = threading.Thread(target=work, args=(n,))
        thread.start()
        thread.join()
    assert len(idents) < 5
    for run in runs:
        run.end()
    assert [Store(sqlite_uri, run).metrics() for run in runs] == [{"n": [(0, float(n))]} for n in range(5)]


def test_each_asyncio_task_has_the_run_that_it_has_begun(sdk: Tracker, sqlite_uri: str) -> None:
    async def trial(n: int) -> Run:
        with sdk.start_run(run_name=f"trial {n}", nested=True) as run:
            for step in range(3):
                sdk.log(step=step, n=n)
                await asyncio.sleep(0)
                await asyncio.to_thread(sdk.log_metric, "in a thread", n, step)
            assert sdk.active_run() is run
        return run

    async def study() -> list[Run]:
        return await asyncio.gather(*(trial(n) for n in range(4)))

    with sdk.start_run(run_name="study") as parent:
        runs = asyncio.run(study())
        assert sdk.active_run() is parent
        sdk.log(step=0, after=1.0)
    for n, run in enumerate(runs):
        expected = [(step, float(n)) for step in range(3)]
        assert Store(sqlite_uri, run).metrics() == {"n": expected, "in a thread": expected}
        assert parent_of(sqlite_uri, run) == parent.run_id
    assert Store(sqlite_uri, parent).metrics() == {"after": [(0, 1.0)]}


def test_tasks_without_a_run_above_them_begin_runs_of_their_own(sdk: Tracker, sqlite_uri: str) -> None:
    async def alone(n: int) -> Run:
        run = sdk.start_run(run_name=f"alone {n}")
        await asyncio.sleep(0.01)
        sdk.log(step=0, n=n)
        sdk.end_run()
        return run

    async def all_of_them() -> list[Run]:
        return await asyncio.gather(*(alone(n) for n in range(3)))

    for n, run in enumerate(asyncio.run(all_of_them())):
        assert Store(sqlite_uri, run).metrics() == {"n": [(0, float(n))]}


def test_a_nested_run_of_a_thread_without_one_is_a_child_of_the_programs_run(sdk: Tracker, sqlite_uri: str) -> None:
    def trial(n: int) -> Run:
        with sdk.start_run(nested=True) as run:
            sdk.log(step=0, n=n)
            with sdk.start_run(nested=True) as below:
                sdk.log(step=0, below=n)
        assert sdk.active_run() is parent
        return below if n else run

    with sdk.start_run() as parent, concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(trial, range(2)))
    assert parent_of(sqlite_uri, runs[0]) == parent.run_id
    assert Store(sqlite_uri, runs[1]).metrics() == {"below": [(0, 1.0)]}
    above = parent_of(sqlite_uri, runs[1])
    assert above != parent.run_id
    assert above is not None
    assert Store(sqlite_uri, above).tags["mlflow.parentRunId"] == parent.run_id


def test_threads_without_a_run_log_to_the_programs_one_and_follow_it(sdk: Tracker, sqlite_uri: str) -> None:
    asked, answered = threading.Event(), threading.Event()
    stop = threading.Event()

    def logger() -> None:
        while True:
            asked.wait(30)
            asked.clear()
            if stop.is_set():
                return
            sdk.log(from_thread=1.0)
            answered.set()

    thread = threading.Thread(target=logger)
    thread.start()

    def ask() -> None:
        answered.clear()
        asked.set()
        assert answered.wait(30)

    with sdk.start_run() as one:
        ask()
        with sdk.start_run(nested=True) as below:
            ask()
            ask()
        ask()
    with sdk.start_run() as two:
        ask()
    stop.set()
    asked.set()
    thread.join()
    counts = [len(Store(sqlite_uri, run).history("from_thread")) for run in (one, below, two)]
    assert counts == [2, 2, 1]
