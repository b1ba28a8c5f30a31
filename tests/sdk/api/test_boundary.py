"""What the surroundings do is never raised into training: every public function, where something is out of order."""

from __future__ import annotations

import io
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import tailrace
from helpers.every_call import CALLS, RUN_CALLS, walk
from helpers.sdk_tools import Store, forget, named, tracking
from helpers.serving import clean_environ
from tailrace import CallError, Run
from tailrace._api.system_monitor import SystemMonitor
from tailrace_agent.files.descriptors import SPARE, Spare

OTHER_UID = 65534
TESTS = Path(__file__).parents[2]


class _Closed(io.StringIO):
    """A stream that knows less than a file, and is closed."""

    isatty = None  # type: ignore[assignment]


@pytest.fixture
def deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory that goes away when somebody removes it."""
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    yield directory
    os.chdir(tmp_path)


def test_every_public_function_is_walked() -> None:
    functions = {name for name in tailrace.__all__ if name[0].islower()}
    assert functions - {"install"} == CALLS.keys()  # which stands before MLflow's stores for good
    of_a_run = {name for name in dir(Run) if not name.startswith("_")}
    assert of_a_run - CALLS.keys() == RUN_CALLS.keys() - {"system_monitor"} | {"status"} & of_a_run


@pytest.mark.slow
def test_a_working_directory_that_was_deleted_before_the_run_costs_nothing_else(
    deleted: Path, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    deleted.rmdir()
    with tracking(sqlite_uri, agent="process", on_error="warn", end_timeout=20) as sdk:
        assert walk(sdk) == []
        assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_a_working_directory_that_is_deleted_during_the_run_costs_nothing_else(deleted: Path, sqlite_uri: str) -> None:
    with tracking(sqlite_uri, agent="process", on_error="warn", end_timeout=20) as sdk:
        with sdk.start_run() as run:
            deleted.rmdir()
            assert sdk.get_tracking_uri() == sqlite_uri
            sdk.log(step=1, loss=0.5)
            sdk.log_metric("other", 1.0, run_id=run.run_id)
            assert sdk.flush().settled
        assert walk(sdk) == []
    os.chdir("/")
    assert Store(sqlite_uri, run).metrics() == {"loss": [(1, 0.5)], "other": [(0, 1.0)]}


@pytest.mark.slow
def test_a_directory_that_may_not_be_asked_for_costs_nothing_else(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "getcwd", refused)
    with tracking(sqlite_uri, on_error="warn", end_timeout=0.5, exit_timeout=0.5) as sdk:
        assert walk(sdk) == []


@pytest.mark.slow
def test_a_user_without_a_home_and_without_a_name_loses_nothing(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "TAILRACE_DIR"):
        monkeypatch.delenv(name, raising=False)
    with tracking(sqlite_uri, on_error="warn", end_timeout=20) as sdk:
        assert walk(sdk) == []
        with sdk.start_run() as run:
            sdk.log(step=1, loss=0.5)
    assert Store(sqlite_uri, run).metrics() == {"loss": [(1, 0.5)]}


@pytest.mark.slow
def test_a_standard_error_that_is_closed_or_no_file_stops_no_wait(
    monkeypatch: pytest.MonkeyPatch, sqlite_uri: str
) -> None:
    closed = _Closed()
    closed.close()
    for stream in (closed, None, io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with tracking("http://127.0.0.1:9", on_error="warn", quiet=False, linger=0, exit_timeout=0) as sdk:
            sdk.start_run().end(timeout=1.3)
    with tracking(sqlite_uri, on_error="warn", quiet=False) as sdk:
        assert walk(sdk) == []


@pytest.mark.parametrize("arguments", [None, [None], ["/srv/tr\udce9.py"]])
def test_a_program_of_any_name_or_of_none_trains(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, arguments: list[Any] | None
) -> None:
    if arguments is None:
        monkeypatch.delattr(sys, "argv")
    else:
        monkeypatch.setattr(sys, "argv", arguments)
    with tracking(sqlite_uri, on_error="warn", metadata=True) as sdk, sdk.start_run(tags={"a": "\udce9"}) as run:
        sdk.log(step=1, loss=0.5)
    store = Store(sqlite_uri, run)
    assert (store.metrics(), store.tags["a"]) == ({"loss": [(1, 0.5)]}, "\\udce9")


def test_a_service_of_kubernetes_that_has_our_name_sets_nothing(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "TAILRACE_PORT": "tcp://10.0.0.1:80",
        "TAILRACE_SERVICE_HOST": "10.0.0.1",
        "TAILRACE_SERVICE_PORT": "80",
        "TAILRACE_PORT_80_TCP": "tcp://10.0.0.1:80",
        "TAILRACE_PORT_80_TCP_ADDR": "10.0.0.1",
        "TAILRACE_SERVICE_PORT_HTTP": "80",
    }.items():
        monkeypatch.setenv(name, value)
    with tracking(sqlite_uri, on_error="warn", end_timeout=20) as sdk:
        assert walk(sdk, reads=False) == []


def test_a_config_that_cannot_be_read_costs_what_is_broken_of_it(sqlite_uri: str) -> None:
    config: Any = OmegaConf.create({"lr": 0.1, "missing": "???", "broken": "${nowhere.at.all}", "in": {"deep": "???"}})
    with tracking(sqlite_uri, on_error="warn", end_timeout=20) as sdk, sdk.start_run(params=config) as run:
        sdk.log_params(config)
        sdk.log_param("whole", config)
        sdk.log_config(config)
        sdk.log_dict(config, "config.json")
        sdk.log(config)
    assert Store(sqlite_uri, run).params["lr"] == "0.1"
    assert run.ledger().of("param").dropped["could not be read"] >= 3


def test_what_nobody_foresaw_is_one_warning_and_training_goes_on(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with tracking(sqlite_uri, on_error="warn", end_timeout=20) as sdk:
        monkeypatch.setattr("tailrace._api.tracker.describe", surprise)
        run = sdk.start_run(params={"lr": 0.1})
        sdk.log(step=1, loss=0.5)
        run.log_text("text", "text.txt")
        assert sdk.active_run() is run
        sdk.end_run()
        assert sdk.active_run() is None
        monkeypatch.undo()
        assert [record.getMessage() for record in caplog.records] == [
            "tailrace: start_run() could not be done: OSError: [Errno 5] Input/output error. Training goes on."
        ]
    with tracking(sqlite_uri, on_error="raise") as sdk:
        monkeypatch.setattr("tailrace._api.tracker.describe", surprise)
        with pytest.raises(OSError, match="Input/output"):
            sdk.start_run()


def test_arguments_that_a_call_does_not_take_are_its_callers_fault(sqlite_uri: str) -> None:
    with tracking(sqlite_uri, on_error="warn", end_timeout=20) as sdk, sdk.start_run() as run:
        for call in (run.log_param, sdk.log_param, run.system_monitor):
            with pytest.raises((TypeError, CallError), match="nonsense"):
                call(nonsense=1)  # type: ignore[call-arg]


ANOTHER_USER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import tailrace
from helpers.every_call import walk

def other():
    os.setgroups([]); os.setgid({uid}); os.setuid({uid})
    return walk(tailrace, reads=False)

os.chdir(sys.argv[2])  # 0700, and root's
with tailrace.start_run(end_timeout=10):
    tailrace.log(step=0, ours=1.0)
    child = os.fork()
    if child == 0:
        wrong = other()
        print("child:", wrong, flush=True)
        os._exit(len(wrong))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
wrong = other()
print("alone:", wrong, flush=True)
os._exit(len(wrong))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_process_that_becomes_another_user_trains_on(sqlite_uri: str, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ANOTHER_USER.replace("{uid}", str(OTHER_UID)),
            str(TESTS),
            str(closed),
        ],
        env={
            **clean_environ(),
            "TAILRACE_TRACKING_URI": sqlite_uri,
            "TAILRACE_END_TIMEOUT": "0.2",
            "TAILRACE_DIR": str(tmp_path / "tailrace"),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "child: []\nalone: []\n" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


OUT_OF_DESCRIPTORS = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
import tailrace
from helpers.every_call import walk

tailrace.load_config, tailrace.build_tracker_from_config  # an import that cannot be done is the program's own matter
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))

def leak(all_but=0):
    leaked = []
    try:
        while True:
            leaked.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for _ in range(all_but):
            os.close(leaked.pop())

def in_child(task):
    child = os.fork()
    if child == 0:
        os._exit(task())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

AFTER = """
with tailrace.start_run(run_name="leaks") as run:
    tailrace.log(step=0, loss=1.0)
    leak()
    tailrace.log(step=1, loss=0.5)
    tailrace.log_params({"lr": 0.1})
    tailrace.log_text("text", "text.txt")
    tailrace.log_artifact(sys.argv[1] + "/helpers/every_call.py")
    assert in_child(lambda: tailrace.log(step=2, loss=0.25) or 0) == 0
    print("first:", tailrace.flush().settled, bool(run.run_id), run.ledger().of("artifact").delivered, flush=True)
