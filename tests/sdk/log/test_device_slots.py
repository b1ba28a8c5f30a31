"""A value on a GPU is written by the GPU: every fault of the driver, and of its place, sends it the older way instead.

The driver and torch's edge are stood in for (`helpers.cuda_standin`); ring, slots, agent and MLflow are real.
`tests/gpu/test_slots.py` does the same with a real GPU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import cuda_standin
from helpers.cuda_standin import Driver, Tensor
from helpers.sdk_tools import Store, eventually, forget, named, script, tracking
from tailrace import Run, Tracker
from tailrace._log import device_slots
from tailrace._runs.run_part import core_of
from tailrace_agent.ipc import native
from tailrace_agent.ipc.device_slots import DTYPES, place_of
from tailrace_agent.ipc.records import RAW

pytestmark = pytest.mark.skipif(cuda_standin.why_not() is not None, reason=f"{cuda_standin.why_not()}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("driver")


@pytest.fixture
def driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.setitem(sys.modules, "torch", cuda_standin.fake_torch({0: 11, 1: 22}))
    loaded = cuda_standin.load(folder)
    monkeypatch.setattr(Tensor, "syncs", 0)
    yield loaded
    loaded.anew()


@pytest.fixture
def sdk(sqlite_uri: str, driver: Driver) -> Iterator[Tracker]:
    with tracking(sqlite_uri) as tracker:
        yield tracker


def slots_of(run: Run) -> Any:
    connection = core_of(run).connection
    assert connection is not None
    return connection.open_ring().slots


def ended(run: Run, uri: str, key: str = "loss") -> list[tuple[int, float]]:
    run.end()
    return Store(uri, run).history(key)


def test_the_value_is_the_one_of_the_call_and_training_waits_for_nothing(
    sdk: Tracker, sqlite_uri: str, driver: Driver
) -> None:
    loss = Tensor(0.0)
    with sdk.start_run() as run:
        run.log(step=0, first=loss, host=-1)
        driver.set(held=1)
        for step in range(50):
            loss.fill_(step / 4)
            run.log(step=step, loss=loss, host=step)
        assert slots_of(run) is not None
        assert driver.waiting == 50
        assert driver.last_stream == 11
        assert eventually(lambda: run.ledger().of("metric").accepted == 102)
        assert eventually(lambda: run.ledger().of("metric").pending == 50)
        loss.fill_(99.0)
        driver.land(25, newest=True)
        driver.land()
        assert run.flush(30).of("metric").delivered == 102
        syncs = Tensor.syncs
    assert syncs == 0
    store = Store(sqlite_uri, run)
    assert store.history("loss") == [(step, step / 4) for step in range(50)]
    assert len(store.history("host")) == 51
    assert run.ledger().calls == 51


def test_nothing_goes_into_slots_before_a_value_has_been_seen_to_land(
    sdk: Tracker, sqlite_uri: str, driver: Driver
) -> None:
    driver.set(held=1)  # as a driver that brings nothing by itself
    run = sdk.start_run()
    for step in range(5):
        run.log(step=step, loss=Tensor(float(step)))
    assert slots_of(run) is None
    assert driver.waiting == 1, "one was to try it"
    run.flush(30)
    assert Store(sqlite_uri, run).history("loss") == [(step, float(step)) for step in range(5)]
    driver.land()
    run.log(step=5, loss=Tensor(5.0))
    assert slots_of(run) is not None
    assert driver.waiting == 1
    driver.land()
    older_way(run, sqlite_uri, [(step, float(step)) for step in range(6)])


@pytest.mark.parametrize("dtype", sorted({*DTYPES} - {"bfloat16"}))
def test_every_type_comes_as_item_gives_it(dtype: str, sdk: Tracker, sqlite_uri: str) -> None:
    values = [Tensor(value, dtype) for value in ((True, False) if dtype == "bool" else (0, 1, 90, 37))]
    with sdk.start_run() as run:
        run.log(loss=Tensor(1.0))  # the slots are made here: the next ones come by C alone
        for step, value in enumerate(values):
            run.log({"x": value, "twice": value}, step=step)
    store = Store(sqlite_uri, run)
    assert store.history("x") == store.history("twice") == [(i, float(v.item())) for i, v in enumerate(values)]


def test_bfloat16_is_read_as_the_upper_half_of_a_float32(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        run.log(step=0, x=Tensor(b"\x80\x3f", "bfloat16"))
        run.log(step=1, x=Tensor(b"\x20\xc1", "bfloat16"))
    assert Store(sqlite_uri, run).history("x") == [(0, 1.0), (1, -10.0)]


def test_each_value_goes_to_its_device_by_the_stream_of_that_device(
    sdk: Tracker, sqlite_uri: str, driver: Driver
) -> None:
    with sdk.start_run() as run:
        run.log(step=0, loss=Tensor(1.0, device=0))
        run.log(step=1, loss=Tensor(2.0, device=1))
        assert (driver.last_device, driver.last_stream) == (1, 22)
        run.log(step=2, loss=Tensor(3.0, device=0), other=Tensor(4.0, device=1))
        driver.device(-1)  # as in a thread that has not used CUDA yet
        run.log(step=3, loss=Tensor(5.0, device=0))
        assert (driver.last_device, driver.last_stream) == (0, 11)
        driver.device(0)
    assert Store(sqlite_uri, run).history("loss") == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 5.0)]
    assert Tensor.syncs == 0


def older_way(run: Run, uri: str, expected: list[tuple[int, float]]) -> None:
    """All is there, and it was the older way that read some of it."""
    assert ended(run, uri) == expected
    assert Tensor.syncs > 0


def test_what_finds_no_free_slot_goes_the_older_way(sdk: Tracker, sqlite_uri: str, driver: Driver) -> None:
    run = sdk.start_run()
    run.log(step=-1, loss=Tensor(0.5))
    slots = slots_of(run)
    other = Tensor(0.0)
    copy = slots.describe(other)
    driver.set(held=1)
    while slots.queue([copy]):
        pass
    run.log(step=0, loss=Tensor(1.0))
    run.log(step=1, loss=Tensor(2.0))
    driver.land()
    older_way(run, sqlite_uri, [(-1, 0.5), (0, 1.0), (1, 2.0)])


@pytest.mark.parametrize("code", [2, 3, 201, 400, 700, 719, 999])
def test_an_error_of_the_driver_sends_it_the_older_way_and_everything_else_goes_on(
    code: int, sdk: Tracker, sqlite_uri: str, driver: Driver
) -> None:
    run = sdk.start_run()
    run.log(step=0, loss=Tensor(1.0), host=1.0)
    driver.set(fails_after=1, fail_code=code)
    run.log(step=1, loss=Tensor(2.0), more=Tensor(3, "int64"), host=2.0)
    driver.set(fails_after=-1)
    run.log(step=2, loss=Tensor(4.0), host=3.0)
    older_way(run, sqlite_uri, [(0, 1.0), (1, 2.0), (2, 4.0)])
    assert Store(sqlite_uri, run).history("more") == [(1, 3.0)]


def test_nothing_is_queued_on_a_stream_that_captures_a_graph(sdk: Tracker, sqlite_uri: str, driver: Driver) -> None:
    run = sdk.start_run()
    run.log(step=0, loss=Tensor(1.0))
    driver.set(capturing=1, held=1)
    run.log(step=1, loss=Tensor(2.0))
    assert driver.waiting == 0
    driver.set(capturing=0, held=0)
    run.log(step=2, loss=Tensor(3.0))
    # Torch's own stand-in knows of no capture, so the older way takes it; a real one says what is wrong.
    older_way(run, sqlite_uri, [(0, 1.0), (1, 2.0), (2, 3.0)])


def test_a_driver_that_registers_nothing_is_tried_once(sdk: Tracker, sqlite_uri: str, driver: Driver) -> None:
    driver.set(register_code=801, registered=0)
    run = sdk.start_run()
    for step in range(3):
        run.log(step=step, loss=Tensor(float(step)))
    assert slots_of(run) is None
    assert driver.registered == 1
    connection = core_of(run).connection
    assert connection is not None
    assert not list(connection.session.shared.glob("*.slots"))
    older_way(run, sqlite_uri, [(0, 0.0), (1, 1.0), (2, 2.0)])


@pytest.mark.parametrize("without", ["cuda", "slots", "variable"])
def test_without_cuda_or_c_it_is_the_older_way_without_a_word(
    without: str, sdk: Tracker, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if without == "cuda":
        monkeypatch.setattr(sys.modules["torch"].version, "cuda", None)
    elif without == "slots":
        monkeypatch.setattr(native, "Slots", None)
    else:
        monkeypatch.setenv("TAILRACE_GPU_SLOTS", "0")
    run = sdk.start_run()
    run.log(step=0, loss=Tensor(1.0))
    assert slots_of(run) is None
    older_way(run, sqlite_uri, [(0, 1.0)])
    assert not caplog.records


def test_a_tensor_that_cannot_be_copied_as_it_lies_there_goes_the_older_way(sdk: Tracker, sqlite_uri: str) -> None:
    run = sdk.start_run()
    run.log(step=0, loss=Tensor(1.0))
    negated = Tensor(2.0)
    negated._negated = True  # what lies there is to be negated
    run.log(step=1, loss=negated)
    older_way(run, sqlite_uri, [(0, 1.0), (1, 2.0)])


def test_what_is_no_single_number_is_said_to_be_wrong_and_the_rest_comes(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        run.log(step=0, loss=Tensor(1.0))
        run.log(step=1, loss=Tensor(2.0), many=Tensor(0.0, count=3), text="x", host=1.0)
    store = Store(sqlite_uri, run)
    assert store.history("loss") == [(0, 1.0), (1, 2.0)]
    assert store.history("host") == [(1, 1.0)]
    assert run.ledger().of("metric").dropped == {"value is no number": 2}


def test_values_that_every_leaves_out_need_no_slot(sqlite_uri: str, driver: Driver) -> None:
    with tracking(sqlite_uri, every={"*": 3}) as sdk, sdk.start_run() as run:
        for step in range(8):
            run.log(step=step, loss=Tensor(float(step)))
    assert Store(sqlite_uri, run).history("loss") == [(0, 0.0), (3, 3.0), (6, 6.0), (7, 7.0)]


def test_many_values_of_one_call_come_all(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        run.log(loss=Tensor(1.0))
        run.log({f"k{index}": Tensor(float(index)) for index in range(40)}, step=1)
        run.log({f"k{index}": Tensor(float(index)) for index in range(16)}, step=2)
    store = Store(sqlite_uri, run)
    assert all(store.history(f"k{i}") == [(s, float(i)) for s in ((1, 2) if i < 16 else (1,))] for i in range(40))
    assert Tensor.syncs == 0


class Interface:
    """An array of CuPy's, as far as its `__cuda_array_interface__` goes."""

    shape = ()

    def __init__(self, value: Tensor, **changes: Any) -> None:
        self._value, self._changes = value, changes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        about = {"shape": (), "typestr": "<f4", "data": (self._value.data_ptr(), False), "version": 3, "stream": 7}
        return {**about, **self._changes}

    def copy(self) -> Interface:
        return Interface(self._value.clone(), **self._changes)

    def item(self) -> float:
        return float(self._value.item())


