"""What a run keeps of its process: whole programs, with real stores."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.ranks import launch
from helpers.sdk_tools import Store, eventually, forget, named, script
from tailrace import Settings
from tailrace._console import run_console
from tailrace._console.run_console import is_wanted
from tailrace_agent.ipc.console_files import console_file
from tailrace_agent.ipc.session import Session

pytestmark = pytest.mark.slow


def _artifact(store: Store, name: str, directory: Path) -> str:
    (directory / "downloads").mkdir(exist_ok=True)
    return Path(store.client.download_artifacts(store.run_id, name, str(directory / "downloads"))).read_text()


def _over(uri: str, name: str) -> Store:
    """The run, once its end is known."""

    def look() -> Store | None:
        try:
            store = named(uri, name)
        except ValueError:  # the agent has not created it yet
            return None
        return store if store.status != "RUNNING" else None

    found = eventually(look, 60)
    assert found is not None
    return found


# ── Whether ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_on_for_scripts_and_off_where_print_goes_elsewhere(tmp_path: Path, sqlite_uri: str) -> None:
    code = f"""
    import io, sys
    import tailrace as sdk
    run = sdk.start_run(run_name="by default", tracking_uri={sqlite_uri!r})
    print("hello")
    sdk.end_run()
    sys.stdout, out = io.StringIO(), sys.stdout
    with sdk.start_run(run_name="elsewhere", tracking_uri={sqlite_uri!r}):
        print("to somebody else")
        out.write("to the output\\n")
    """
    done = script(tmp_path, code, TAILRACE_CONSOLE="", TAILRACE_QUIET="true")
    assert done.stdout == "hello\nto the output\n"
    assert named(sqlite_uri, "by default").artifacts() == ["console.log"]
    assert named(sqlite_uri, "elsewhere").artifacts() == []
    forget(tmp_path)


@pytest.mark.parametrize(
    ("setting", "notebook", "interactive", "wanted"),
    [
        (None, False, False, True),
        (None, True, False, False),
        (None, False, True, False),
        (True, True, True, True),
        (False, False, False, False),
    ],
)
def test_a_setting_counts_more_than_what_the_program_is(
    monkeypatch: pytest.MonkeyPatch, setting: bool | None, notebook: bool, interactive: bool, wanted: bool
) -> None:
    class Out:
        def fileno(self) -> int:
            return 1

    out: Any = Out()
    monkeypatch.setattr(run_console, "in_notebook", lambda: notebook)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "__stdout__", out)
    if interactive:
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert is_wanted(Settings(console=setting)) is wanted


# ── Whole programs ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_program_prints_is_an_artifact_and_its_output_is_as_it_was(tmp_path: Path, store_uri: str) -> None:
    code = f"""
    import os, sys
    import tailrace as sdk
    name = os.environ["RUN"]
    with sdk.start_run(run_name=name, tracking_uri={store_uri!r}, quiet=True):
        print("epoch 1 password=hunter2")
        os.system("echo a child")
        print("careful", file=sys.stderr)
        with sdk.start_run(nested=True):
            print("nested")
            sdk.log(loss=1.0)
    print("after")
    """
    (name,) = {f"console {tmp_path.name}"}
    off = script(tmp_path, code, TAILRACE_CONSOLE="false", RUN=f"off {name}")
    on = script(tmp_path, code, TAILRACE_CONSOLE="true", RUN=name)
    assert (on.stderr, sorted(on.stdout)) == (off.stderr, sorted(off.stdout))
    assert on.stdout == "epoch 1 password=hunter2\na child\nnested\nafter\n"
    store = named(store_uri, name)
    assert store.artifacts() == ["console.log"]
    text = _artifact(store, "console.log", tmp_path)
    assert sorted(text.splitlines()) == ["a child", "careful", "epoch 1 password=***", "nested"]
    forget(tmp_path)


def test_a_program_that_is_killed_leaves_its_last_words(tmp_path: Path, store_uri: str) -> None:
    name = f"killed {tmp_path.name}"
    code = f"""
    import os, signal
    import tailrace as sdk
    sdk.start_run(run_name={name!r}, tracking_uri={store_uri!r})
    for number in range(100):
        print("line", number)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert script(tmp_path, code, check=False, TAILRACE_CONSOLE="true", TAILRACE_QUIET="true").returncode == -9
    store = _over(store_uri, name)
    assert store.status == "KILLED"
    assert store.tags["tailrace.last_words"].splitlines() == [f"line {number}" for number in range(50, 100)]
    lines = _artifact(store, "console.log", tmp_path).splitlines()
    assert [line for line in lines if line.startswith("line")] == [f"line {number}" for number in range(100)]
    forget(tmp_path)