print("then:", walk(tailrace, reads=False), flush=True)
os._exit(0)
"""

BEFORE = """
leak()
print("before:", walk(tailrace, reads=False), flush=True)
os._exit(0)
"""

AT_ANY_POINT = """
def train(left):
    leak(left)
    with tailrace.start_run():
        tailrace.log(step=0, loss=1.0)
        leak()
        wrong = walk(tailrace, reads=False)
    print(left, wrong, flush=True)
    return len(wrong)

print("ended:", [in_child(lambda: train(left)) for left in range(0, 24, 3)], flush=True)
os._exit(0)
"""


def _leaking(code: str, directory: Path, uri: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS + code, str(TESTS)],
        env={
            **clean_environ(),
            "TAILRACE_TRACKING_URI": uri,
            "TAILRACE_DIR": str(directory / "tailrace"),
            "TAILRACE_METADATA": "false",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_program_without_a_descriptor_left_trains_on_and_all_that_it_logs_arrives(
    sqlite_uri: str, tmp_path: Path
) -> None:
    done = _leaking(AFTER, tmp_path, sqlite_uri)
    assert "first: True True 2\nthen: []\n" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    store = named(sqlite_uri, "leaks")
    assert store.metrics() == {"loss": [(0, 1.0), (1, 0.5), (2, 0.25)]}
    assert (store.params, store.artifacts()) == ({"lr": "0.1"}, ["every_call.py", "text.txt"])
    forget(tmp_path)


def test_a_program_that_begins_without_a_descriptor_is_told_and_trains_on(sqlite_uri: str, tmp_path: Path) -> None:
    done = _leaking(BEFORE, tmp_path, sqlite_uri)
    assert done.stdout == "before: []\n", done.stdout + done.stderr
    assert "start_run() could not be done: OSError: [Errno 24] Too many open files" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.faults
@pytest.mark.timeout(310)
@pytest.mark.parametrize("agent", ["process", "thread"])
def test_a_program_that_runs_out_of_descriptors_at_any_point_trains_on(
    sqlite_uri: str, tmp_path: Path, agent: str
) -> None:
    done = _leaking(AT_ANY_POINT, tmp_path, sqlite_uri, TAILRACE_END_TIMEOUT="0.2", TAILRACE_AGENT=agent)
    assert f"ended: {[0] * 8}" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


LENT = """
import contextlib, os, resource
from tailrace_agent.files.descriptors import Spare

