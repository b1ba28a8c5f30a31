"""Where what a run has printed lies among its artifacts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tailrace_agent.delivery.printed_names import printed_name, set_apart
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.errors import Unavailable
from tailrace_agent.ipc.records import JobPart, RunSpec, Start
from tailrace_agent.sinks.memory import MemorySink

SPEC = RunSpec(run=1, start_time=5, cwd="/")
JOB = msgspec.structs.replace(SPEC, job=JobPart(key="named:night", name="night"))


@pytest.mark.parametrize(
    ("spec", "rank", "name", "placed"),
    [
        (SPEC, 0, "console.log", "console.log"),
        (SPEC, 0, "traceback.txt", "traceback.txt"),
        (SPEC, 3, "console.log", "console/rank3.log"),
        (SPEC, 3, "crash.txt", "console/rank3.crash.txt"),
        (msgspec.structs.replace(SPEC, run_id="a"), 0, "console.log", "console/resumed-19700101-000000-000001.log"),
        (msgspec.structs.replace(SPEC, run_id="a", created=True), 0, "console.log", "console.log"),
        (JOB, 0, "console.log", "console.log"),
    ],
)
def test_the_runs_own_is_at_the_top_and_others_are_named_by_whose_they_are(
    spec: RunSpec, rank: int, name: str, placed: str
) -> None:
    assert printed_name(spec, rank, name) == placed


class ApartRig:
    """A job's run in a store that has something already, and files that are to be stored."""

    def __init__(self, folder: Path, *there: str) -> None:
        self.folder, self.sink = folder, MemorySink()
        self.book = RunBook({}, lambda *_: None)
        self.book.start(Start(JOB), "ring")
        ref = self.sink.open_run(JOB, None, find_first=True)
        self.book.update(1, ref=ref)
        for name in there:
            self.sink.runs[ref.run_id].artifacts[name] = b"of before"

    def stage(self, *names: str) -> None:
        for name in names:
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(name)

    def apart(self) -> list[str]:
        state = self.book.get(1)
        assert state is not None
        set_apart(self.sink, self.book, state, self.folder)
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


def test_ranks_of_which_there_is_nothing_keep_their_names_from_then_on(tmp_path: Path) -> None:
    rig = ApartRig(tmp_path, "console/rank1.log")
    rig.stage("console.log", "console/rank1.log", "console/rank1.traceback.txt")
    apart = ["console.log", "console/resumed-19700101-000000-000004-rank1.log"]
    assert rig.apart() == [*apart, "console/resumed-19700101-000000-000004-rank1.traceback.txt"]
    (run,) = rig.sink.runs.values()
    run.artifacts["console.log"] = b"of this session"
    assert "console.log" in rig.apart(), "and what is apart stays as it is"


def test_of_a_store_that_is_away_nothing_is_concluded(tmp_path: Path) -> None:
    def away(*_: object) -> None:
        raise Unavailable("no")

    rig = ApartRig(tmp_path, "console.log")
    rig.stage("console.log")
    fetch, rig.sink.fetch_artifact = rig.sink.fetch_artifact, away  # type: ignore[method-assign,assignment]
    with pytest.raises(Unavailable):
        rig.apart()
    rig.sink.fetch_artifact = fetch  # type: ignore[method-assign]
    assert rig.apart() == ["console/resumed-19700101-000000-000004.log"]
