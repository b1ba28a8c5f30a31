"""`integrations/transformers`: what a `Trainer` of Transformers logs, in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import eventually, named, said
from tailrace import Tracker

pytestmark = [pytest.mark.services, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
import torch  # noqa: E402

from tailrace.integrations.transformers import TailraceCallback  # noqa: E402


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Sentences of four made-up words."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, n: int) -> dict[str, Any]:
        words = torch.arange(4) + n % 8
        return {"input_ids": words, "labels": words}


def trainer(folder: Path, report_to: str = "none", **given: Any) -> Any:
    options = {
        name: given.pop(name) for name in ("save_strategy", "save_steps", "run_name", "max_steps") if name in given
    }
    config = transformers.GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "out"),
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        report_to=report_to,
        seed=0,
        per_device_train_batch_size=4,
        **{"max_steps": 4, "save_strategy": "no", **options},
    )
    model = transformers.GPT2LMHeadModel(config)
    return transformers.Trainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows(), **given)


def test_steps_arguments_the_models_configuration_and_an_evaluation_are_one_run(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = trainer(tmp_path, run_name="gpt", callbacks=[TailraceCallback(tracker=sdk)])
    training.train()
    measured = training.evaluate()
    store = eventually(lambda: (found := named(sqlite_uri, "gpt")).history("eval_loss") and found)
    assert store.status == "FINISHED"
    assert [step for step, _ in store.history("loss")] == [1, 2, 3, 4]
    assert store.history("loss") == [
        (line["step"], pytest.approx(line["loss"])) for line in training.state.log_history if "loss" in line
    ]
    assert store.history("eval_loss") == [(4, pytest.approx(measured["eval_loss"]))]
    assert (store.params["max_steps"], store.params["model.n_embd"]) == ("4", "8")
    assert not any("label2id" in name for name in store.params)
    assert said(caplog) == []


def test_report_to_tailrace_is_enough(sdk: Tracker, sqlite_uri: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tailrace.integrations.framework_run.default_tracker", lambda: sdk)
    with sdk.start_run(run_name="outer") as run:
        trainer(tmp_path, report_to="tailrace").train()
        assert run.status == "RUNNING"
    assert len(named(sqlite_uri, "outer").history("loss")) == 4


def test_checkpoints_are_artifacts_where_they_are_wanted(sdk: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    callback = TailraceCallback("saved", tracker=sdk, log_checkpoints=True, log_params=False)
    trainer(tmp_path, save_strategy="steps", save_steps=2, callbacks=[callback]).train()
    store = named(sqlite_uri, "saved")
    assert store.params == {}
    assert {name.split("/")[1] for name in store.artifacts()} == {"checkpoint-2", "checkpoint-4"}


def test_of_several_processes_the_first_logs(sdk: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    callback = TailraceCallback(tracker=sdk)
    state = transformers.TrainerState(is_world_process_zero=False)
    training = trainer(tmp_path)
    for event in (callback.on_train_begin, callback.on_save, callback.on_train_end):
        event(training.args, state, training.control, model=training.model)
    callback.on_log(training.args, state, training.control, logs={"loss": 1.0})
    assert sdk.active_run() is None


def test_a_training_whose_run_is_asked_to_stop_ends_with_the_step(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path
) -> None:
    with sdk.start_run(run_name="asked") as run:
        run.__dict__["should_stop"] = lambda: True
        training = trainer(tmp_path, max_steps=50, callbacks=[TailraceCallback(tracker=run)])
        training.train()
    assert training.state.global_step == 1
    assert named(sqlite_uri, "asked").status == "FINISHED"
