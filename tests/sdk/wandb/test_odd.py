"""What scripts do that no manual has: odd values, values that change after the call, several runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.sdk_tools import Store, named, script
from helpers.wandb_tools import stored
from tailrace import wandb

MADE: list[Callable[[], Any]] = [
    lambda: wandb.Histogram([float("nan"), 1.0]),
    lambda: wandb.Histogram(["a"]),
    lambda: wandb.Histogram(None),
    lambda: wandb.Histogram(np_histogram=5),  # type: ignore[arg-type]
    lambda: wandb.Html("missing.html"),
    lambda: wandb.Html(None),
    lambda: wandb.Table(data=5),
    lambda: wandb.Table(columns=5),  # type: ignore[arg-type]
    lambda: wandb.Image(object()),
    lambda: wandb.Image("missing.png"),
    lambda: wandb.Image(None),
    lambda: wandb.Table(["a"], [[1]]).add_column("b", [1, 2]),
    lambda: wandb.Table(["a"], [[1]]).get_column("no such"),
    lambda: wandb.Artifact("a", metadata=5),  # type: ignore[arg-type]
    lambda: wandb.Settings(project="a").no_such_setting,
]


def test_nothing_that_is_made_of_wandbs_raises(store: str, warned: list[str]) -> None:
    run = wandb.init(project="made", tags=5, settings=3, config=object())  # type: ignore[arg-type]
    for make in MADE:
        wandb.log({"loss": 1.0, "made": make()})
    assert len(stored(store, run).history("loss")) == len(MADE)


def test_what_wandbs_objects_have_and_these_have_not_says_so_and_raises_nothing(warned: list[str]) -> None:
    table = wandb.Table(["a"], [[1], [2]])
    assert [row for _, row in table.iterrows()] == [[1], [2]]
    assert table.get_index() == [0, 1]
    table.add_computed_columns(lambda index, row: {"b": index})
    image = wandb.Image(np.zeros((2, 2)))
    for made in (image, wandb.Histogram([1]), wandb.Html("x"), wandb.Artifact("a", type="b")):
        assert not made.to_json(None).something
    assert not wandb.Artifact("a").version
    assert {"Table.add_computed_columns", "Image.to_json", "Artifact.version"} <= {text.split()[0] for text in warned}
    assert copy.deepcopy(image).picture().shape == (2, 2)
    assert not hasattr(image, "_width"), "what is wandb's own is not asked for"
    assert wandb.__version__ >= "0.31"


def test_what_is_not_there_can_be_asked_for_subclassed_and_caught(warned: list[str]) -> None:
    class Callback(wandb.WandbCallback):  # type: ignore[misc]
        def own(self) -> int:
            return 3

    assert Callback().own() == 3
    assert not isinstance(1, wandb.Molecule)

    def connect() -> float:
        try:
            return 1 / 0
        except (wandb.Error, wandb.errors.CommError, wandb.UsageError):
            return 0.0

    with pytest.raises(ZeroDivisionError):
        connect()


def test_pictures_of_one_figure_that_is_drawn_anew_are_different_ones(store: str) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    run, pictures = wandb.init(project="figures"), []
    for n in range(2):
        plt.clf()
        plt.plot([n, 1 - n])
        pictures.append(wandb.Image(plt))
    wandb.log({"chart": plt}, commit=False)
    plt.close("all")
    wandb.log({"pictures": pictures})
    found = stored(store, run)
    files = [name for name in found.artifacts() if name.endswith(".png")]
    assert "media/images/chart_0.png" in files
    contents = {
        Path(found.client.download_artifacts(found.run_id, name)).read_bytes() for name in files if "pictures" in name
    }
    assert len(contents) == 2


def test_the_summary_holds_numbers_and_no_graph(store: str) -> None:
    torch = pytest.importorskip("torch")
    run = wandb.init(project="summary")
    wandb.define_metric("loss", summary="min,max,mean")
    weight = torch.ones((), requires_grad=True)
    for value in (3.0, float("nan"), 1.0, float("nan"), 2.0):
        wandb.log({"loss": weight * value, "image": wandb.Image(np.zeros((2, 2))), "array": np.arange(1000.0)})
    assert (run.summary["loss"], type(run.summary["loss"])) == (2.0, float)
    assert not [key for key in run.summary if not key.startswith("loss")]
    found = stored(store, run)
    assert [value for key in ("loss.min", "loss.max", "loss.mean") for _, value in found.history(key)] == [
        1.0,
        3.0,
        2.0,
    ]


def test_a_tensor_counts_as_a_step_of_its_own(store: str) -> None:
    torch = pytest.importorskip("torch")
    run = wandb.init(project="steps")
    wandb.define_metric("*", step_metric="global_step")
    for step in range(3):
        wandb.log({"loss": 1.0, "global_step": torch.tensor(10 * step)})
    wandb.log({"loss": 1.0, "global_step": 10**30})
    assert sorted(step for step, _ in stored(store, run).history("loss")) == [0, 3, 10, 20]


def test_name_notes_and_tags_can_be_set(store: str) -> None:
    run = wandb.init(project="set", tags=["a"])
    wandb.run.name = "renamed"  # type: ignore[union-attr]
    run.notes = "noted"
    run.tags = (*run.tags, "b")
    run.tags += ("c",)
    assert (run.name, run.notes, run.tags) == ("renamed", "noted", ("a", "b", "c"))
    found = stored(store, run)
    assert found.run.info.run_name == "renamed"
    assert found.tags["mlflow.note.content"] == "noted"
    assert {"a", "b", "c"} <= found.tags.keys()


def test_a_configuration_takes_arrays_and_can_be_copied(store: str, warned: list[str]) -> None:
    run = wandb.init(project="configured", config={"weights": np.arange(3)})
    wandb.config.update({"weights": np.arange(3), "lr": 0.1})
    wandb.config.update({"weights": np.zeros(3), "seed": 1}, allow_val_change=True)
    other = copy.deepcopy(wandb.config)
    assert (other.lr, copy.deepcopy(run) is run, dict(copy.deepcopy(run.summary))) == (0.1, True, {})
    found = stored(store, run)
    assert (found.params["lr"], found.params["seed"], "config.weights" in found.tags) == ("0.1", "1", True)


def test_a_run_that_is_gone_on_with_has_its_configuration_and_no_param_is_refused(
    store: str, warned: list[str]
) -> None:
    first = wandb.init(project="on", id="same", config={"lr": 0.1, "model": {"layers": 2}, "name": "adam"})
    run_id = first.tracked.run_id  # type: ignore[union-attr]
    wandb.finish()
    again = wandb.init(project="on", id="same", resume="must", config={"lr": 0.2, "seed": 1})
    assert (again.config.lr, again.config.seed, again.config["name"]) == (0.2, 1, "adam")
    assert again.config["model"]["layers"] == 2
    assert again.tracked is not None
    assert again.tracked.flush().dead == 0
    wandb.finish()
    found = Store(store, run_id)
    assert (found.params["lr"], found.params["seed"], found.tags["config.lr"]) == ("0.1", "1", "0.2")


def test_an_id_is_one_of_its_project(store: str) -> None:
    first = wandb.init(project="one", id="baseline")
    run_id = first.tracked.run_id  # type: ignore[union-attr]
    wandb.finish()
    other = wandb.init(project="two", id="baseline", resume="allow")
    assert other.tracked is not None
    assert (other.resumed, other.tracked.run_id == run_id) == (False, False)


def test_a_new_run_beside_another_leaves_that_one_the_current_one(store: str) -> None:
    first = wandb.init(project="beside")
    second = wandb.init(project="beside", reinit="create_new", config={"a": 1})
    assert (wandb.run is first, second is first) == (True, False)
    wandb.log({"loss": 1.0})
    second.log({"loss": 2.0})
    third = wandb.init(project="beside", reinit="finish_previous")
    assert (first.finished, second.finished, third.finished) == (True, True, False)
    assert first.tracked is not None
    assert second.tracked is not None
    one, two = Store(store, first.tracked.run_id), Store(store, second.tracked.run_id)
    assert (one.history("loss"), two.history("loss")) == ([(0, 1.0)], [(0, 2.0)])
    assert "mlflow.parentRunId" not in two.tags


@pytest.mark.parametrize(("error", "status"), [(ValueError("away"), "FAILED"), (KeyboardInterrupt(), "FAILED")])
def test_an_error_in_a_run_is_said_with_it(error: BaseException, status: str, store: str) -> None:
    run = wandb.init(project="failing")

    def train() -> None:
        with run:
            run.log({"loss": 1.0}, commit=False)
            raise error

    with pytest.raises(type(error)):
        train()
    assert run.tracked is not None
    found = Store(store, run.tracked.run_id)
    assert (found.status, found.history("loss")) == (status, [(0, 1.0)])
    assert found.tags["error.type"] == type(error).__name__


@pytest.mark.slow
def test_forked_workers_begin_runs_of_their_own(sqlite_uri: str, tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import os
        import tailrace.wandb as wandb

        wandb.init(project="forked", name="parent")
        wandb.log({"loss": 0.0}, commit=False)
        if os.fork() == 0:
            run = wandb.init(project="forked", name="child", group="g")
            wandb.log({"loss": 1.0})
            wandb.finish()
            os._exit(0)
        assert os.wait()[1] == 0
        wandb.finish()
        """,
        MLFLOW_TRACKING_URI=sqlite_uri,
    )
    assert named(sqlite_uri, "child").history("loss") == [(0, 1.0)]
    assert named(sqlite_uri, "parent").history("loss") == [(0, 0.0)]