Interface.__module__ = "cupy"


def test_an_array_of_another_framework_comes_by_the_stream_that_it_names(
    sdk: Tracker, sqlite_uri: str, driver: Driver
) -> None:
    run = sdk.start_run()
    run.log(step=0, loss=Interface(Tensor(1.5)))
    assert driver.last_stream == 7
    assert Tensor.syncs == 0
    for step, changes in enumerate([{"stream": None}, {"typestr": ">f4"}, {"typestr": "<c8"}], start=1):
        run.log(step=step, loss=Interface(Tensor(2.5), **changes))
    older_way(run, sqlite_uri, [(0, 1.5), (1, 2.5), (2, 2.5), (3, 2.5)])


class Odd(Interface):
    """One of whose methods one raises what it likes."""

    def __init__(self, raises: str) -> None:
        super().__init__(Tensor(2.5))
        self._raises = raises

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "__dict__").get("_raises"):
            raise RuntimeError("deleted")
        return super().__getattribute__(name)


Odd.__module__ = "cupy"


@pytest.mark.parametrize("raises", ["shape", "is_cuda", "__cuda_array_interface__", "copy", "item", "dtype"])
def test_what_an_array_of_another_framework_raises_reaches_no_training(
    raises: str, sdk: Tracker, sqlite_uri: str
) -> None:
    with sdk.start_run() as run:
        run.log(step=0, loss=Tensor(1.0))
        run.log(step=1, odd=Odd(raises), loss=Tensor(2.0))
        run.log({"odd": Odd(raises), "host": 1.0}, step=2)
    store = Store(sqlite_uri, run)
    assert store.history("loss") == [(0, 1.0), (1, 2.0)]
    assert store.history("host") == [(2, 1.0)]
    counts = run.ledger().of("metric")
    assert counts.pending == 0
    assert counts.delivered + sum(counts.dropped.values()) == 5


