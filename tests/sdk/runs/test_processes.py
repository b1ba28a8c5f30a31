"""Runs that several processes log to: what each of them has said is there, and in the run that was meant."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import forget, named, scripts

JOINED = """
import multiprocessing, os, subprocess, sys, threading, time
import numpy as np
import tailrace as sdk

class Late:
    '''A value on a device, which is there after a while.'''
    shape = ()
    def __init__(self):
        self.at = time.monotonic() + 0.2
    def copy_to_host_async(self):
        pass
    def is_ready(self):
        return time.monotonic() > self.at
    def item(self):
        return 1.0

def linger():
    time.sleep(0.3)  # its process has come to its finalizers
    sdk.log_text("late", f"late-{os.getpid()}.txt")

def begin_to_linger():
    threading.Thread(target=linger).start()

def leave(how):
    sdk.log(step=0, **{f"late-{how}": Late()})
    for n in range(3):
        sdk.log({f"held-{how}": n}, step=n)
    sdk.log(counted=1.0)
    sdk.log_text(how, f"{how}/text.txt")
    sdk.log_dict({"a": how}, f"{how}/dict.json")
    sdk.log_image(np.zeros((4, 4)), f"{how}/image.png")
    sdk.log_table({"a": [how]}, f"{how}/table.json")
    if "spawn" not in how and how != "forkserver":  # matplotlib is there already
        from matplotlib.figure import Figure
        sdk.log_figure(Figure(), f"{how}/figure.png")
    if how == "fork":
        from sklearn.linear_model import LinearRegression
        sdk.log_model(LinearRegression().fit([[1], [2]], [1, 2]), "model")

SECOND = '''
import sys
import tailrace as sdk
sdk.log_metric("second", 1.0, run_id=sys.argv[1])
sdk.log_text("second", "second/text.txt", run_id=sys.argv[1])
sdk.log(step=0, second_joined=1.0)
with sdk.start_run(run_name="own", quiet=True):
    sdk.log(step=0, own=1.0)
sdk.log(step=1, second_joined=2.0)
'''

if __name__ == "__main__":
    import matplotlib.figure
    with sdk.start_run(run_name="joined") as run:
        children = [multiprocessing.get_context(how).Process(target=leave, args=(how,))
                    for how in ("fork", "spawn", "forkserver")]
        for child in children:
            child.start()
        for how in ("fork", "spawn"):
            with multiprocessing.get_context(how).Pool(1) as pool:  # which is terminated
                pool.map(leave, [f"pool-{how}"])
        for how in ("fork", "forkserver"):
            late = multiprocessing.get_context(how).Process(target=begin_to_linger)
            late.start()
            late.join()
        raw = os.fork()
        if raw == 0:
            leave("raw")
            os._exit(0)
        os.waitpid(raw, 0)
        for child in children:
            child.join()
        subprocess.run([sys.executable, "-c", SECOND, run.run_id], check=True)
        run.flush()
"""

LASTING = ("fork", "spawn", "forkserver")
ENDING = ("pool-fork", "pool-spawn", "raw")

POOL = """
import multiprocessing, sys
import tailrace as sdk

def work(name):
    sdk.log({name: 1.0})

if __name__ == "__main__":
    pools = {}
    with sdk.start_run(run_name="one"):
        for how in ("fork", "spawn"):
            pools[how] = multiprocessing.get_context(how).Pool(1)
            pools[how].apply(work, (f"{how}-a",))
    for how, pool in pools.items():
        pool.apply(work, (f"{how}-between",))
    with sdk.start_run(run_name="two"):
        for how, pool in pools.items():
            pool.apply(work, (f"{how}-b",))
            pool.apply(work, (f"{how}-b",))
        with sdk.start_run(run_name="below", nested=True):
            for how, pool in pools.items():
                pool.apply(work, (f"{how}-c",))
    with sdk.start_run(run_name="three", flush_interval=0.2):  # of another session, for its settings
        for how, pool in pools.items():
            pool.apply(work, (f"{how}-d",))
        for pool in pools.values():
            pool.close()
            pool.join()
"""

PASSED = """
import multiprocessing, os
from joblib import Parallel, delayed
import tailrace as sdk
from tailrace import log_metric, log_params

def by_name(n):
    log_metric(f"by name {n}", n)
    return sdk.active_run().id

