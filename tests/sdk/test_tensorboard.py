"""`tailrace.tensorboard`: a script for TensorBoard's writer leads to a run in MLflow."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from helpers.sdk_tools import Store, named, said
from tailrace import Tracker
from tailrace.tensorboard import SummaryWriter

torch = pytest.importorskip("torch")


def write(writer: Any) -> None:
    """What a training script writes."""
    for step in range(3):
        writer.add_scalar("train/loss", torch.tensor(1.0 / (step + 1)), step)
        writer.add_scalars("lr", {"body": 0.1, "head": np.float32(0.5)}, step)
    writer.add_text("notes", "no augmentation", 0)
    writer.add_image("sample", np.zeros((3, 4, 4), np.uint8), 1)
    writer.add_images("batch", np.zeros((2, 3, 4, 4), np.uint8), 1)
    writer.add_histogram("weights", torch.arange(10.0), 2)
    writer.add_hparams({"lr": 0.1, "optimizer": "sgd"}, {"hparam/best": 0.3})
    writer.flush()
    writer.close()


def test_what_a_script_writes_is_in_the_run(sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    write(SummaryWriter("runs/baseline", tracker=sdk))
    store = named(sqlite_uri, "baseline")
    assert store.status == "FINISHED"
    assert store.history("train/loss") == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert store.history("lr/head") == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert store.history("hparam/best") == [(0, 0.3)]
    assert store.params == {"lr": "0.1", "optimizer": "sgd"}
    files = store.artifacts()
    assert {"text/notes.json", "histograms/weights.json"} <= set(files)
    assert len([name for name in files if name.startswith("images/") and name.endswith(".png")]) == 2
    assert said(caplog) == []
    assert not Path("runs").exists()


def test_each_call_has_the_arguments_of_torchs_writer() -> None:
    torchs = pytest.importorskip("torch.utils.tensorboard", exc_type=ImportError).SummaryWriter
    for name, call in vars(SummaryWriter).items():
        if name == "__init__" or (callable(call) and not name.startswith("_") and name != "report_once"):
            theirs, ours = (list(inspect.signature(each).parameters) for each in (getattr(torchs, name), call))
            assert ours[: len(theirs)] == theirs, name


def test_event_files_are_written_as_well_where_they_are_wanted(sdk: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path / "both", tfevents=True, tracker=sdk)
    writer.add_pr_curve("pr", np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.8, 0.3]), 0)
    write(writer)
    assert named(sqlite_uri, "both").history("train/loss")[0] == (0, 1.0)
    assert [path.name for path in tmp_path.glob("both/events.out.tfevents.*")]
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(tmp_path / "both")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")][:2] == [(0, 1.0), (1, 0.5)]


def test_steps_times_and_runs_below(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run(run_name="outer"), SummaryWriter(tracker=sdk) as writer:
        writer.add_scalar("counted", 1.0)
        writer.add_scalar("counted", 2.0)
        writer.add_scalar("timed", 1.0, 3, walltime=1_700_000_000.5)
        for n in range(2):
            writer.add_hparams({"n": n}, {"score": n}, run_name=None if n == 0 else "second")
    store = named(sqlite_uri, "outer")
    assert store.history("counted") == [(0, 1.0), (1, 2.0)]
    (timed,) = store.client.get_metric_history(store.run_id, "timed")
    assert (timed.step, timed.timestamp) == (3, 1_700_000_000_500)
    assert store.params == {"n": "0"}
    below = named(sqlite_uri, "second")
    assert (below.params, below.tags["mlflow.parentRunId"]) == ({"n": "1"}, store.run_id)


def test_a_figure_is_closed_and_what_has_no_form_is_said_once(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    with SummaryWriter("runs/figures", tracker=sdk) as writer:
        writer.add_figure("roc", plt.figure(), 1)
        writer.add_figure("many", [plt.figure(), plt.figure()], 2, close=False)
        for _ in range(2):
            writer.add_graph(None)
    assert len(plt.get_fignums()) == 2
    plt.close("all")
    assert named(sqlite_uri, "figures").artifacts() == [
        "figures/many/0/00000002.png",
        "figures/many/1/00000002.png",
        "figures/roc/00000001.png",
    ]
    assert said(caplog) == [
        "tailrace: add_graph has no form in MLflow: not logged; tfevents=True keeps it for TensorBoard"
    ]


def test_an_exception_fails_the_run_of_the_writer(sdk: Tracker, sqlite_uri: str) -> None:
    with pytest.raises(ValueError, match="it diverges"), SummaryWriter("failing", tracker=sdk):
        raise ValueError("it diverges")
    assert sdk.active_run() is None
    with SummaryWriter("ended", tracker=sdk) as writer:
        writer.add_scalar("loss", 1.0, 0)
        with pytest.raises(AttributeError):
            writer.scalar("loss", 1.0)


def test_only_the_first_process_writes(sdk: Tracker, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.tensorboard.is_first", lambda: False)
    write(SummaryWriter("runs/second", tracker=sdk))
    SummaryWriter("runs/second", tracker=sdk).add_graph(None)
    assert mlflow.MlflowClient(sqlite_uri).search_runs(["0"]) == []
    with SummaryWriter("runs/all", tracker=sdk, all_processes=True) as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert named(sqlite_uri, "all").history("loss") == [(0, 1.0)]


def test_without_a_writer_of_event_files_the_error_says_what_to_install(
    sdk: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("torch.utils.tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        SummaryWriter(tfevents=True, tracker=sdk)


def test_two_writers_beside_one_another_are_one_run(sdk: Tracker, sqlite_uri: str) -> None:
    train, val = SummaryWriter("runs/train", tracker=sdk), SummaryWriter("runs/val", tracker=sdk)
    train.add_scalar("loss/train", 1.0, 0)
    val.add_scalar("loss/val", 2.0, 0)
    val.close()
    train.close()
    (found,) = mlflow.MlflowClient(sqlite_uri).search_runs(["0"])
    assert Store(sqlite_uri, found.info.run_id).metrics() == {"loss/train": [(0, 1.0)], "loss/val": [(0, 2.0)]}


def test_two_writers_with_the_same_tags_do_not_mix_them(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    train, val = SummaryWriter("runs/train", tracker=sdk), SummaryWriter("runs/val", tracker=sdk)
    for step in range(2):
        train.add_scalar("loss", 1.0, step)
        val.add_scalar("loss", 2.0, step)
    train.close()
    again = SummaryWriter("runs/train", tracker=sdk)
    again.add_scalar("loss", 3.0, 0)
    again.close()
    val.close()
    stores = [Store(sqlite_uri, run.info.run_id) for run in mlflow.MlflowClient(sqlite_uri).search_runs(["0"])]
    assert {"loss": [(0, 1.0), (1, 1.0)], "val/loss": [(0, 2.0), (1, 2.0)]} in [store.metrics() for store in stores]
    assert said(caplog).count("tailrace: runs/train and runs/val have the same tags: here they are 'val/…'") == 1


def test_what_cannot_be_written_stops_nobody(sdk: Tracker, sqlite_uri: str) -> None:
    with SummaryWriter("runs/odd", tracker=sdk) as writer:
        for name in ("../../out", "", "a" * 400, "ümlaut(%)", "/absolute"):
            writer.add_text(name, "x", 0)
            writer.add_histogram(name, np.array([np.nan, np.inf, 1.0]), 0, bins=[0.0, 1.0, 2.0])
            writer.add_image(name, np.full((3, 2, 2), np.nan), 0)
            writer.add_scalar(name, float("nan"), 0)
        writer.add_scalar("text", "no number", 0)
        writer.add_scalar("many", np.arange(3), 0)
        writer.add_image("axes", np.zeros((2, 2)), 0)
        writer.add_images("none", np.zeros((0, 3, 2, 2)), 0)
        writer.add_histogram("objects", [object()], 0)
        writer.add_scalar("loss", np.float32(0.5), np.int64(7))
    store = named(sqlite_uri, "odd")
    assert (store.status, store.history("loss")) == ("FINISHED", [(7, 0.5)])


def test_a_step_is_cut_to_a_whole_one_as_tensorboard_does(sdk: Tracker, sqlite_uri: str) -> None:
    import matplotlib.pyplot as plt

    with SummaryWriter("runs/cut", tracker=sdk) as writer:
        for step in (0.5, 1.5, np.float32(2.9), torch.tensor(3.2), np.int64(4)):
            writer.add_scalar("loss", 1.0, step)
            writer.add_scalars("more", {"loss": 1.0}, step)
        writer.add_figure("figure", plt.figure(), 2.5)
        writer.add_text("text", "a", 2.5)
        writer.add_hparams({"lr": 1}, {"best": 1.0}, global_step=2.5)
        writer.add_scalar("bad", 1.0, "no step")
    store = named(sqlite_uri, "cut")
    assert [step for step, _ in store.history("loss")] == [0, 1, 2, 3, 4]
    assert [step for step, _ in store.history("more/loss")] == [0, 1, 2, 3, 4]
    assert store.history("best") == [(2, 1.0)]
    assert "figures/figure/00000002.png" in store.artifacts()


def test_what_is_inside_of_torchs_writer_can_be_asked_for(sdk: Tracker, caplog: pytest.LogCaptureFixture) -> None:
    inside = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    with SummaryWriter("runs/inside", tracker=sdk, max_queue=3) as writer:
        assert writer.file_writer.get_logdir() == writer.get_logdir() == "runs/inside"
        assert list(writer.all_writers) == ["runs/inside"]
        assert (writer.max_queue, writer.flush_secs, writer.purge_step, writer.filename_suffix) == (3, 120, None, "")
        for _ in range(2):
            writer._get_file_writer().add_summary("a summary", 1)
            writer.file_writer.flush()
        with pytest.raises(AttributeError):
            _ = writer.file_writer.nonsense
    assert len([line for line in said(caplog) if "file_writer.add_summary" in line]) == 1
    with SummaryWriter("runs/files", tracker=sdk, tfevents=True) as writer:
        assert type(writer.file_writer).__name__ == "FileWriter"
        assert isinstance(writer.files, inside)
