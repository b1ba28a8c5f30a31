"""What tailrace keeps of runs by itself is stored for several runs at a time, and for each by one thread."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers.delivery_rigs import UploadRig, fails
from tailrace_agent.delivery.run_state import Description, Printed
from tailrace_agent.errors import StoreRefused, Unavailable
from tailrace_agent.ipc import staging
from tailrace_agent.ipc.records import Facts, Start

RUNS = (1, 2, 3)
FACTS = Facts(command=["python", "x.py"], script=None, executable="", python="3.11.7", pid=7, host="here")
_NUMBERS = itertools.count()


@pytest.fixture
def rig(tmp_path: Path) -> UploadRig:
    """Three runs that MLflow has, each with a directory of metadata that waits."""
    rig = UploadRig(tmp_path)
    for run in RUNS:
        rig.start(run, facts=FACTS)
    rig.run()
    for run in RUNS:
        describe(rig, run)
    return rig


def describe(rig: UploadRig, run: int) -> None:
    name = f"tailrace-{run}-{next(_NUMBERS)}"
    (staging.make(rig.staging, name) / "requirements.txt").write_text(f"run{run}==1")
    rig.book.update(run, description=Description(tags={}, staged=name))


def described(rig: UploadRig) -> list[int]:
    return [run for run in RUNS if (found := rig.state(run).description) is not None and found.done]


def test_threads_store_different_runs_at_the_same_time(rig: UploadRig) -> None:
    together, seen = threading.Barrier(2, timeout=20), list[str]()
    send = rig.sink.log_artifacts

    def log_artifacts(run_id: str, *rest: Any, **named: Any) -> Any:
        seen.append(run_id)
        if len(seen) <= 2:
            together.wait()
        return send(run_id, *rest, **named)

    rig.sink.log_artifacts = log_artifacts
    threads = [threading.Thread(target=rig.files.step, args=(rig.now,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(seen)) == 2, "each was sent by one of them"
    rig.run()
    assert described(rig) == [1, 2, 3]
    assert len(seen) == 3
    assert rig.files.stored == 3


def test_a_store_that_has_kept_one_run_s_metadata_is_trusted_with_the_next_for_a_minute(rig: UploadRig) -> None:
    send, confirmed = rig.sink.log_artifacts, list[bool]()

    def log_artifacts(run_id: str, *rest: Any, **named: Any) -> Any:
        confirmed.append(named["confirmed"])
        return send(run_id, *rest, **named)

    rig.sink.log_artifacts = log_artifacts
    rig.files.step(rig.now)
    rig.files.step(rig.now)
    rig.files.step(rig.now + 61)
    assert confirmed == [True, False, True]


def test_a_store_that_has_failed_must_show_anew_that_it_keeps_metadata(rig: UploadRig) -> None:
    send, confirmed = rig.sink.log_artifacts, list[bool]()

    def log_artifacts(run_id: str, *rest: Any, **named: Any) -> Any:
        confirmed.append(named["confirmed"])
        if len(confirmed) == 2:
            raise Unavailable("away")
        return send(run_id, *rest, **named)

    rig.sink.log_artifacts = log_artifacts
    rig.run()
    assert confirmed[:3] == [True, False, True]


def test_a_store_that_is_away_is_asked_by_one_alone_and_then_after_a_pause(rig: UploadRig) -> None:
    calls = fails(rig, Unavailable("away", retry_after=50.0), "log_artifacts", times=1)
    assert rig.files.step(rig.now) >= rig.now + 50
    assert rig.files.step(rig.now) >= rig.now + 50
    assert len(calls) == 1
    rig.now += 51
    rig.run()
    assert described(rig) == [1, 2, 3]


def test_an_artifact_store_that_takes_nothing_is_done_without(rig: UploadRig) -> None:
    fails(rig, Unavailable("away"), "log_artifacts")
    rig.run()
    assert described(rig) == [1, 2, 3]
    assert rig.files.stored == 0
    assert list(rig.staging.iterdir()) == []


def test_a_server_that_is_restarted_gets_them_when_it_is_back(rig: UploadRig) -> None:
    fails(rig, Unavailable("refused the connection", away=True), "log_artifacts", times=5)
    rig.run()
    assert described(rig) == [1, 2, 3]
    assert rig.files.stored == 3


def test_a_store_that_stays_away_is_waited_for_once_and_not_with_each_run(rig: UploadRig) -> None:
    calls = fails(rig, Unavailable("did not answer in time", away=True), "log_artifacts")
    rig.run()
    assert described(rig) == [1, 2, 3]
    assert len(calls) == 8 + 3 + 3


def test_a_wait_that_a_store_asks_for_is_kept_when_one_run_does_without(rig: UploadRig) -> None:
    asked = list[float]()

    def fail(method: str) -> None:
        if method == "log_artifacts":
            asked.append(rig.now)
            raise Unavailable("busy", retry_after=20.0, away=True)

    rig.sink.fail = fail
    rig.run()
    assert described(rig) == [1, 2, 3]
    assert min(after - before for before, after in itertools.pairwise(asked)) >= 20.0


@pytest.mark.parametrize("error", [StoreRefused("no address of a server"), PermissionError("the staged files")])
def test_what_can_never_be_stored_stands_before_no_other(rig: UploadRig, error: Exception) -> None:
    fails(rig, error, "log_artifacts", times=1)
    rig.run()
    assert described(rig) == [1, 2, 3]
    assert rig.files.stored == 2


def test_the_last_words_of_a_run_wait_for_their_server_as_its_metrics_do(rig: UploadRig) -> None:
    fails(rig, Unavailable("refused the connection", away=True), "log_batch", times=30)
    rig.book.update(1, printed=Printed(tags={"tailrace.last_words": "Killed"}, last=True))
    rig.run(steps=50_000)
    assert rig.of(1).tags["tailrace.last_words"] == "Killed"


def test_what_a_run_goes_on_to_print_is_not_deleted_by_whoever_stores_what_it_has_printed_before(
    rig: UploadRig,
) -> None:
    def stage(text: str) -> None:
        staging.discard(rig.staging, "console-1")
        (staging.make(rig.staging, "console-1") / "console.log").write_text(text)
        rig.book.update(1, printed=Printed(staged="console-1"))

    send, texts = rig.sink.log_artifacts, ["before, and after"]

    def log_artifacts(run_id: str, directory: Path, *rest: Any, **named: Any) -> Any:
        found = send(run_id, directory, *rest, **named)
        if directory.name == "console-1" and texts:
            rig.book.start(Start(rig.state(1).spec), "ring")  # it is resumed
            stage(texts.pop())
        return found

    rig.sink.log_artifacts = log_artifacts
    stage("before")
    rig.run()
    assert rig.of(1).artifacts["console.log"] == b"before, and after"


def test_what_is_staged_as_soon_as_the_last_is_stored_is_there_to_be_stored(
    rig: UploadRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.run()

    def stage(text: str) -> None:
        (staging.make(rig.staging, "console-1") / "console.log").write_text(text)
        update(1, printed=Printed(staged="console-1"))

    update = rig.book.update

    def update_and_stage(run: int, **changes: Any) -> None:
        update(run, **changes)
        if (printed := changes.get("printed")) is not None and printed.done:
            monkeypatch.setattr(rig.book, "update", update)
            stage("with the last words")

    stage("before")
    monkeypatch.setattr(rig.book, "update", update_and_stage)
    rig.files.step(rig.now)
    staged = staging.staged(rig.staging, "console-1")
    assert staged is not None
    assert (staged / "console.log").read_text() == "with the last words"


def test_there_are_as_many_threads_as_runs_wait_and_none_when_nothing_does(rig: UploadRig) -> None:
    assert rig.files.threads == 3
    rig.run()
    assert rig.files.threads == 0


def test_what_is_stored_is_evidence_against_an_artifact_that_alone_does_not_arrive(rig: UploadRig) -> None:
    rig.run()
    rig.stage({"big.bin": "x"})
    fails(rig, Unavailable("too large"), "log_artifact")
    rig.run()
    assert rig.counts().dead == 0
    for _ in range(6):
        describe(rig, 2)
        rig.run()
    assert rig.counts().dead == 1