def test_an_error_leaves_its_traceback_with_what_was_asked_for(tmp_path: Path, sqlite_uri: str) -> None:
    code = f"""
    import tailrace as sdk

    def step(batch):
        raise ValueError("the loss diverges")

    with sdk.start_run(run_name="fails", tracking_uri={sqlite_uri!r}):
        with sdk.start_run(run_name="nested", nested=True):
            step([1.0, 2.0])
    """
    done = script(tmp_path, code, check=False, TAILRACE_CONSOLE="true", TAILRACE_TRACEBACK_LOCALS="batch, loss")
    assert done.stderr.endswith("ValueError: the loss diverges\n")
    for name in ("fails", "nested"):
        store = _over(sqlite_uri, name)
        assert store.status == "FAILED"
        text = _artifact(store, "traceback.txt", tmp_path)
        assert "ValueError: the loss diverges\n" in text
        assert "    batch = [1.0, 2.0]\n" in text
        assert "ValueError: the loss diverges" in store.tags["tailrace.last_words"]
    forget(tmp_path)


def test_a_crash_says_where_it_was(tmp_path: Path, sqlite_uri: str) -> None:
    code = f"""
    import faulthandler
    import tailrace as sdk
    sdk.start_run(run_name="crashes", tracking_uri={sqlite_uri!r})
    print("before")
    faulthandler._sigsegv()
    """
    script(tmp_path, code, check=False, TAILRACE_CONSOLE="true")
    store = _over(sqlite_uri, "crashes")
    assert "Segmentation fault" in _artifact(store, "crash.txt", tmp_path)
    assert "Segmentation fault" in store.tags["tailrace.last_words"]
    forget(tmp_path)


