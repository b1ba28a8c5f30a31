"""wandb's files of offline runs: framed as LevelDB frames its logs, and read as far as they are whole."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from helpers.commands import tailrace
from helpers.sdk_tools import named
from tailrace_agent.errors import NotFound, TailraceError
from tailrace_agent.reading.foreign import wandb_files
from tailrace_agent.reading.foreign.foreign_run import ForeignRun
from tailrace_agent.reading.foreign.wandb_files import wandb_runs

BLOCK = 32 * 1024


class Log:
    """A file of records, written as wandb writes it: a record that does not fit into a block goes on in the next."""

    def __init__(self, directory: Path, run_id: str = "abc", began: str = "offline-run-20260101_000000") -> None:
        self.path = directory / f"{began}-{run_id}" / f"run-{run_id}.wandb"
        self.path.parent.mkdir(parents=True)
        self.bytes = b":W&B" + struct.pack("<HB", 0xBEE1, 0)

    def put(self, **record: Any) -> None:
        from wandb.proto.wandb_internal_pb2 import Record

        body, first = Record(**record).SerializeToString(), True
        while True:
            room = BLOCK - len(self.bytes) % BLOCK
            if room < 7:
                self.bytes += b"\0" * room
                continue
            piece, body = body[: room - 7], body[room - 7 :]
            kind = (1 if first else 4) if not body else (2 if first else 3)
            self.bytes += struct.pack("<IHB", crc32(piece, crc32(bytes((kind,)))), len(piece), kind) + piece
            first = False
            if not body:
                break
        self.path.write_bytes(self.bytes)

    def row(self, step: int, **values: Any) -> None:
        from wandb.proto.wandb_internal_pb2 import HistoryItem, HistoryRecord, HistoryStep

        values = {"_timestamp": 1_700_000_000.0 + step, "_step": step, **values}
        items = [HistoryItem(key=key, value_json=json.dumps(value)) for key, value in values.items()]
        items.append(HistoryItem(nested_key=["a", "b"], value_json=str(step)))
        self.put(history=HistoryRecord(item=items, step=HistoryStep(num=step)))

    def run(self, project: str = "digits", **config: Any) -> None:
        from wandb.proto.wandb_internal_pb2 import ConfigItem, ConfigRecord, RunRecord

        items = [ConfigItem(key=key, value_json=json.dumps(value)) for key, value in config.items()]
        self.put(
            run=RunRecord(
                run_id="abc", project=project, display_name="first", tags=["x"], config=ConfigRecord(update=items)
            )
        )

    def summary(self, **values: Any) -> None:
        from wandb.proto.wandb_internal_pb2 import SummaryItem, SummaryRecord

        items = [SummaryItem(key=key, value_json=json.dumps(value)) for key, value in values.items()]
        self.put(summary=SummaryRecord(update=items))

    def exit(self, code: int) -> None:
        from wandb.proto.wandb_internal_pb2 import RunExitRecord

        self.put(exit=RunExitRecord(exit_code=code))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="wandb's own package knows what is in a record")
    return Log(tmp_path)


def read(directory: Path) -> ForeignRun:
    (run,) = wandb_runs(directory)
    if isinstance(run, TailraceError):
        raise run
    return run


def test_what_is_in_the_records(log: Log, tmp_path: Path) -> None:
    log.run(lr=0.1, model={"layers": 2}, _wandb={"cli": 1})
    for step in range(3):
        log.row(step, loss=1.0 / (step + 1), nan="NaN", image={"_type": "image-file", "width": 3}, text="word")
    log.exit(0)
    (log.path.parent / "files" / "media").mkdir(parents=True)
    (log.path.parent / "files" / "media" / "a.png").write_bytes(b"png")
    (log.path.parent / "files" / "config.yaml").write_text("a: 1")
    for directory in (tmp_path, log.path.parent):
        run = read(directory)
        assert (run.name, run.experiment, run.status, run.end_time) == (
            "first",
            "digits",
            "FINISHED",
            1_700_000_002_000,
        )
        assert run.params == {"lr": "0.1", "model.layers": "2"}
        assert (run.tags["wandb.id"], run.tags["x"]) == ("abc", "true")
        points = list(run.points())
        assert {point.key for point in points} == {"loss", "nan", "a.b"}
        assert [(point.step, point.value, point.timestamp) for point in points if point.key == "a.b"] == [
            (step, float(step), 1_700_000_000_000 + step * 1000) for step in range(3)
        ]
        assert [(path.name, folder) for path, folder in run.files] == [("config.yaml", "wandb"), ("a.png", "media")]


def test_what_mlflow_has_no_place_for_is_counted(log: Log, tmp_path: Path) -> None:
    log.run()
    histogram = {"_type": "histogram", "bins": [0, 1], "values": [3]}
    for step in range(3):
        log.row(step, loss=1.0, weights=histogram, below={"grad": histogram}, path=[1, 2], none=None)
    log.row(3, table={"_type": "table-file", "path": "media/table/a.json"})
    run = read(tmp_path)
    assert len(list(run.points())) == 7
    for _ in range(2):  # whoever reads the points once more
        list(run.points())
        assert run.left_out == {"histograms": 6, "lists": 3}


def test_a_run_without_an_end_goes_on_and_one_that_failed_has(log: Log, tmp_path: Path) -> None:
    log.run()
    log.row(0, loss=1.0)
    before = read(tmp_path)
    assert before.end_time is None
    log.exit(1)
    after = read(tmp_path)
    assert (after.status, after.origin == before.origin, after.state == before.state) == ("FAILED", True, False)


def test_records_over_several_blocks_and_every_end_in_the_middle(log: Log, tmp_path: Path) -> None:
    log.run(big="x" * 100_000)
    for step in range(400):
        log.row(step, loss=float(step), filler="y" * 200)
    whole = log.bytes
    assert [point.value for point in read(tmp_path).points() if point.key == "loss"] == [float(n) for n in range(400)]
    for size in [*range(0, 60, 7), *range(BLOCK - 9, BLOCK + 9), *range(len(whole) - 300, len(whole), 13)]:
        log.path.write_bytes(whole[:size])
        found = [*wandb_runs(tmp_path)]
        if size < 100_000:  # of which nothing is known yet
            assert found == []
            continue
        values = [point.value for point in read(tmp_path).points() if point.key == "loss"]
        assert values == [float(n) for n in range(len(values))]
    log.path.write_bytes(whole[:5000] + b"?" + whole[5001:])
    with pytest.raises(TailraceError, match="is damaged at byte"):
        read(tmp_path)


def test_the_files_of_a_run_are_in_the_order_of_their_dates_and_an_id_is_one_of_its_project(tmp_path: Path) -> None:
    pytest.importorskip("wandb.proto.wandb_internal_pb2")
    first, second = Log(tmp_path, began="run-20260101_000000"), Log(tmp_path, began="offline-run-20260102_000000")
    other = Log(tmp_path, began="offline-run-20260103_000000")
    first.run(), second.run(), other.run("another", lr=1)
    for step, log in enumerate((first, second, other)):
        log.row(step, loss=float(step))
    (one, another) = (run for run in wandb_runs(tmp_path) if isinstance(run, ForeignRun))
    assert [point.value for point in one.points() if point.key == "loss"] == [0.0, 1.0]
    assert (another.experiment, another.params, one.origin == another.origin) == ("another", {"lr": "1"}, False)


def test_a_run_that_has_only_begun_is_left_for_the_next_time(log: Log, tmp_path: Path) -> None:
    log.path.write_bytes(log.bytes)
    assert list(wandb_runs(tmp_path)) == []
    log.run()
    assert read(tmp_path).name == "first"


def test_what_the_summary_alone_has_comes_with_the_end(log: Log, tmp_path: Path) -> None:
    log.run()
    log.row(0, loss=1.0)
    log.summary(best=0.5, loss=1.0)
    assert {point.key for point in read(tmp_path).points()} == {"loss", "a.b"}
    log.summary(best=0.9)
    log.exit(0)
    assert [point.value for point in read(tmp_path).points() if point.key == "best"] == [0.9]


@pytest.mark.parametrize("value", ["[" * 100_000, "{", "1" + "0" * 400, '"x"', "NaN", '{"a": {"_type": 3}}', "-1e999"])
def test_values_of_whatever_kind_are_read_or_said_to_be_damaged(log: Log, tmp_path: Path, value: str) -> None:
    from wandb.proto.wandb_internal_pb2 import HistoryItem, HistoryRecord, HistoryStep

    log.run()
    for key in ("loss", "_timestamp", "_step"):
        log.put(history=HistoryRecord(item=[HistoryItem(key=key, value_json=value)], step=HistoryStep(num=1)))
    log.put(history=HistoryRecord(item=[HistoryItem(key="_timestamp", value_json=value)]))
    for run in wandb_runs(tmp_path):
        if isinstance(run, ForeignRun):
            assert all(isinstance(point.value, float) for point in run.points())
        else:
            assert "is damaged" in str(run)


def test_a_damaged_run_keeps_no_other_away(log: Log, tmp_path: Path, sqlite_uri: str) -> None:
    log.run()
    log.row(0, loss=1.0)
    Log(tmp_path, "other", "offline-run-20250101_000000").path.write_bytes(b"something else")
    damaged = Log(tmp_path, "torn", "offline-run-20250102_000000")
    damaged.run()
    damaged.path.write_bytes(damaged.bytes[:-1] + bytes([damaged.bytes[-1] ^ 1]))
    result = tailrace("import", "wandb", str(tmp_path), "--tracking-uri", sqlite_uri)
    assert result.exit_code == 1
    assert "2 runs not imported: " in result.stderr
    assert "is no file of wandb; " in result.stderr
    assert named(sqlite_uri, "first").history("loss") == [(0, 1.0)]


def test_what_is_no_run_is_one_clear_line(log: Log, tmp_path: Path) -> None:
    log.path.write_bytes(b"something else")
    with pytest.raises(TailraceError, match="is no file of wandb"):
        read(tmp_path)
    with pytest.raises(NotFound, match="there are no runs of wandb"):
        list(wandb_runs(tmp_path / "nowhere"))


def test_without_wandb_the_mend_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    for name in [name for name in sys.modules if name.startswith("wandb.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TailraceError, match="pip install wandb"):
        list(wandb_files.wandb_runs(tmp_path))
