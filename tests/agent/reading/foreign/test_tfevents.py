"""TensorBoard's event files in MLflow: scalars, texts, images, hparams, and what comes while they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.commands import tailrace
from helpers.sdk_tools import Store, named
from tailrace_agent.errors import NotFound

pytest.importorskip("tensorboard", reason="TensorBoard's package reads them")

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import plugin_data_pb2

from helpers.event_files import Events
from tailrace_agent.reading.foreign.tfevents import EventRuns

PNG = b"\x89PNG\r\n\x1a\n picture"


def imported(uri: str, directory: Path, *more: str) -> str:
    result = tailrace("import", "tfevents", str(directory), "--tracking-uri", uri, *more)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_each_directory_is_a_run_with_all_that_is_in_its_files(sqlite_uri: str, tmp_path: Path) -> None:
    root = tmp_path / "logs"
    train, val = Events(root / "train"), Events(root / "val")
    for step in range(50):
        train.scalar("loss(train)", step, 1.0 / (step + 1))
        train.scalar("lr", step, 0.5)
    val.scalar("loss", 10, 0.25)
    later = Events(root / "train", 1)
    later.scalar("lr", 50, 0.25)
    text = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    value = Summary.Value(tag="note/a", metadata=text)
    value.tensor.dtype, value.tensor.tensor_shape.dim.add().size = 7, 1
    value.tensor.string_val.append(b"hello")
    train.write(step=3, wall_time=1_700_000_003.0, summary=Summary(value=[value]))
    image = Summary.Value(tag="sample", image=Summary.Image(encoded_image_string=PNG))
    train.write(step=4, wall_time=1_700_000_004.0, summary=Summary(value=[image]))
    # TensorFlow 2: a tensor, and the plugin's name with the first of them alone.
    for step in range(2):
        scalars = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
        value = Summary.Value(tag="two", metadata=None if step else scalars)
        value.tensor.dtype = 1
        value.tensor.float_val.append(0.5 + step)
        val.write(step=step, wall_time=1_700_000_000.0, summary=Summary(value=[value]))
    session = plugin_data_pb2.HParamsPluginData()
    session.session_start_info.hparams["lr"].number_value = 0.001
    session.session_start_info.hparams["layers"].number_value = 3
    session.session_start_info.hparams["opt"].string_value = "adam"
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=session.SerializeToString())
    hparams = Summary.Value(tag="_hparams_/session_start_info", metadata=SummaryMetadata(plugin_data=plugin))
    val.write(wall_time=1_700_000_000.0, summary=Summary(value=[hparams]))
    val.write(wall_time=1_700_000_000.0, summary=Summary(value=[Summary.Value(tag="w", histo={"num": 1})]))
    printed = imported(sqlite_uri, root)
    assert "1 histograms" in printed
    found = named(sqlite_uri, "train")
    assert [step for step, _ in found.history("loss__train")] == list(range(50))
    assert found.tags["tailrace.name.loss__train"] == "loss(train)"
    assert found.history("lr")[-1] == (50, 0.25)
    assert found.artifacts() == ["images/sample_4.png", "texts/note/a_3.txt"]
    assert found.run.info.end_time == 1_700_000_050_000
    assert found.client.get_experiment(found.run.info.experiment_id).name == "logs"
    other = named(sqlite_uri, "val")
    assert (other.history("two"), other.history("loss")) == ([(0, 0.5), (1, 1.5)], [(10, 0.25)])
    assert other.params == {"lr": "0.001", "layers": "3", "opt": "adam"}
    assert "is there already" in imported(sqlite_uri, root)
    later.scalar("lr", 51, 0.125)
    assert "1 more point" in imported(sqlite_uri, root)
    assert named(sqlite_uri, "train").history("lr")[-2:] == [(50, 0.25), (51, 0.125)]


def test_a_record_that_is_half_there_is_read_when_it_is_whole(tmp_path: Path) -> None:
    events = Events(tmp_path)
    record = events.scalar("loss", 0, 1.0)
    whole = events.path.read_bytes()
    for size in range(len(whole) - len(record), len(whole)):
        events.path.write_bytes(whole[:size])
        runs = EventRuns(tmp_path)
        (run,) = runs.runs()
        assert list(run.points()) == []
        events.path.write_bytes(whole)
        (run,) = runs.runs()
        assert [point.value for point in run.points()] == [1.0]
        assert not run.left_out


def test_a_graph_is_left_out_and_counted(tmp_path: Path) -> None:
    events = Events(tmp_path / "a")
    events.write(wall_time=1_700_000_001.0, graph_def=b"a graph")
    events.write(wall_time=1_700_000_001.0, tagged_run_metadata={"tag": "step1"})
    (run,) = EventRuns(tmp_path).runs()
    assert run.left_out == {"graphs": 1}


def test_what_is_behind_damage_is_left_out_and_said_so(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.scalar("loss", 0, 1.0)
    events.append(b"\xff" * 40)
    events.scalar("loss", 1, 2.0)
    (run,) = EventRuns(tmp_path).runs()
    assert [point.value for point in run.points()] == [1.0]
    assert run.left_out == {"damaged rests of files": 1}


def test_another_run_at_the_same_path_is_another_run(tmp_path: Path, sqlite_uri: str) -> None:
    for number in range(2):
        events = Events(tmp_path / "runs", number)
        events.scalar("loss", 0, float(number))
        imported(sqlite_uri, tmp_path / "runs")
        assert "is there already" in imported(sqlite_uri, tmp_path / "runs" / ".." / "runs")
        events.path.unlink()  # as in the next container
    found = MlflowClient(sqlite_uri).search_runs(
        [MlflowClient(sqlite_uri).get_experiment_by_name("runs").experiment_id]
    )
    assert sorted(Store(sqlite_uri, run.info.run_id).history("loss") for run in found) == [[(0, 0.0)], [(0, 1.0)]]


def _text(tag: str, *, sizes: tuple[int, ...] = (1,), plugin: str = "text", kind: int = 7) -> Any:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
    value = Summary.Value(tag=tag, metadata=metadata)
    value.tensor.dtype = kind
    for size in sizes:
        value.tensor.tensor_shape.dim.add().size = size
    (value.tensor.string_val if kind == 7 else value.tensor.float_val).append(b"hello" if kind == 7 else 1.0)
    return value


def test_records_of_whatever_kind_stop_nobody(tmp_path: Path, sqlite_uri: str) -> None:
    events = Events(tmp_path / "runs")
    odd = [
        _text("bomb", sizes=(1 << 20, 1 << 20)),
        _text("numbers", sizes=(1 << 40,), plugin="scalars", kind=1),
        _text("negative", sizes=(-5, -7)),
        _text("none", sizes=(0,), plugin="scalars", kind=1),
        _text("no type", kind=7, plugin="scalars"),
        _text("what", kind=99),
        Summary.Value(
            tag="_hparams_",
            metadata=SummaryMetadata(
                plugin_data=SummaryMetadata.PluginData(plugin_name="hparams", content=b"\xff" * 9)
            ),
        ),
    ]
    for value in odd:
        events.write(wall_time=1_700_000_000.0, summary=Summary(value=[value]))
    for moment in (float("nan"), float("inf"), 1e300, -1e300):
        events.write(wall_time=moment, step=1, summary=Summary(value=[Summary.Value(tag="when", simple_value=1.0)]))
    for step in (-(2**63), 2**63 - 1):
        events.write(wall_time=1.0, step=step, summary=Summary(value=[Summary.Value(tag="far", simple_value=1.0)]))
    for tag in ("a?b", "a!b", "../../out", "/absolute", "x" * 400, "", "deep/" * 100):
        events.write(wall_time=1.0, summary=Summary(value=[_text(tag)]))
    (tmp_path / "runs" / "events.out.tfevents.directory").mkdir()
    events.scalar("loss", 3, float("nan"))
    printed = imported(sqlite_uri, tmp_path / "runs")
    assert "damaged records" in printed
    found = named(sqlite_uri, "runs")
    assert len(found.history("loss")) == 1
    assert len(found.artifacts()) == 7


def test_a_directory_without_event_files_is_one_clear_line(tmp_path: Path, sqlite_uri: str) -> None:
    with pytest.raises(NotFound, match="there are no event files"):
        EventRuns(tmp_path)
    result = tailrace("import", "tfevents", str(tmp_path / "nowhere"), "--tracking-uri", sqlite_uri)
    assert (result.exit_code, "there is no" in result.stderr) == (2, True)