def test_while_a_run_lasts_its_text_is_on_the_machine(tmp_path: Path, sqlite_uri: str) -> None:
    code = f"""
    import sys
    import tailrace as sdk
    with sdk.start_run(run_name="goes on", tracking_uri={sqlite_uri!r}):
        print("epoch 1")
        sys.stdin.readline()
        print("epoch 2")
    """
    path = tmp_path / "train.py"
    path.write_text("\n".join(line.removeprefix("    ") for line in code.splitlines()))
    environ = {**os.environ, "TAILRACE_CONSOLE": "true"}
    program = subprocess.Popen([sys.executable, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)

    def text() -> str:
        for session in Session.all(Settings(dir=str(tmp_path / "tailrace"))):
            for run in (session.dir / "console").glob("*"):
                file = console_file(session.dir, int(run.name, 16))
                return file.read_text() if file.exists() else ""
        return ""

    eventually(lambda: "epoch 1\n" in text())
    program.communicate(b"\n", timeout=60)
    assert "epoch 2\n" in text()
    forget(tmp_path)


def test_a_terminal_shows_all_of_it_and_then_tailraces_lines(tmp_path: Path, sqlite_uri: str) -> None:
    path = tmp_path / "train.py"
    path.write_text(
        "import sys\nimport tailrace as sdk\n"
        f"with sdk.start_run(run_name='seen', tracking_uri={sqlite_uri!r}):\n"
        "    print('a terminal', sys.stdout.isatty())\n    sdk.log(loss=1.0)\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "TAILRACE_CONSOLE"}
    master, slave = pty.openpty()
    program = subprocess.Popen([sys.executable, str(path)], stdout=slave, stderr=slave, env=environ)
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    assert program.wait(60) == 0
    lines = seen.decode().split("\r\n")
    assert "a terminal True" in lines
    assert "nothing lost" in "".join(lines[lines.index("a terminal True") :])
    assert "a terminal True\n" in _artifact(named(sqlite_uri, "seen"), "console.log", tmp_path)
    os.close(master)
    forget(tmp_path)


# ── Several processes, and MLflow's own functions ────────────────────────────────────────────────────────────────────


def test_each_rank_of_a_job_has_its_file_and_those_that_fell_their_words(tmp_path: Path, sqlite_uri: str) -> None:
    code = f"""
    import os, time
    import tailrace as sdk
    rank = int(os.environ["RANK"])
    with sdk.start_run(run_name="job", tracking_uri={sqlite_uri!r}):
        print("I am", rank)
        sdk.log(loss=1.0)
        if rank == 1:
            raise RuntimeError("rank 1 has had enough")
        time.sleep(30)
    """
    launch(tmp_path, code, ranks=3, TAILRACE_CONSOLE="true", TAILRACE_QUIET="true")
    store = _over(sqlite_uri, "job")
    assert store.artifacts() == [
        *("console.log", "console/rank1.log", "console/rank1.traceback.txt", "console/rank2.log"),
    ]
    assert _artifact(store, "console/rank2.log", tmp_path) == "I am 2\n"
    words = store.tags["tailrace.last_words.rank1"]
    assert words.startswith("I am 1\n")
    assert words.endswith("RuntimeError: rank 1 has had enough")
    forget(tmp_path)


def test_the_ranks_of_a_node_have_tees_that_are_forks_of_one(tmp_path: Path, sqlite_uri: str) -> None:
    code = f"""
    import os, time, psutil
    import tailrace as sdk
    rank, here = int(os.environ["RANK"]), os.environ["TAILRACE_DIR"]
    def tees():
        return [p for p in psutil.process_iter(["cmdline", "pid", "ppid"]) if "console/tee.py" in str(p.info["cmdline"])
                and here in str(p.info["cmdline"])]
    with sdk.start_run(run_name="job", tracking_uri={sqlite_uri!r}):
        print("I am", rank)
        if rank == 0:
            deadline = time.monotonic() + 60
            while len(found := tees()) < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
            pids = [p.info["pid"] for p in found]
            print("tees", len(found), "forks", sum(p.info["ppid"] in pids for p in found))
            open("looked", "w").close()
        while not os.path.exists("looked"):
            time.sleep(0.05)
    """
    launch(tmp_path, code, ranks=3, TAILRACE_CONSOLE="true", TAILRACE_QUIET="true")
    store = _over(sqlite_uri, "job")
    assert _artifact(store, "console.log", tmp_path) == "I am 0\ntees 3 forks 2\n"
    for rank in (1, 2):
        assert _artifact(store, f"console/rank{rank}.log", tmp_path) == f"I am {rank}\n"
    forget(tmp_path)


def test_a_named_job_that_is_launched_again_keeps_what_it_has_printed_before(tmp_path: Path, store_uri: str) -> None:
    name = f"night {tmp_path.name}"
    code = f"""
    import os
    import tailrace as sdk
    with sdk.start_run(run_name={name!r}, job={name!r}, tracking_uri={store_uri!r}):
        print("launch", os.environ["LAUNCH"])
    """
    for number in range(3):
        launch(tmp_path, code, ranks=1, TAILRACE_CONSOLE="true", TAILRACE_QUIET="true", LAUNCH=str(number))
        forget(tmp_path)
    store = _over(store_uri, name)
    found = store.artifacts()
    assert len(found) == 3, found
    assert sorted(_artifact(store, each, tmp_path) for each in found) == [f"launch {number}\n" for number in range(3)]
    assert _artifact(store, "console.log", tmp_path) == "launch 0\n"


def test_a_run_of_mlflows_own_functions_has_a_console_too(tmp_path: Path, sqlite_uri: str) -> None:
    code = f"""
    import mlflow, tailrace
    tailrace.install()
    mlflow.set_tracking_uri({sqlite_uri!r})
    with mlflow.start_run(run_name="fluent"):
        print("inside")
    print("after")
    """
    assert script(tmp_path, code, TAILRACE_CONSOLE="true").stdout == "inside\nafter\n"
    store = _over(sqlite_uri, "fluent")
    assert _artifact(store, "console.log", tmp_path) == "inside\n"
    forget(tmp_path)
