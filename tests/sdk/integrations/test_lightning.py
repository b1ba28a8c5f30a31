"""`integrations/lightning`: what Lightning's own trainer and Fabric log, in MLflow."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store, eventually, forget, named, said
from tailrace import Tracker

pytestmark = [pytest.mark.services, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
lightning = pytest.importorskip("lightning")

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from tailrace.integrations.lightning import TailraceLogger  # noqa: E402


class Line(lightning.LightningModule):  # type: ignore[misc,name-defined]
    """Fits a line; may fail at a step."""

    def __init__(self, lr: float = 0.1, fails_at: int | None = None, error: type[BaseException] = ValueError) -> None:
        super().__init__()
        self.save_hyperparameters("lr")
        self.layer = nn.Linear(1, 1)
        self._fails_at, self._error = fails_at, error

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step == self._fails_at:
            raise self._error("it diverges")
        loss = ((self.layer(batch[0]) - batch[1]) ** 2).mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", ((self.layer(batch[0]) - batch[1]) ** 2).mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", ((self.layer(batch[0]) - batch[1]) ** 2).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


def loader() -> Any:
    x = torch.linspace(0, 1, 40)[:, None]
    return DataLoader(TensorDataset(x, 2 * x + 1), batch_size=8)


def trainer(logger: Any, folder: Path, **options: Any) -> Any:
    given = {"max_epochs": 2, "log_every_n_steps": 1, "enable_checkpointing": False, **options}
    return lightning.Trainer(
        accelerator="cpu",
        logger=logger,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **given,
    )


def test_a_fit_and_a_test_are_one_run_with_steps_params_and_epochs(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = trainer(TailraceLogger("line", tracker=sdk), tmp_path)
    training.fit(model := Line(), loader(), loader())
    training.test(model, loader())
    sdk.flush()
    store = eventually(lambda: (found := named(sqlite_uri, "line")).history("test_loss") and found)
    assert store.status == "FINISHED"
    assert store.params["lr"] == "0.1"
    assert [step for step, _ in store.history("train_loss")] == list(range(10))
    assert [step for step, _ in store.history("val_loss")] == [4, 9]
    assert len(store.history("test_loss")) == 1
    assert said(caplog) == []


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_training_that_fails_is_a_run_that_says_why(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path, error: type[BaseException], status: str
) -> None:
    training = trainer(TailraceLogger("failing", tracker=sdk), tmp_path)
    with pytest.raises((error, SystemExit)):
        training.fit(Line(fails_at=3, error=error), loader())
    store = named(sqlite_uri, "failing")
    assert (store.status, store.tags["error.type"]) == (status, error.__name__)
    assert [step for step, _ in store.history("train_loss")] == [0, 1, 2]


def test_a_fit_whose_run_is_asked_to_stop_ends_with_the_batch(sdk: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    asked = iter([False, False])
    with sdk.start_run(run_name="asked") as run:
        run.__dict__["should_stop"] = lambda: next(asked, True)
        fitted = trainer(TailraceLogger(tracker=run), tmp_path, max_epochs=50)
        fitted.fit(Line(), loader(), loader())
        assert fitted.global_step == 3
        fitted.fit(Line(), loader())  # it would end with its first batch, too, and has no second button
    assert sum(type(each).__name__ == "_StopButton" for each in fitted.callbacks) == 1
    store = named(sqlite_uri, "asked")
    assert store.status == "FINISHED"
    assert len(store.history("val_loss")) == 1  # the epoch that was cut is validated, as after early stopping


def test_an_active_run_is_joined_and_checkpoints_are_artifacts(sdk: Tracker, sqlite_uri: str, tmp_path: Path) -> None:
    logger = TailraceLogger(tracker=sdk, prefix="net", log_checkpoints=True, save_dir=tmp_path / "saved")
    with sdk.start_run(run_name="outer") as run:
        trainer(logger, tmp_path, enable_checkpointing=True).fit(Line(), loader())
        assert run.status == "RUNNING"
    store = named(sqlite_uri, "outer")
    assert len(store.history("net/train_loss")) == 10
    assert store.artifacts() == ["checkpoints/epoch=1-step=10.ckpt"]
    assert list((tmp_path / "saved" / "tailrace" / run.id / "checkpoints").iterdir())


def test_each_checkpoint_is_an_artifact_as_it_was_when_it_was_saved(
    sdk: Tracker, sqlite_uri: str, tmp_path: Path
) -> None:
    callback = lightning.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=5, filename="{step}")
    logger = TailraceLogger("all", tracker=sdk, log_checkpoints="all")
    trainer(logger, tmp_path, enable_checkpointing=True, callbacks=[callback]).fit(Line(), loader())
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=10.ckpt"]
    assert named(sqlite_uri, "all").artifacts() == ["checkpoints/step=10.ckpt", "checkpoints/step=5.ckpt"]


def test_fabric_logs_by_it_too_and_tensors_are_taken_as_they_are(sdk: Tracker, sqlite_uri: str) -> None:
    logger = TailraceLogger("fabric", tracker=sdk)
    fabric = lightning.Fabric(accelerator="cpu", loggers=[logger])
    fabric.log("loss", torch.tensor(0.5), step=3)
    logger.log_metrics({"acc": torch.tensor([0.75])}, step=3)
    logger.log_hyperparams({"model": {"layers": 2}}, metrics={"best": 1.0})
    logger.experiment.log({"own": 1.0}, step=4)
    logger.finalize("success")
    store = named(sqlite_uri, "fabric")
    assert store.metrics() == {"loss": [(3, 0.5)], "acc": [(3, 0.75)], "best": [(0, 1.0)], "own": [(4, 1.0)]}
    assert store.params == {"model.layers": "2"}


PROGRAM = """
import os, sys, torch
from pathlib import Path
sys.path[:0] = {paths!r}
from helpers_line import Line, loader, trainer
from tailrace.integrations.lightning import TailraceLogger
import lightning

