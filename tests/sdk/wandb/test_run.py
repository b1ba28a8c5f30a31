"""A script of wandb's with one line changed: what it logs is in MLflow, and what is not supported stops nobody."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

import tailrace
from helpers.sdk_tools import Store, forget, named, script
from helpers.wandb_tools import stored, wandb_to
from tailrace import wandb


def test_a_script_of_wandbs_is_in_mlflow(store: str) -> None:
    run = wandb.init(
        project="digits", name="first", id="abc123", group="g", job_type="train", tags=["a", "b"], notes="a note",
        config={"lr": 0.1, "model": {"layers": 12}},
    )  # fmt: skip
    assert wandb.run is run
    wandb.config.batch_size = 32
    wandb.config["seed"] = 7
    wandb.config.update({"lr": 0.1, "opt": "adam"})
    assert (wandb.config.lr, run.config["model"]["layers"], wandb.config.get("nothing", 5)) == (0.1, 12, 5)
    for step in range(5):
        wandb.log({"train": {"loss": 1.0 / (step + 1)}, "acc": step})
    wandb.log({"note": "converged", "nothing": None})
    run.summary["best"] = 0.9
    assert (run.step, run.summary["acc"], wandb.summary["best"]) == (6, 4, 0.9)
    found = stored(store, run)
    assert found.params == {"lr": "0.1", "model.layers": "12", "batch_size": "32", "seed": "7", "opt": "adam"}
    assert found.history("train.loss") == [(step, 1.0 / (step + 1)) for step in range(5)]
    assert found.history("best") == [(6, 0.9)]
    expected = {
        "a": "true", "b": "true", "note": "converged", "mlflow.note.content": "a note",
        "wandb.id": "abc123", "wandb.group": "g", "wandb.job_type": "train", "mlflow.runName": "first",
    }  # fmt: skip
    assert expected.items() <= found.tags.items()
    assert found.status == "FINISHED"
    assert found.client.get_experiment(found.run.info.experiment_id).name == "digits"


def test_metrics_with_a_step_and_a_summary_of_their_own(store: str) -> None:
    run = wandb.init(project="defined")
    wandb.define_metric("epoch")
    wandb.define_metric("val/*", step_metric="epoch", summary="min,max")
    for epoch in range(3):
        for _ in range(4):
            wandb.log({"loss": 1.0})
        wandb.log({"val/loss": 3.0 - epoch, "epoch": epoch})
    found = stored(store, run)
    assert found.history("val/loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert len(found.history("loss")) == 12
    assert [value for _, value in found.history("val/loss.min") + found.history("val/loss.max")] == [1.0, 3.0]


@pytest.mark.slow
def test_a_run_is_gone_on_with_by_its_id(store: str) -> None:
    first = wandb.init(project="resumed", id="same", config={"lr": 1})
    for _ in range(3):
        wandb.log({"loss": 1.0})
    run_id = first.tracked.run_id  # type: ignore[union-attr]
    wandb.finish()
    again = wandb.init(project="resumed", id="same", resume="allow")
    assert (again.resumed, again.step) == (True, 3)
    wandb.log({"loss": 2.0})
    assert again.tracked is not None
    assert again.tracked.run_id == run_id
    wandb.finish()
    assert Store(store, run_id).history("loss") == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]
    other = wandb.init(project="resumed", id="same", resume="never")
    assert other.resumed is False


@pytest.mark.slow
def test_a_step_of_its_own_is_no_step_of_wandbs_for_who_goes_on(store: str) -> None:
    first = wandb.init(project="resumed", id="own", resume="allow")
    wandb.define_metric("samples")
    wandb.define_metric("train/*", step_metric="samples")
    for step in range(3):
        wandb.log({"samples": 64_000 * (step + 1), "train/loss": 1.0 - step / 10}, step=step)
    first.summary["best"] = 0.8
    wandb.finish()

    again = wandb.init(project="resumed", id="own", resume="allow")
    assert (again.step, again.summary["train/loss"], again.summary.get("best")) == (3, 0.8, 0.8)
    wandb.define_metric("train/*", step_metric="samples")
    wandb.log({"samples": 256_000, "train/loss": 0.5}, step=5)
    run = stored(store, again)
    assert run.history("train/loss")[-1] == (256_000, 0.5)


def test_a_run_that_is_to_be_resumed_and_was_never_begun_begins_without_a_word(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = wandb.init(project="one that there is not yet", id="first", resume="allow")
    assert run.resumed is False
    wandb.finish()
    assert [message for message in caplog.messages if "search" in message] == []


def test_a_program_that_begins_anew_finds_its_run_with_resume_auto(store: str) -> None:
    first = wandb.init(resume=True)
    assert first.tracked is not None
    first.tracked.log(step=0, loss=1.0)
    run_id = first.tracked.run_id
    first.tracked.end("FAILED")  # as by a crash: `finish` was not called
    wandb._current = None  # type: ignore[attr-defined]
    again = wandb.init(resume="auto")
    assert (again.id, again.tracked and again.tracked.run_id, again.step) == (first.id, run_id, 1)
    wandb.finish()
    assert wandb.init(resume="auto").id != first.id, "a run that has finished is not gone on with"


@pytest.mark.parametrize("how", ["mode", "variable", "WANDB_DISABLED"])
def test_a_disabled_run_takes_everything_and_keeps_nothing(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    if how == "variable":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    elif how == "WANDB_DISABLED":
        monkeypatch.setenv("WANDB_DISABLED", "true")
    run = wandb.init(mode="disabled" if how == "mode" else None, config={"a": 1})
    wandb.log({"loss": 1.0, "image": wandb.Image(np.zeros((2, 2)))})
    run.alert("title")
    run.log_artifact(str(tmp_path))
    assert (run.disabled, run.summary["loss"], run.config.a, run.url, run.step) == (True, 1.0, 1, None, 1)
    wandb.finish()
    assert tailrace.active_run() is None


@pytest.mark.slow
def test_offline_goes_to_a_database_here_where_the_store_is_a_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with wandb_to("http://127.0.0.1:9", monkeypatch):
        run = wandb.init(mode="offline", dir=tmp_path)
        wandb.log({"loss": 1.0})
        found = stored(f"sqlite:///{tmp_path / 'wandb' / 'offline.db'}", run)
    assert found.history("loss") == [(0, 1.0)]


def test_what_is_not_supported_says_so_once_and_stops_nobody(store: str, warned: list[str]) -> None:
    wandb.log({"too": "early"})
    run = wandb.init(project="odd", monitor_gym=True, no_such_argument=3)
    for _ in range(2):
        wandb.log({"video": wandb.Video(np.zeros((2, 3, 4, 4)))})
        wandb.log({"chart": wandb.plot.line_series([1], [2])})
        wandb.Api().runs("a/b")[0].history()
        run.log_code(".")
        run.no_such_call(1)
        wandb.log([1, 2])
        wandb.log({1: 2.0})
        wandb.save("no/such/file")
        run.log_artifact("no/such/file")
        run.config.update(3)
        wandb.log({"loss": 1.0}, step="three")
        run.define_metric(None)
    wandb.sweep({})
    run.finish()
    run.finish()
    wandb.log({"after": 1.0})
    text = "\n".join(warned)
    for what in (
        "before wandb.init",
        "Video",
        "wandb.plot",
        "wandb.Api",
        "log_code",
        "no_such_call",
        "not list",
        "hpo",
    ):
        assert what in text
        assert len([line for line in warned if what in line]) <= 2, what


@pytest.mark.slow
def test_a_row_that_was_never_committed_is_logged_when_the_program_ends(sqlite_uri: str, tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import tailrace.wandb as wandb
        wandb.init(project="left", name="left")
        wandb.log({"loss": 1.0}, commit=False)
        """,
        MLFLOW_TRACKING_URI=sqlite_uri,
    )
    found = named(sqlite_uri, "left")
    assert (found.history("loss"), found.status) == ([(0, 1.0)], "FINISHED")


@pytest.mark.slow
def test_every_row_that_was_logged_outlives_a_kill(sqlite_uri: str, tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        import os
        import tailrace.wandb as wandb
        wandb.init(project="killed", name="killed", config={"lr": 0.1})
        for step in range(100):
            wandb.log({"train": {"loss": step / 2}}, step=step)
        os.kill(os.getpid(), 9)
        """,
        check=False,
        MLFLOW_TRACKING_URI=sqlite_uri,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    forget(tmp_path)
    found = named(sqlite_uri, "killed")
    assert found.history("train.loss") == [(step, step / 2) for step in range(100)]
    assert (found.params, found.status) == ({"lr": "0.1"}, "KILLED")