def test_gradients_of_two_models_are_two_metrics(store: str) -> None:
    torch = pytest.importorskip("torch")
    models = [torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)]
    run = wandb.init(project="watched")
    wandb.watch(models, log_freq=1)
    for model in models:
        model(torch.ones(3, 2)).sum().backward()
    wandb.log({"loss": 1.0})
    keys = stored(store, run).metrics()
    assert [key for key in sorted(keys) if "weight" in key] == ["gradients/graph_1weight.norm", "gradients/weight.norm"]


def test_a_watched_gradient_that_has_no_norm_stops_no_training(store: str, warned: list[str]) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Embedding(4, 2, sparse=True)
    wandb.init(project="sparse")
    wandb.watch(model, log_freq=1)
    model(torch.tensor([1, 1])).sum().backward()
    wandb.log({"loss": 1.0})
    assert wandb.run is not None
    assert wandb.run.step == 1


def test_an_artifact_is_kept_whose_files_are_gone_and_whose_name_leads_elsewhere(store: str, warned: list[str]) -> None:
    run = wandb.init(project="kept")
    artifact = wandb.Artifact("data", metadata={"array": np.arange(2), "own": object()})
    with artifact.new_file("notes.txt") as file:
        file.write("hello")
    artifact.add_file("no/such/file")
    artifact.add(wandb.Table(["a", "a"], [[1, 2], [3]]), "rows")
    run.log_artifact(artifact)
    del artifact
    run.log_artifact(wandb.Artifact("../../out"))
    wandb.log({"loss": 1.0})
    found = stored(store, run)
    assert {"artifacts/data/notes.txt", "artifacts/data/artifact.json"} <= {*found.artifacts()}
    assert found.history("loss") == [(0, 1.0)]


def test_a_table_is_logged_as_it_was(store: str) -> None:
    run = wandb.init(project="tables")
    table = wandb.Table(columns=["a", "b"])
    table.add_data(1)
    table.add_data(1, 2, 3)
    wandb.log({"rows": table})
    table.add_data(9, 9)
    found = stored(store, run)
    content = found.client.download_artifacts(found.run_id, "media/tables/rows_0.json")
    assert Path(content).read_text() == '{"columns":["a","b"],"data":[[1,null],[1,2]]}'


def test_very_long_texts_and_names_stop_nobody(store: str) -> None:
    run = wandb.init(project="long", name="n" * 1000, notes="w" * 100_000, tags=["t" * 400, "a/../b", ""])
    wandb.log({"text": "x" * 100_000, "k" * 500: 1.0, "": 2.0, "ok": 3.0})
    run.config.update({"p" * 500: "y" * 100_000})
    found = stored(store, run)
    assert found.history("ok") == [(0, 3.0)]
    assert found.status == "FINISHED"
