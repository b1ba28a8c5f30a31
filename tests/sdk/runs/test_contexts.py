"""Which run is active: in threads, in asyncio tasks, in executors, below other runs, and after the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import enum
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.sdk_tools import Store, tracking
from tailrace import CallError, Run, SettingsError, Tracker
from tailrace._api.tracker_part import tracker_core_of
from tailrace._runs.core import core_of


@pytest.fixture
def sdk(sqlite_uri: str) -> Iterator[Tracker]:
    with tracking(sqlite_uri) as tracker:
        yield tracker


def in_thread(work: Any, *args: Any) -> Any:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *args).result()


def parent_of(uri: str, run: Run) -> str | None:
    return Store(uri, run).tags.get("mlflow.parentRunId")


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


def test_a_parent_of_another_session_is_named_by_mlflows_id(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as parent, sdk.start_run(nested=True, flush_interval=0.1) as child:
        assert core_of(child).connection is not core_of(parent).connection
    assert parent_of(sqlite_uri, child) == parent.run_id


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


def test_what_is_logged_to_a_run_that_has_ended_is_added_to_it_with_a_word(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run(run_name="over") as run:
        run.log(step=0, loss=1.0)
    run.log(step=1, loss=2.0)
    run.log({"loss": np.float32(3)}, 2)
    sdk.log_metric("late", 1.0, run_id=run.run_id)
    tracker_core_of(sdk).runs.named(run.run_id).flush()
    run.flush(10)
    assert Store(sqlite_uri, run).metrics() == {"loss": [(0, 1.0), (1, 2.0), (2, 3.0)], "late": [(0, 1.0)]}
    assert [record.getMessage() for record in caplog.records] == [
        "tailrace: run 'over' has ended: what is logged to it now is added to it all the same, after its end"
    ]
    assert run.ledger().of("metric").late == 2


class Phase(str, enum.Enum):
    WARM = "warm"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("name", [42, np.int64(42), np.str_("42"), Path("42"), Phase.WARM])
def test_a_text_may_be_anything_that_has_one(sdk: Tracker, sqlite_uri: str, name: Any) -> None:
    shown = "warm" if name is Phase.WARM else str(name)
    tags = {name: name, "n": None, 1: 2}
    with sdk.start_run(run_name=name, description=name, tags=tags, experiment_name=name) as run:
        sdk.set_tags({"later": name, name: 1})
        sdk.set_tag(name, name)
        sdk.log(step=0, loss=1.0)
        sdk.log_text("text", Path("a", "b.txt"))
        sdk.log_dict({"a": 1}, np.str_("dict.json"))
        with sdk.start_run(parent_run_id=np.str_(run.run_id), nested=True) as child:
            sdk.log_metric("by id", 1.0, run_id=np.str_(child.run_id))
    store = Store(sqlite_uri, run)
    assert (store.run.info.run_name, store.tags["mlflow.note.content"]) == (shown, shown)
    assert (store.tags[shown], store.tags["later"], store.tags["n"], store.tags["1"]) == (shown, shown, "None", "2")
    assert store.client.get_experiment(store.run.info.experiment_id).name == shown
    assert store.artifacts() == ["a/b.txt", "dict.json"]
    assert store.status == "FINISHED"


def test_a_text_that_is_too_long_for_mlflow_is_cut_with_a_word_or_an_error_at_the_call(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run(run_name="n" * 9000, description="d" * 9000) as run:
        sdk.log(step=0, loss=1.0)
    store = Store(sqlite_uri, run)
    assert (store.run.info.run_name, store.tags["mlflow.runName"]) == ("n" * 250, "n" * 250)
    assert "run_name has 9,000 characters; MLflow keeps 250" in caplog.text
    for call in (sdk.set_experiment, lambda name: sdk.start_run(experiment_name=name)):
        with pytest.raises(SettingsError, match=r"experiment_name.*1 to 500 characters"):
            call("e" * 501)


def test_a_text_that_cannot_be_had_is_one_clear_error_at_the_call(sdk: Tracker, sqlite_uri: str) -> None:
    for name, given in {"run_name": Hostile(), "description": Hostile(), "tags": {"a": Hostile()}}.items():
        with pytest.raises(CallError, match=f"{name}.*its str\\(\\) raises RuntimeError: no words"):
            sdk.start_run(**{name: given})  # type: ignore[arg-type]
        assert sdk.active_run() is None
    with pytest.raises(CallError, match="tags must be a mapping, not list"):
        sdk.start_run(tags=["a"])  # type: ignore[arg-type]
    with sdk.start_run() as run:
        sdk.set_tag("a", Hostile())
        sdk.set_tag(Hostile(), "a")  # type: ignore[arg-type]
        sdk.log(step=0, loss=1.0)
    assert Store(sqlite_uri, run).status == "FINISHED"


def test_an_end_that_cannot_be_told_keeps_no_other_run_from_ending(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking(sqlite_uri, on_error="warn") as sdk:
        runs = [in_thread(sdk.start_run, None, None, f"run {n}") for n in range(3)]
        ids = [run.run_id for run in runs]

        def broken() -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(core_of(runs[1]), "_cost", broken)
    statuses = [Store(sqlite_uri, run_id).status for run_id in ids]
    assert (statuses[0], statuses[2]) == ("FINISHED", "FINISHED")
    assert "end() could not be done: OSError" in caplog.text


@pytest.mark.parametrize("times", [1, 10**9])
def test_a_run_whose_error_cannot_be_noted_with_it_is_ended_as_failed_all_the_same(
    times: int, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short, the failure of a run is what is logged then."""
    left = iter(range(times))

    def short(tags: object) -> None:
        if next(left, None) is not None:
            raise MemoryError

    def train(sdk: Tracker) -> None:
        with sdk:
            runs.append(sdk.start_run(nested=True))
            monkeypatch.setattr(core_of(runs[0]), "set_tags", short)
            raise ValueError("it diverges")

    runs: list[Run] = []
    with tracking(sqlite_uri, on_error="warn") as sdk:
        with pytest.raises(ValueError, match="it diverges"):
            train(sdk)
        assert (runs[0].status, sdk.active_run()) == ("FAILED", None)


def test_what_keeps_a_parent_from_being_found_costs_no_nested_run_and_no_pickle(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking(sqlite_uri, on_error="warn") as sdk:

        def broken() -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(tracker_core_of(sdk).runs, "inherited", broken)
        assert isinstance(pickle.dumps(sdk), bytes)
        with sdk.start_run(nested=True) as run:
            sdk.log(loss=0.5)
        assert Store(sqlite_uri, run).history("loss")


def test_a_tracker_of_a_class_of_ones_own_comes_back_as_a_tracker(sqlite_uri: str) -> None:
    class Mine(Tracker):
        def __init__(self) -> None:
            super().__init__(sqlite_uri, quiet=True, agent="off")

    mine = Mine()
    back = pickle.loads(pickle.dumps(mine))
    assert back.get_tracking_uri() == sqlite_uri
    for tracker in (mine, back):
        tracker_core_of(tracker).close()