@pytest.mark.parametrize("address", [0, -5, 2**64])
def test_an_address_that_is_none_is_not_read_from(address: int, sdk: Tracker, sqlite_uri: str) -> None:
    run = sdk.start_run()
    run.log(step=0, loss=Tensor(1.0))
    run.log(step=1, loss=Interface(Tensor(2.5), data=(address, False)))
    older_way(run, sqlite_uri, [(0, 1.0), (1, 2.5)])


def test_a_call_that_is_not_taken_holds_neither_ring_nor_slots(sdk: Tracker) -> None:
    with sdk.start_run() as run:
        run.log(loss=Tensor(1.0))
        connection = core_of(run).connection
        assert connection is not None
        ring = connection.open_ring()
        before = sys.getrefcount(ring), sys.getrefcount(ring.slots)
        for _ in range(10):
            run.log(loss=Tensor(1.0), many=Tensor(0.0, count=3))
        assert (sys.getrefcount(ring), sys.getrefcount(ring.slots)) == before


def test_slots_are_registered_with_a_mode_that_breaks_no_capture(driver: Driver, tmp_path: Path) -> None:
    before = driver.mode_changes
    assert device_slots.Trial(tmp_path / "x.slots").passed(Tensor(1.0)) is not None
    assert driver.mode_changes == before + 2, "the mode of the thread is as it was"


