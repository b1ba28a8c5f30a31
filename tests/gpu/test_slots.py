"""Values that a real GPU writes into shared memory, and the older way beside it: both as `.item()` gives them.

`pytest tests/gpu/test_slots.py -s` prints what it has seen. Programs of their own, since which way is taken is settled
once in a program (`TAILRACE_GPU_SLOTS`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from helpers.sdk_tools import Store, eventually, forget, named, script  # noqa: E402 - torch first, its absence skips

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

WAYS = pytest.mark.parametrize("slots", ["1", "0"], ids=["slots", "older way"])

BEGIN = """
import json, struct, sys, threading, time
import torch
import tailrace as sdk
from tailrace._runs.run_part import core_of

torch.zeros(1, device="cuda")
run = sdk.start_run(run_name="run")
for _ in range(2):  # the first one tries whether it lands
    run.log(step=-1, first=torch.ones((), device="cuda"))
    torch.cuda.synchronize()
ring = core_of(run).connection.open_ring()
assert (ring.slots is not None) == {slots}, "the other way was taken"

def bits(value):
    return struct.pack("<d", float(value)).hex()
"""


def code(slots: str, text: str) -> str:
    return BEGIN.format(slots=slots == "1") + textwrap.dedent(text)


def ran(tmp_path: Path, uri: str, slots: str, text: str) -> tuple[Store, list[str]]:
    """What a program has left in MLflow, and printed."""
    done = script(tmp_path, code(slots, text), TAILRACE_TRACKING_URI=uri, TAILRACE_GPU_SLOTS=slots)
    print(done.stdout, done.stderr)
    store = named(uri, "run")
    forget(tmp_path)
    return store, done.stdout.splitlines()


def bits(value: float) -> str:
    import struct

    return struct.pack("<d", value).hex()


@WAYS
def test_3000_steps_with_changes_in_place_are_those_of_item_bit_for_bit(
    slots: str, sqlite_uri: str, tmp_path: Path
) -> None:
    store, said = ran(
        tmp_path,
        sqlite_uri,
        slots,
        """
        torch.manual_seed(1)
        kinds = dict(half=torch.float16, brain=torch.bfloat16, single=torch.float32, double=torch.float64,
                     byte=torch.uint8, signed=torch.int8, short=torch.int16, int=torch.int32, long=torch.int64,
                     bool=torch.bool)
        live = {name: torch.zeros((), dtype=dtype, device="cuda") for name, dtype in kinds.items()}
        source = torch.randn(3000, dtype=torch.float64) * 50
        there = source.cuda()
        torch.cuda.synchronize()
        torch.cuda._sleep(200_000_000)  # the device is behind from the first step on
        for step in range(3000):
            for tensor in live.values():
                tensor.copy_(there[step])  # in place, right behind the call before
            run.log(live, step=step)
        torch.cuda.synchronize()
        expected = {}
        for name, dtype in kinds.items():
            one = torch.zeros((), dtype=dtype, device="cuda")
            numbers = []
            for step in range(3000):
                one.copy_(there[step])
                numbers.append(bits(one.item()))
            expected[name] = numbers
        ledger = run.flush(60)
        sdk.end_run()
        print(json.dumps(expected))
        print(json.dumps(run.ledger().summary()["kinds"]["metric"]))
        """,
    )
    import json

    expected = json.loads(next(line for line in said if line.startswith('{"half"')))
    for name, numbers in expected.items():
        history = [point for point in store.history(name) if point[0] >= 0]
        assert [step for step, _ in history] == list(range(3000)), name
        assert [bits(value) for _, value in history] == numbers, name


@WAYS
def test_two_streams_two_threads_and_a_captured_graph(slots: str, sqlite_uri: str, tmp_path: Path) -> None:
    store, said = ran(
        tmp_path,
        sqlite_uri,
        slots,
        """
        def work(name):
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                x = torch.zeros((), device="cuda")
                for step in range(500):
                    if step % 100 == 0:
                        torch.cuda._sleep(20_000_000)
                    x.fill_(step)
                    run.log({name: x}, step=step)
                    x.fill_(-1)
                stream.synchronize()

        threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
        for thread in threads: thread.start()
        for thread in threads: thread.join()

        y = torch.ones(4, device="cuda")
        torch.cuda.synchronize()
        warm = torch.cuda.Stream()
        with torch.cuda.stream(warm):
            (y * 2).sum()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            z = (y * 2).sum()
            run.log(step=0, inside=z)
        for step in range(5):
            y.fill_(step)
            graph.replay()
            run.log(step=step, replayed=z)
        with torch.inference_mode():
            run.log(step=0, inference=y.sum())
        compiled = torch.compile(lambda t: (t * 3).sum(), backend="eager")
        run.log(step=0, compiled=compiled(torch.ones(2, device="cuda", requires_grad=True)))
        run.log(step=0, negative=torch.tensor(2 - 3j, device="cuda").conj().imag)
        torch.cuda.synchronize()
        sdk.end_run()
        print(run.ledger().summary()["dropped"])
        """,
    )
    for name in ("a", "b"):
        assert store.history(name) == [(step, float(step)) for step in range(500)]
    assert store.history("replayed") == [(step, 8.0 * step) for step in range(5)]
    assert store.history("inference") == [(0, 16.0)]
    assert store.history("compiled") == [(0, 6.0)]
    assert store.history("negative") == [(0, 3.0)]
    assert "inside" not in store.metrics()
    assert said[-1] == "{'value is no number': 1}"


@WAYS
def test_the_call_waits_for_nothing_and_a_flush_makes_no_sync(slots: str, sqlite_uri: str, tmp_path: Path) -> None:
    store, _ = ran(
        tmp_path,
        sqlite_uri,
        slots,
        """
        x = torch.zeros((), device="cuda")
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        torch.cuda._sleep(2_000_000_000)
        for step in range(100):
            x.fill_(step)
            run.log(step=step, loss=x, host=1.0)
        assert not torch.cuda.current_stream().query(), "a call has waited for the device"
        run.flush(60)
        torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.current_stream().query()
        sdk.end_run()
        """,
    )
    assert store.history("loss") == [(step, float(step)) for step in range(100)]


def test_a_kill_in_the_middle_costs_what_the_device_had_not_computed_and_nothing_else(
    sqlite_uri: str, tmp_path: Path
) -> None:
    text = """
        x = torch.zeros((), device="cuda")
        for step in range(1000):
            torch.cuda._sleep(2_000_000)  # a millisecond or so
            x.fill_(step)
            run.log(step=step, loss=x, host=1.0)
            if step == 400:
                print("now", flush=True)
        time.sleep(100)
        """
    (tmp_path / "train.py").write_text(code("1", text))
    environ = {"TAILRACE_DIR": str(tmp_path / "tailrace"), "TAILRACE_TRACKING_URI": sqlite_uri}
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=tmp_path, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)

    def over() -> Store | None:
        try:
            store = named(sqlite_uri, "run")
        except ValueError:
            return None
        return store if store.status != "RUNNING" else None

    store = eventually(over, 60)
    loss, host = store.history("loss"), store.history("host")
    print(f"{len(host)} calls, {len(loss)} values had landed; {store.tags['tailrace.ledger']}")
    assert loss == [(step, float(step)) for step in range(len(loss))]
    assert len(host) > 400
    assert store.status == "KILLED"
    forget(tmp_path)


def test_a_device_that_hangs_holds_up_nothing_that_came_before(sqlite_uri: str, tmp_path: Path) -> None:
    text = """
        x = torch.zeros((), device="cuda")
        for step in range(20):
            if step == 10:
                torch.cuda._sleep(1 << 40)  # some minutes: as a collective that waits for ever
            x.fill_(step)
            run.log(step=step, loss=x, host=float(step))
        begun = time.monotonic()
        ledger = run.flush(2)
        print(time.monotonic() - begun < 10, ledger.pending, flush=True)
        time.sleep(100)
        """
    (tmp_path / "train.py").write_text(code("1", text))
    environ = {"TAILRACE_DIR": str(tmp_path / "tailrace"), "TAILRACE_TRACKING_URI": sqlite_uri}
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=tmp_path, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True 10\n"
        store = named(sqlite_uri, "run")
        assert store.history("loss") == [(step, float(step)) for step in range(10)]
        assert len(store.history("host")) == 20
        process.send_signal(signal.SIGKILL)

    said = eventually(lambda: named(sqlite_uri, "run").tags.get("tailrace.ledger"), 60)  # its last write
    assert '"not computed by its device":10' in said
    assert named(sqlite_uri, "run").status == "KILLED"
    forget(tmp_path)


def test_a_device_that_is_lost_ends_nothing_but_its_own_values(sqlite_uri: str, tmp_path: Path) -> None:
    store, _ = ran(
        tmp_path,
        sqlite_uri,
        "1",
        """
        x = torch.zeros((), device="cuda")
        run.log(step=0, loss=x, host=0.0)
        torch.cuda.synchronize()
        index = torch.full((1,), 1 << 40, device="cuda")
        torch.zeros(4, device="cuda")[index]  # asserts on the device, which is lost with that
        try:
            torch.cuda.synchronize()
        except Exception as error:
            print(type(error).__name__)
        for step in range(1, 20):
            try:
                run.log(step=step, loss=x, host=float(step))
            except BaseException as error:
                print("raised", error)
        sdk.end_run(timeout=30)
        """,
    )
    assert store.history("loss")[:1] == [(0, 0.0)]
    assert len(store.history("host")) == 20
    assert store.status == "FINISHED"