class Config:
    def __init__(self, run, tracker):
        self.run, self.tracker = run, tracker

def by_config(config, n):
    config.run.log({f"by config {n}": n}, step=n)
    config.run.log_text("text", f"{n}.txt")
    config.tracker.log_metric(f"by tracker {n}", n)
    return config.run.id

def by_function(log, n):
    log({f"by function {n}": n}, 0)

if __name__ == "__main__":
    Parallel(n_jobs=2)(delayed(os.getpid)() for n in range(2))  # the workers are older than the run
    tracker = sdk.Tracker(experiment_name="other", auto_start_run=False)
    with sdk.start_run(run_name="passed") as run, tracker:
        tracked = tracker.start_run(run_name="tracked")
        ids = Parallel(n_jobs=2)(delayed(by_name)(n) for n in range(2))
        ids += Parallel(n_jobs=2)(delayed(by_config)(Config(run, tracker), n) for n in range(2))
        Parallel(n_jobs=2)(delayed(by_function)(run.log, n) for n in range(2))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            ids.append(pool.apply(by_config, (Config(run, tracker), 2)))
        assert set(ids) == {run.id}, (ids, run.id)
        run.flush()
        tracker.flush()
"""

CHILDREN = """
import multiprocessing, os, sys
import tailrace as sdk

def work(n):
    sdk.log({f"child {n}": n}, step=n)

if __name__ == "__main__":
    with sdk.start_run(run_name="first", flush_interval=0.1) as first:
        with sdk.start_run(run_name="second", nested=True) as second:
            sdk.log_metric("late", 1, run_id=first.run_id)
            pool = [multiprocessing.get_context(how).Process(target=work, args=(n,))
                    for n, how in enumerate(("fork", "spawn"))]
            for child in pool:
                child.start()
            for child in pool:
                child.join()
        with sdk.start_run(run_name="other settings", nested=True, flush_interval=0.2):
            child = multiprocessing.get_context("spawn").Process(target=work, args=(2,))
            child.start(); child.join()
        child = multiprocessing.get_context("spawn").Process(target=work, args=(3,))
        child.start(); child.join()
"""

AT_EXIT = """
import atexit, threading, time

def late():
    tailrace.log(late=1.0)
    tailrace.log_metric("late metric", 2.0)

atexit.register(late)  # before tailrace's own, so it is called after that

import tailrace

def for_ever():
    while True:
        tailrace.log(ticks=1.0)
        time.sleep(0.001)

run = tailrace.start_run(run_name="exit")
tailrace.log(step=0, loss=0.5)
threading.Thread(target=for_ever, daemon=True).start()
time.sleep(0.1)
"""

NOTHING_AT_EXIT = """
import atexit
atexit.register(lambda: tailrace.log(late=1.0))
import tailrace
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> tuple[str, dict[str, str]]:
    """All of them have run; what they have said on standard error."""
    directory = tmp_path_factory.mktemp("processes")
    database = directory / "mlflow.db"
    database.write_bytes(sqlite_template.read_bytes())
    codes = {"joined": JOINED, "pool": POOL, "children": CHILDREN, "passed": PASSED}
    codes |= {"exit": AT_EXIT, "nothing": NOTHING_AT_EXIT}
    uri = f"sqlite:///{database}"
    variables = {"TAILRACE_TRACKING_URI": uri, "TAILRACE_EVERY": "held-*=10", "TAILRACE_METADATA": "false"}
    done = scripts(directory, codes, **variables)
    for name, program in done.items():
        assert program.returncode == 0, f"{name}: {program.stderr}"
        forget(directory / name)  # when its agent has brought all of it
    return uri, {name: program.stderr for name, program in done.items()}