TRAIN = """
import sys, time
from pathlib import Path
from helpers.cuda_standin import install, Tensor
driver = install(Path("{folder}"))
import tailrace as sdk
loss, count = Tensor(0.0), Tensor(0, "int64")
run = sdk.start_run(run_name="train")
run.log(first=loss)
"""


def program(folder: Path, tmp_path: Path, code: str, uri: str) -> subprocess.Popen[str]:
    (tmp_path / "train.py").write_text(TRAIN.format(folder=folder) + textwrap.dedent(code))
    environ = {"TAILRACE_DIR": str(tmp_path / "tailrace"), "TAILRACE_TRACKING_URI": uri, "TAILRACE_METADATA": "false"}
    return subprocess.Popen(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env={**os.environ, **environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
    )


def store_of_ended(uri: str) -> Store | None:
    try:
        store = named(uri, "train")
    except ValueError:
        return None
    return store if store.status != "RUNNING" else None  # its last write


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 40, 300])
def test_a_killed_trainer_has_what_had_landed_and_the_rest_is_counted(
    after: int, folder: Path, sqlite_uri: str, tmp_path: Path
) -> None:
    code = f"""
    driver.set(delay_us=2000)
    for step in range({after}):
        loss.fill_(step); count.fill_(step)
        run.log(step=step, loss=loss, count=count, host=float(step))
    driver.set(held=1)
    time.sleep(0.05)
    print(step, driver.waiting, flush=True)
    time.sleep(100)
    """
    with program(folder, tmp_path, code, sqlite_uri) as process:
        assert process.stdout is not None
        last, waiting = map(int, process.stdout.readline().split())
        process.send_signal(signal.SIGKILL)
    store = eventually(lambda: store_of_ended(sqlite_uri), 60)
    loss, count, host = (store.history(key) for key in ("loss", "count", "host"))
    assert host == [(step, float(step)) for step in range(last + 1)]
    assert loss == [(step, float(step)) for step in range(len(loss))]
    assert set(count) <= {(step, float(step)) for step in range(last + 1)}
    missing = 2 * (last + 1) - len(loss) - len(count)
    assert missing <= waiting
    assert f'"not computed by its device":{missing}' in store.tags["tailrace.ledger"] or not missing
    assert store.status == "KILLED"
    forget(tmp_path)


