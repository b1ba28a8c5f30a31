"""Fault 16: an artifact is changed, deleted or unreadable, before or after the call that logs it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from faults.oracle import MlflowDatabase, StoredRun, check_ledger, eventually
from faults.program import environment
from faults.server import tracked


def _artifacts(store: MlflowDatabase, run: StoredRun) -> dict[str, bytes]:
    """Every file of the run, by its path."""
    root = store.path.parent / "mlruns" / "0" / run.run_id / "artifacts"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_what_was_logged_is_uploaded_as_it_was_whatever_happens_to_the_file_afterwards(
    sqlite_uri: str, work: Path
) -> None:
    files = {f"{what}.bin": os.urandom(200_000) for what in ("rewritten", "truncated", "deleted", "replaced", "grown")}
    for name, data in files.items():
        (work / name).write_bytes(data)
    folder = work / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    with tracked(sqlite_uri) as tracker:
        run = tracker.start_run()
        for name in files:
            run.log_artifact(work / name)
        run.log_artifact(folder)
        run.log_artifacts(folder, "contents")
        with (work / "rewritten.bin").open("r+b") as file:
            file.write(b"changed in place" * 1000)
        os.truncate(work / "truncated.bin", 10)
        (work / "deleted.bin").unlink()
        (work / "new").write_bytes(b"another file")
        (work / "new").rename(work / "replaced.bin")
        with (work / "grown.bin").open("ab") as file:
            file.write(b"more")
        (folder / "sub" / "a.txt").write_text("changed")
        shutil.rmtree(folder)
        assert run.flush(30).settled
        run.end()
    store = MlflowDatabase(sqlite_uri)
    stored = store.settled(run.id)
    found = _artifacts(store, stored)
    assert {name: found.pop(name) for name in files} == files
    assert found == {
        "folder/sub/a.txt": b"a",
        "folder/b.txt": b"b",
        "contents/sub/a.txt": b"a",
        "contents/b.txt": b"b",
    }
    check_ledger(stored)
    staging = _staging()
    assert not any(staging.rglob("*.bin")), "staged copies are left behind"


def test_an_artifact_that_is_not_there_or_no_file_is_counted_and_said_once_and_stops_nobody(
    sqlite_uri: str, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(work / "pipe")
    (work / "dangling").symlink_to("nowhere")
    lost = [work / "missing.bin", work / "pipe", work / "dangling", work / "missing.bin" / "below"]
    with tracked(sqlite_uri) as tracker:
        run = tracker.start_run()
        for path in lost:
            run.log_artifact(path)
        run.log_artifact(lost[0])
        run.log_artifact(None)  # type: ignore[arg-type]
        run.log(step=0, x=1.0)
        assert run.flush(30).settled
        run.end()
    stored = MlflowDatabase(sqlite_uri).settled(run.id)
    ledger = check_ledger(stored, 1, dropped=6)
    assert ledger["kinds"]["artifact"]["accepted"] == 6
    for path in lost:
        said = [r for r in caplog.records if str(path) in r.getMessage() and str(path / "below") not in r.getMessage()]
        assert len(said) == 1 or path == lost[0], (path, [r.getMessage() for r in said])


UNREADABLE = """
import os, sys
import tailrace
run = tailrace.start_run(tracking_uri=sys.argv[1], quiet=True)
run.log_artifact(sys.argv[2])
run.log_artifact(sys.argv[3])
run.log(step=0, x=1.0)
print(run.id, flush=True)
tailrace.end_run()
"""


@pytest.mark.slow
def test_an_unreadable_file_is_counted_and_one_in_a_directory_gives_up_that_directory(
    sqlite_uri: str, work: Path
) -> None:
    (work / "secret.bin").write_bytes(b"secret")
    (work / "folder").mkdir()
    (work / "folder" / "open.txt").write_text("open")
    (work / "folder" / "closed.txt").write_text("closed")
    for path in (work / "secret.bin", work / "folder" / "closed.txt"):
        path.chmod(0)
    command = [sys.executable, "-c", UNREADABLE, sqlite_uri, str(work / "secret.bin"), str(work / "folder")]
    if os.geteuid() == 0:  # root reads everything, unless it may not
        if shutil.which("setpriv") is None:
            pytest.skip("runs as root without setpriv: every file can be read")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    stored = MlflowDatabase(sqlite_uri).settled(done.stdout.strip())
    check_ledger(stored, 1, dropped=2)
    assert "secret.bin" in done.stderr
    assert "closed.txt" in done.stderr
    assert not list(_staging().glob(".partial-*"))


def test_a_staged_copy_that_vanishes_is_counted_and_the_next_artifacts_arrive(sqlite_uri: str, work: Path) -> None:
    (work / "first.txt").write_text("first")
    (work / "second.txt").write_text("second")
    store = MlflowDatabase(sqlite_uri)
    with tracked(sqlite_uri) as tracker:
        lock = sqlite3.connect(store.path, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")  # nothing is delivered until this is over
        run = tracker.start_run()
        run.log_artifact(work / "first.txt")
        run.log_artifact(work / "second.txt")
        (first,) = [entry for entry in _staging().iterdir() if (entry / "first.txt").exists()]
        shutil.rmtree(first)
        eventually(lambda: run.ledger().of("artifact").accepted == 2, 10, "both are accepted")
        lock.execute("ROLLBACK")
        lock.close()
        assert run.flush(30).settled
        run.end()
    stored = store.settled(run.id)
    ledger = check_ledger(stored, dropped=1)
    assert ledger["dropped"] == {"staged copy is gone": 1}
    assert _artifacts(store, stored) == {"second.txt": b"second"}


def test_a_checkpoint_that_is_replaced_ten_times_a_second_is_uploaded_each_time_whole(
    sqlite_uri: str, work: Path
) -> None:
    with tracked(sqlite_uri) as tracker:
        run = tracker.start_run()
        for i in range(30):
            (work / "model.pt").write_bytes(bytes([i]) * 100_000)
            run.log_artifact(work / "model.pt", f"step{i}")
        assert run.flush(30).settled
        run.end()
    stored = MlflowDatabase(sqlite_uri).settled(run.id)
    found = _artifacts(MlflowDatabase(sqlite_uri), stored)
    assert found == {f"step{i}/model.pt": bytes([i]) * 100_000 for i in range(30)}


def _staging() -> Path:
    (session,) = Path(os.environ["TAILRACE_DIR"], "sessions").iterdir()
    return session / "artifacts"
