"""A directory goes file by file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.delivery_faults import cannot_store
from helpers.delivery_rigs import UploadRig
from tailrace_agent.delivery.artifact_pieces import Pieces
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import Artifact, decode_control
from tailrace_agent.sinks.memory import MemorySink


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[UploadRig]:
    rig = UploadRig(tmp_path)
    yield rig
    rig.spool.close()


@pytest.mark.parametrize("contents", [True, False])
@pytest.mark.parametrize("error", [Refused("no such name"), None])
def test_a_file_that_cannot_be_stored_costs_itself_and_not_its_directory(
    rig: UploadRig, *, contents: bool, error: Exception | None
) -> None:
    rig.start()
    entry = rig.stage({"d/a.txt": "a", "d/below/bad": "x", "d/below/c.txt": "c"}, contents=contents, artifact_path="p")
    tried = cannot_store(rig, "bad", error=error)
    rig.run(120)
    top = "p" if contents else "p/d"
    stored = {name for name in rig.of().artifacts if not name.startswith("tailrace/")}
    assert stored == {f"{top}/a.txt", f"{top}/below/c.txt"}
    assert (rig.counts().accepted, rig.counts().delivered, rig.counts().dead, rig.counts().pending) == (2, 1, 1, 0)
    (letter,) = rig.spool.letters.all()
    assert letter.key == f"{top}/below/bad"
    assert any(f"{top}/below/bad" in text for text in rig.notices())
    assert tried.count("a.txt") == 1, "what has arrived is not sent again"
    assert not entry.exists()
    rig.sink.log_artifact = MemorySink.log_artifact.__get__(rig.sink)  # type: ignore[method-assign]
    rig.spool.letters.revive([letter], [(1, "artifact", 1, 0, letter.body)])
    rig.run()
    assert rig.of().artifacts[f"{top}/below/bad"] == b"x"
    assert sorted(path.name for path in rig.staging.iterdir()) == []


class PickySink(MemorySink):
    """Refuses files by their name, and says what was tried."""

    def __init__(self, **errors: Exception) -> None:
        super().__init__()
        self.errors, self.tried = errors, list[str]()

    def log_artifact(self, run_id: str, path: Path, artifact_path: str | None) -> dict[str, str]:
        del run_id
        self.tried.append(f"{artifact_path or ''}/{path.name}")
        if path.name in self.errors:
            raise self.errors[path.name]
        return {}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("a", "b", "below/c", "below/d"):
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "d"


def test_files_go_one_by_one_below_the_artifact_path_and_none_goes_twice(directory: Path) -> None:
    for under, top in (("p", "p"), (None, "")):
        sink, pieces = PickySink(), Pieces(directory, under)
        for _ in range(2):
            assert pieces.send(sink, "run") == {}
        assert sink.tried == [f"{top}/a", f"{top}/b", f"{top}/below/c".lstrip("/"), f"{top}/below/d".lstrip("/")]


def test_a_file_that_is_refused_is_left_and_the_others_go(directory: Path) -> None:
    sink, pieces = PickySink(b=Refused("no such name")), Pieces(directory, None)
    pieces.send(sink, "run")
    assert pieces.refused == {"b": "no such name"}
    assert pieces.sent == {"a", "below/c", "below/d"}
    pieces.send(sink, "run")
    assert sink.tried.count("/b") == 1


def test_one_that_cannot_be_had_now_keeps_no_other_and_is_tried_again(directory: Path) -> None:
    sink, pieces = PickySink(a=Unavailable("answered 500", lacks="token")), Pieces(directory, None)
    with pytest.raises(Unavailable, match=r"^a: answered 500") as caught:
        pieces.send(sink, "run")
    assert caught.value.lacks == "token"
    assert pieces.sent == {"b", "below/c", "below/d"}
    sink.errors.clear()
    pieces.send(sink, "run")
    assert sink.tried.count("/a") == 2
    assert pieces.sent == {"a", "b", "below/c", "below/d"}


def test_a_store_that_takes_none_at_all_is_asked_for_two(directory: Path) -> None:
    away = Unavailable("away")
    sink, pieces = PickySink(a=away, b=away, c=away, d=away), Pieces(directory, None)
    with pytest.raises(Unavailable, match="away"):
        pieces.send(sink, "run")
    assert sink.tried == ["/a", "/b"]


@pytest.mark.parametrize("links", [True, False])
def test_what_is_given_up_is_staged_by_itself_and_can_be_sent_again(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    (tmp_path / "artifacts").mkdir()
    sink, pieces = PickySink(c=Unavailable("answered 500"), a=Refused("bad")), Pieces(directory, "p")
    with pytest.raises(Unavailable):
        pieces.send(sink, "run")
    assert [left.artifact_file for left in pieces.rest(7, tmp_path / "artifacts")] == ["p/a"]
    pieces.give_up()
    left = {rest.artifact_file: rest for rest in pieces.rest(7, tmp_path / "artifacts")}
    assert {name: rest.reason for name, rest in left.items()} == {"p/a": "bad", "p/below/c": "answered 500"}
    record = decode_control(left["p/below/c"].body)
    assert isinstance(record, Artifact)
    assert (record.run, record.artifact_path) == (7, "p/below")
    (file,) = (tmp_path / "artifacts" / record.staged).iterdir()
    assert (file.name, file.read_text()) == ("c", "below/c")
    assert (directory / "below" / "c").exists()