@pytest.mark.slow
def test_what_a_joined_process_has_logged_last_is_there_however_it_ends(programs: tuple[str, dict[str, str]]) -> None:
    store = named(programs[0], "joined")
    files = {"text.txt", "dict.json", "image.png", "table.json", "figure.png"}
    expected = {f"{how}/{file}" for how in (*LASTING, *ENDING) for file in files} | {"second/text.txt"}
    expected -= {f"{how}/figure.png" for how in ("spawn", "forkserver", "pool-spawn")}  # which would import matplotlib
    artifacts = store.artifacts()
    assert expected - set(artifacts) == set()
    assert sum(name.startswith("late-") for name in artifacts) == 2
    metrics = store.metrics()
    for how in (*LASTING, *ENDING):
        assert metrics[f"late-{how}"] == [(0, 1.0)], how
    for how in LASTING:
        assert metrics[f"held-{how}"] == [(0, 0.0), (2, 2.0)], how
    for how in ENDING:  # where the last value could not be held back
        assert metrics[f"held-{how}"] == [(0, 0.0), (1, 1.0), (2, 2.0)], how
    assert metrics["second"] == [(0, 1.0)]
    assert metrics["second_joined"] == [(0, 1.0), (1, 2.0)]
    assert named(programs[0], "own").metrics() == {"own": [(0, 1.0)]}
    models = MlflowClient(programs[0]).search_logged_models([store.run.info.experiment_id])
    assert [model.name for model in models if model.source_run_id == store.run_id] == ["model"]


@pytest.mark.slow
def test_processes_that_log_without_a_step_share_the_counter_of_the_run(programs: tuple[str, dict[str, str]]) -> None:
    steps = [step for step, _ in named(programs[0], "joined").history("counted")]
    assert sorted(steps) == list(range(len(LASTING) + len(ENDING)))


@pytest.mark.slow
def test_a_pool_that_is_kept_over_two_runs_logs_to_the_one_that_goes_on(programs: tuple[str, dict[str, str]]) -> None:
    one, two = named(programs[0], "one").metrics(), named(programs[0], "two").metrics()
    assert set(one) == {"fork-a", "spawn-a", "fork-between", "spawn-between"}
    assert set(two) == {"fork-b", "spawn-b", "fork-c", "spawn-c"}  # a run below it changes nothing for the others
    assert set(named(programs[0], "three").metrics()) == {"fork-d", "spawn-d"}
    steps = [step for points in two.values() for step, _ in points]
    assert sorted(steps) == [0, 1, 2, 3, 4, 5]
    late = [line for line in programs[1]["pool"].splitlines() if "has ended: what is logged to it now" in line]
    assert len(late) == 2  # one of each pool


@pytest.mark.slow
def test_children_log_to_the_run_that_was_active_when_they_were_started(programs: tuple[str, dict[str, str]]) -> None:
    expected = {
        "first": {"late": [(0, 1.0)], "child 3": [(3, 3.0)]},
        "second": {"child 0": [(0, 0.0)], "child 1": [(1, 1.0)]},
        "other settings": {"child 2": [(2, 2.0)]},
    }
    assert {name: named(programs[0], name).metrics() for name in expected} == expected
    assert {named(programs[0], name).status for name in expected} == {"FINISHED"}


@pytest.mark.slow
def test_runs_trackers_and_functions_that_are_pickled_come_back_joined(programs: tuple[str, dict[str, str]]) -> None:
    store, tracked = named(programs[0], "passed"), named(programs[0], "tracked")
    assert store.metrics() == {
        **{f"by name {n}": [(0, float(n))] for n in range(2)},
        **{f"by config {n}": [(n, float(n))] for n in range(3)},
        **{f"by function {n}": [(0, float(n))] for n in range(2)},
    }
    assert store.artifacts() == ["0.txt", "1.txt", "2.txt"]
    assert tracked.metrics() == {f"by tracker {n}": [(0, float(n))] for n in range(3)}


@pytest.mark.slow
def test_what_is_logged_while_the_program_ends_makes_no_run(programs: tuple[str, dict[str, str]]) -> None:
    store = named(programs[0], "exit")
    assert store.status == "FINISHED"
    assert store.history("late") == [(store.history("late")[0][0], 1.0)]
    assert store.history("late metric") == [(0, 2.0)]
    ticks = [step for step, _ in store.history("ticks")]
    assert ticks == sorted(set(ticks))
    assert "run 'exit' has ended" in programs[1]["exit"]
    assert programs[1]["nothing"] == "tailrace: the program is ending: what is logged now is logged nowhere\n"
    client = MlflowClient(programs[0])
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    names = Counter(run.info.run_name for run in client.search_runs(everywhere))
    begun = [
        "joined",
        "own",
        "one",
        "two",
        "below",
        "three",
        "first",
        "second",
        "other settings",
        "passed",
        "tracked",
        "exit",
    ]
    assert names == Counter(begun)