@pytest.mark.slow
def test_agents_that_are_killed_again_and_again_lose_and_double_nothing(
    folder: Path, sqlite_uri: str, tmp_path: Path
) -> None:
    code = """
    from tailrace._runs.run_part import core_of
    driver.set(delay_us=1000)
    for step in range(600):
        loss.fill_(step); count.fill_(step)
        run.log(step=step, loss=loss, count=count)
        time.sleep(0.005)
        if step % 100 == 50:
            print(core_of(run).connection.session.dir, flush=True)
    run.flush(60)
    sdk.end_run()
    print(run.ledger().summary()["delivered"], run.ledger().summary()["dropped"], flush=True)
    """
    killed = 0
    with program(folder, tmp_path, code, sqlite_uri) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("/"):
                break
            from tailrace_agent.ipc import status
            from tailrace_agent.ipc.session import Session

            agent = status.read(Session.open(Path(line.strip())).shared / "agent.status", status.AgentStatus)
            if agent is not None and agent.group:
                try:
                    os.killpg(agent.group, signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
    assert killed >= 3
    assert line.split() == ["1201", "{}"]
    store = named(sqlite_uri, "train")
    for key in ("loss", "count"):
        assert store.history(key) == [(step, float(step)) for step in range(600)]
    forget(tmp_path)


@pytest.mark.slow
def test_a_device_that_hangs_holds_up_neither_the_end_nor_what_came_before(
    folder: Path, sqlite_uri: str, tmp_path: Path
) -> None:
    code = """
    for step in range(20):
        driver.set(held=int(step >= 10))
        loss.fill_(step)
        run.log(step=step, loss=loss, host=float(step))
    begun = time.monotonic()
    run.flush(1.0)
    run.end(timeout=1.0)
    print(time.monotonic() - begun < 20, flush=True)
    """
    with program(folder, tmp_path, code, sqlite_uri) as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == ["True"]
    store = eventually(lambda: store_of_ended(sqlite_uri), 60)
    assert store.status == "FINISHED"
    assert store.history("loss") == [(step, float(step)) for step in range(10)]
    assert len(store.history("host")) == 20
    assert '"not computed by its device":10' in store.tags["tailrace.ledger"]
    forget(tmp_path)


def test_a_forked_child_has_no_slots_of_its_parent(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        run.log(step=0, loss=Tensor(1.0))
        assert slots_of(run) is not None
        child = os.fork()
        if child == 0:
            connection = core_of(run).connection
            assert connection is not None
            os._exit(0 if connection.device_slots(Tensor(1.0)) is None else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_row_is_the_same_whether_c_or_python_has_found_the_place(sdk: Tracker) -> None:
    rows: list[bytes] = []
    with sdk.start_run() as run:
        run.log(step=0, loss=Tensor(1.0))
        core = core_of(run)
        ring = types.SimpleNamespace(put=rows.append, put_slowly=rows.append, off=0, limit=-1)
        core.slow_path.channel = ring  # type: ignore[assignment]
        core.slow_path.take({"loss": Tensor(3.0)}, None, 1, 5, ValueError())
        core.slow_path.channel = core.channel
        (row,) = map(RAW.decode, rows)
        place = place_of(row[3]["loss"])
        assert row[:3] == [core.spec.run, 1, 5]
        assert place is not None
        assert (place.dtype, len(rows[0])) == (DTYPES["float32"], 1 + 9 + 1 + 1 + 1 + 5 + 10)


def test_a_program_without_the_driver_goes_the_older_way(tmp_path: Path, sqlite_uri: str) -> None:
    code = """
        import sys
        from helpers.cuda_standin import fake_torch, Tensor
        sys.modules["torch"] = fake_torch()
        import tailrace as sdk
        with sdk.start_run(run_name="train") as run:
            run.log(step=0, loss=Tensor(1.5))
        print(Tensor.syncs)
        """
    path = os.pathsep.join(filter(None, sys.path))
    done = script(tmp_path, code, TAILRACE_TRACKING_URI=sqlite_uri, PYTHONPATH=path, TAILRACE_METADATA="false")
    assert done.stdout.split()[-1] == "1"
    assert named(sqlite_uri, "train").history("loss") == [(0, 1.5)]
    forget(tmp_path)
