"""What waits in a session's `artifacts/` directory lies there, whatever its record says."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.cli._app import Fail
from tailrace_agent.cli._letters import Letter, discard, put_back
from tailrace_agent.files.ownership import is_private
from tailrace_agent.ipc import staging
from tailrace_agent.ipc.records import Artifact, RunSpec, Start, encode
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.sinks.memory import MemorySink
from tailrace_agent.spool.blocks import DeadLetter

BAD_NAMES = ["", ".", "..", "../../keys", "/etc", "a/b", "a/../../keys", "tables", ".hidden", "a\0b", "é", "x" * 300]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_an_artifact_that_lies_elsewhere_is_dropped_with_a_reason_and_its_file_stays(
    session: Session, tmp_path: Path, name: str
) -> None:
    keys = session.dir / "keys"
    for folder in (keys, session.artifacts / "tables"):
        folder.mkdir()
        (folder / "id").write_text("secret")
    ring = session.new_ring()
    ring.put(encode(Start(RunSpec(run=1, start_time=1, cwd="/"))))
    for _ in range(2):
        ring.put(encode(Artifact(1, name)))
    ring.put(encode(Artifact(1, "gone-0")))
    sink = MemorySink()
    pipeline = Pipeline.open(session, lambda *_, **__: sink, KeptLog(), hosted=True)
    for now in range(20):
        pipeline.drain(float(now))
        for destination in pipeline.by_uri.values():
            pipeline.deliver(destination, float(now))
            pipeline.upload(destination, float(now))
    counts = pipeline.spool.counts.ledger(1).of("artifact")
    assert counts.dropped == {"staged elsewhere": 2, "staged copy is gone": 1}
    assert (counts.accepted, counts.pending) == (3, 0)
    state = pipeline.book.get(1)
    assert state is not None
    assert sum("staged elsewhere" in notice for notice in state.notices) == 1
    pipeline.close()
    assert (keys / "id").read_text() == (session.artifacts / "tables" / "id").read_text() == "secret"
    assert [run.artifacts for run in sink.runs.values()] == [{}]


def test_a_dead_letter_whose_file_lies_elsewhere_is_not_moved(session: Session) -> None:
    keys = session.dir / "keys"
    keys.mkdir()
    (keys / "id").touch()
    for name in ("../keys", "gone-0"):
        body = encode(Artifact(1, name))
        letter = Letter(session, None, None, DeadLetter(1, 1, "artifact", "plot.png", 1, body, "refused", 0.0))
        with pytest.raises(Fail, match="is gone"):
            put_back(session, [letter], {"plot.png": "plots/last.png"})
        discard(session, [letter])
    assert (keys / "id").exists()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_lead_elsewhere_names_nothing(tmp_path: Path, name: str) -> None:
    assert not staging.is_staged_name(name)
    assert staging.staged(tmp_path, name) is None
    staging.discard(tmp_path, name)
    staging.make_durable(tmp_path, name)
    assert tmp_path.exists()


@pytest.mark.parametrize("name", ["a", "text-5f", "9.b_c-d", "x" * 200])
def test_a_plain_name_lies_in_the_directory(tmp_path: Path, name: str) -> None:
    assert staging.staged(tmp_path, name) == tmp_path / name


def test_a_text_has_an_entry_of_its_own_and_goes_with_it(tmp_path: Path) -> None:
    first, second = (staging.stage_text(tmp_path, "config.txt", text) for text in ("é", ""))
    assert first != second
    assert (tmp_path / first / "config.txt").read_bytes() == "é".encode()
    assert staging.size_of(tmp_path / first) == 2
    assert is_private(tmp_path / first)
    staging.discard(tmp_path, first)
    staging.discard(tmp_path, first)
    assert [entry.name for entry in tmp_path.iterdir()] == [second]


def test_an_entry_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    staging.make(tmp_path, "a")
    with pytest.raises(FileExistsError):
        staging.make(tmp_path, "a")


def test_the_size_is_that_of_all_files_and_of_links_themselves(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(10_000))
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "a").write_bytes(bytes(3))
    (folder / "below" / "b").write_bytes(bytes(4))
    (folder / "link").symlink_to(tmp_path / "big")
    assert staging.size_of(folder) == 7 + len(str(tmp_path / "big"))
    assert staging.size_of(folder / "a") == 3


def test_what_is_made_durable_is_every_file_and_every_name_that_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "below").mkdir(parents=True)
    (tmp_path / "a" / "below" / "file").touch()
    flushed: list[Path] = []
    monkeypatch.setattr(staging, "flush", lambda path, _flags: flushed.append(path))
    staging.make_durable(tmp_path, "a")
    assert set(flushed) == {tmp_path, *tmp_path.rglob("*")}
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        staging.make_durable(tmp_path, "gone")