leaked = []
spare = Spare(3)
spare.fill()
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
with contextlib.suppress(OSError):
    while True:
        leaked.append(os.open(os.devnull, os.O_RDONLY))
for _ in range(3):
    with spare.lent(), spare.lent():
        for fd in [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]:
            os.close(fd)
    try:
        os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        print(error.strerror)
"""


def test_what_is_in_reserve_is_lent_where_there_is_nothing_else_and_taken_back() -> None:
    """In a process of its own: no other thread takes what is lent."""
    done = subprocess.run([sys.executable, "-c", LENT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["Too many open files"] * 3, "")


def test_the_latest_sample_which_is_read_at_every_step_asks_for_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(SPARE, "lend", lambda: bool(asked.append(1)))  # type: ignore[func-returns-value]
    monitor = object.__new__(SystemMonitor)
    monitor._board = None
    assert monitor.latest() == {}
    assert asked == []
    monitor._token = 0
    monitor.stop()
    assert asked == [1], "what may have to open a file does"


def test_a_descriptor_in_reserve_that_the_program_has_closed_and_got_again_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spare = Spare(1)
    spare.fill()
    (fd, _) = spare._held[0]
    with open(os.devnull, "rb") as file:  # noqa: PTH123
        os.dup2(file.fileno(), fd)  # as a daemon that closes all files, and opens its own
    monkeypatch.setattr(spare, "_some_are_left", lambda: False)
    with spare.lent():
        assert os.read(fd, 1) == b""
    os.close(fd)