class Noting(lightning.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        # Lightning's logger has been called by then.
        os.write(1, f"{{trainer.global_step - 1}}\\n".encode())

logger = TailraceLogger("{name}")
trainer(logger, Path("."), max_epochs={epochs}, callbacks=[Noting()], **{options}).fit(Line(), loader())
"""


def program(folder: Path, uri: str, **given: Any) -> subprocess.Popen[str]:
    """A script of its own with the model of this file."""
    source = Path(__file__).read_text(encoding="utf-8")
    lines = source[source.index("class Line(") : source.index("def test_a_fit_and")]
    head = "from __future__ import annotations\nimport lightning, torch\nfrom pathlib import Path\n"
    head += "from typing import Any\nfrom torch import nn\nfrom torch.utils.data import DataLoader, TensorDataset\n\n"
    (folder / "helpers_line.py").write_text(head + lines)
    code = PROGRAM.format(paths=[str(folder), *sys.path], **given)
    (folder / "train.py").write_text(textwrap.dedent(code))
    environ = {**os.environ, "TAILRACE_DIR": str(folder / "tailrace"), "TAILRACE_TRACKING_URI": uri}
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, str(folder / "train.py")],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_kill_in_mid_training_loses_no_step_and_the_run_is_killed(sqlite_uri: str, tmp_path: Path) -> None:
    with program(tmp_path, sqlite_uri, name="killed", epochs=100_000, options={}) as process:
        try:
            assert process.stdout is not None
            first = [process.stdout.readline() for _ in range(60)]
        finally:
            process.kill()
        rest = process.stdout.read().split()
        assert first[-1], process.stderr and process.stderr.read()
    noted = int(rest[-1] if rest else first[-1])
    # It is killed before MLflow has heard of the run.
    eventually(lambda: MlflowClient(sqlite_uri).search_runs(["0"], "attributes.status = 'KILLED'"))
    store = named(sqlite_uri, "killed")
    steps = [step for step, _ in store.history("train_loss")]
    # Lightning calls its loggers after its callbacks, which note the step: the last one may not have been logged.
    assert steps[:noted] == list(range(noted))
    assert len(steps) - noted <= 2, "a step was logged, and killed before it was noted"
    forget(tmp_path)


def test_of_two_processes_the_first_logs_and_it_is_one_run(sqlite_uri: str, tmp_path: Path) -> None:
    options = {"devices": 2, "strategy": "ddp"}
    with program(tmp_path, sqlite_uri, name="ddp", epochs=2, options=options) as process:
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    forget(tmp_path)
    store = Store(sqlite_uri, named(sqlite_uri, "ddp").run_id)  # the one run of that name
    assert store.status == "FINISHED"
    assert [step for step, _ in store.history("train_loss")] == list(range(6))


def test_two_processes_of_a_run_that_is_asked_to_stop_end_with_the_same_epoch(sqlite_uri: str, tmp_path: Path) -> None:
    options = {"devices": 2, "strategy": "ddp"}
    with program(tmp_path, sqlite_uri, name="asked", epochs=100_000, options=options) as process:
        client = MlflowClient(sqlite_uri)
        (found,) = eventually(lambda: client.search_runs(["0"], "attributes.run_name = 'asked'"), timeout=200)
        client.set_tag(found.info.run_id, "tailrace.stop", "enough")
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    forget(tmp_path)
    store = Store(sqlite_uri, found.info.run_id)
    assert store.status == "FINISHED"
    assert "enough" in store.tags["tailrace.stopped_by"]
