"""A script for each framework, as its own documentation has them for MLflow, and the same with one line changed.

What MLflow has of both is held against each other: metrics by key with their steps, params, tags, status.
"""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from helpers.databases import copy_database
from helpers.sdk_tools import Store, forget, named, script

os.environ.setdefault("KERAS_BACKEND", "torch")
pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

INSTALLED = "import tailrace; tailrace.install()"
PLAIN = "pass"

LIGHTNING = """
import os
import lightning
import torch

{line}
from lightning.pytorch.loggers import MLFlowLogger


class LitAutoEncoder(lightning.LightningModule):
    def __init__(self, hidden=3):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = torch.nn.Linear(8, hidden)
        self.decoder = torch.nn.Linear(hidden, 8)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        loss = torch.nn.functional.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        (x,) = batch
        self.log("val_loss", torch.nn.functional.mse_loss(self.decoder(self.encoder(x)), x))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(64, 8)), batch_size=8)
logger = {logger}
trainer = lightning.Trainer(max_epochs=2, logger=logger, log_every_n_steps=1, accelerator="cpu",
                            enable_progress_bar=False, enable_checkpointing=False)
trainer.fit(LitAutoEncoder(), loader, loader)
trainer.test(LitAutoEncoder(), loader, verbose=False)
"""
LIGHTNINGS_OWN = 'MLFlowLogger("docs", run_name="run", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])'
TAILRACES = "__import__('tailrace.integrations.lightning').integrations.lightning.TailraceLogger('run')"

TRANSFORMERS = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

{line}
model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1))
words = [{{"input_ids": torch.arange(4) + n, "labels": torch.arange(4) + n}} for n in range(8)]
arguments = TrainingArguments("out", run_name="run", max_steps=4, logging_steps=1, eval_strategy="steps", eval_steps=2,
                              save_strategy="no", use_cpu=True, report_to="{tracker}")
trainer = Trainer(model, arguments, train_dataset=words, eval_dataset=words)
trainer.train()
trainer.evaluate()
import mlflow

mlflow.flush_async_logging()  # else plain MLflow loses the last row, now and then
"""

ACCELERATE = """
import torch
from accelerate import Accelerator

{line}
accelerator = Accelerator(cpu=True, log_with={tracker})
accelerator.init_trackers("docs", config={{"num_iterations": 5, "learning_rate": 1e-2, "loss_function": "mse"}})
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(20, 2), torch.rand(20, 1)), batch_size=4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for step, (x, y) in enumerate(loader):
    loss = torch.nn.functional.mse_loss(model(x), y)
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    accelerator.log({{"training_loss": loss.item()}}, step=step)
accelerator.end_training()
"""

KERAS = """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras
import mlflow
import mlflow.keras
import numpy as np

{line}
x = np.linspace(0, 1, 32)[:, None]
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile("sgd", "mse", metrics=["mae"])
with mlflow.start_run(run_name="run") as run:
    model.fit(x, 2 * x, epochs=3, batch_size=8, verbose=0, callbacks=[mlflow.keras.MlflowCallback(run)])
"""

XGBOOST = """
import mlflow
import xgboost
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

{line}
mlflow.xgboost.autolog(log_models=False, log_datasets=False)
x, x_test, y, y_test = train_test_split(*load_iris(return_X_y=True), random_state=42)
train, test = xgboost.DMatrix(x, y), xgboost.DMatrix(x_test, y_test)
with mlflow.start_run(run_name="run"):
    params = {{"objective": "multi:softprob", "num_class": 3, "eta": 0.3, "eval_metric": "mlogloss", "seed": 42}}
    model = xgboost.train(params, train, 10, evals=[(train, "train"), (test, "test")], verbose_eval=False,
                          early_stopping_rounds=3)
    mlflow.log_metrics({{"trees": model.num_boosted_rounds()}})
"""

LIGHTGBM = """
import lightgbm
import mlflow
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

{line}
mlflow.lightgbm.autolog(log_models=False, log_datasets=False)
x, x_test, y, y_test = train_test_split(*load_iris(return_X_y=True), random_state=42)
train = lightgbm.Dataset(x, y)
with mlflow.start_run(run_name="run"):
    params = {{"objective": "multiclass", "num_class": 3, "metric": "multi_logloss", "seed": 42, "verbose": -1}}
    test = lightgbm.Dataset(x_test, y_test)
    lightgbm.train(params, train, 10, valid_sets=[train, test], valid_names=["train", "test"])
"""

CATBOOST = """
import mlflow
from catboost import CatBoostClassifier
from sklearn.datasets import load_breast_cancer

{line}
x, y = load_breast_cancer(return_X_y=True)
with mlflow.start_run(run_name="run"):
    model = CatBoostClassifier(iterations=10, random_seed=0, verbose=False, allow_writing_files=False)
    model.fit(x[:400], y[:400], eval_set=(x[400:], y[400:]))
    mlflow.log_params(model.get_params())
    for data, measured in model.get_evals_result().items():
        for metric, values in measured.items():
            for step, value in enumerate(values):
                mlflow.log_metric(f"{{data}}_{{metric}}", value, step=step)
    mlflow.set_tag("best_iteration", model.get_best_iteration())
"""

SKLEARN = """
import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

{line}
mlflow.sklearn.autolog(log_models=False, log_datasets=False)
with mlflow.start_run(run_name="run"):
    search = GridSearchCV(LogisticRegression(max_iter=300), {{"C": [0.1, 1.0]}}, cv=3)
    search.fit(*load_iris(return_X_y=True))
"""

OPTUNA = """
import os
import optuna
from optuna_integration import MLflowCallback

{line}
def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    if trial.number == 2:
        raise optuna.TrialPruned
    return (x - 2) ** 2


callback = MLflowCallback(tracking_uri=os.environ["MLFLOW_TRACKING_URI"], metric_name="square")
study = optuna.create_study(study_name="docs", sampler=optuna.samplers.RandomSampler(seed=0))
study.optimize(objective, n_trials=4, callbacks=[callback])
"""

RAY_TUNE = """
import os
import mlflow
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

{line}
def train(config):
    for epoch in range(3):
        tune.report({{"loss": config["x"] + 1 / (epoch + 1)}})


ray.init(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
callback = MLflowLoggerCallback(tracking_uri=os.environ["MLFLOW_TRACKING_URI"], experiment_name="docs")
run_config = tune.RunConfig(storage_path=os.path.abspath("ray"), callbacks=[callback], verbose=0)
tune.Tuner(train, param_space={{"x": tune.grid_search([0, 1])}}, run_config=run_config).fit()
"""

RAY_TRAIN = """
import os
import mlflow
import ray
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

{line}
def train(config):
    torch.manual_seed(ray.train.get_context().get_world_rank())
    model = ray.train.torch.prepare_model(torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    if ray.train.get_context().get_world_rank() == 0:
        mlflow.set_tracking_uri(config["tracking_uri"])
        mlflow.set_experiment("docs")
        mlflow.start_run(run_name="run")
        mlflow.log_params(config)
    for epoch in range(3):
        loss = torch.nn.functional.mse_loss(model(torch.ones(4, 2)), torch.ones(4, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ray.train.report({{"loss": loss.item()}})
        if ray.train.get_context().get_world_rank() == 0:
            mlflow.log_metric("loss", loss.item(), step=epoch)
    if ray.train.get_context().get_world_rank() == 0:
        mlflow.end_run()


ray.init(num_cpus=3, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
config = {{"lr": 0.1, "tracking_uri": os.environ["MLFLOW_TRACKING_URI"]}}
run_config = ray.train.RunConfig(storage_path=os.path.abspath("ray"))
TorchTrainer(train, train_loop_config=config, scaling_config=ScalingConfig(num_workers=2), run_config=run_config).fit()
"""

SCRIPTS = {
    "lightning": LIGHTNING.replace("{logger}", LIGHTNINGS_OWN),
    "transformers": TRANSFORMERS.replace("{tracker}", "mlflow"),
    "accelerate": ACCELERATE.replace("{tracker}", '"mlflow"'),
    "keras": KERAS,
    "xgboost": XGBOOST,
    "lightgbm": LIGHTGBM,
    "catboost": CATBOOST,
    "sklearn": SKLEARN,
    "optuna_integration": OPTUNA,
    "ray.tune": RAY_TUNE,
    "ray.train": RAY_TRAIN,
}
OWN = {
    "lightning": (LIGHTNING.replace("{logger}", TAILRACES), "pass"),
    "transformers": (TRANSFORMERS.replace("{tracker}", "tailrace"), "import tailrace.integrations.transformers"),
    "accelerate": (
        ACCELERATE.replace("{tracker}", "TailraceTracker('run')"),
        "from tailrace.integrations.accelerate import TailraceTracker",
    ),
}
"""Frameworks of which tailrace's own loggers use the names that those for MLflow use: the script, and its line."""


_EACH_TIME = (
    *("tailrace.", "mlflow.source", "mlflow.runName", "mlflow.parentRunId"),
    *("datetime_", "output_dir", "logging_dir", "trial_name", "tracking_uri"),
)
"""Params and tags with a time, a path or an id, and tailrace's own."""
_OF_SOME_RUNS = "trial_id"
"""Ray logs what `float()` takes: of random ids as `13e30_00000` that is every sixth."""


def _stored(code: str, line: str, template: Path, directory: Path) -> list[dict[str, Any]]:
    """Runs a script; what MLflow has of its runs then."""
    directory.mkdir()
    uri = f"sqlite:///{copy_database(template, directory)}"
    code = (
        f"import random; random.seed(0)\nimport numpy; numpy.random.seed(0)\n{textwrap.dedent(code).format(line=line)}"
    )
    script(directory, code, MLFLOW_TRACKING_URI=uri, PYTHONPATH=os.pathsep.join(sys.path), HF_HUB_OFFLINE="1")
    forget(directory)
    client = MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    found = client.search_runs(experiments, run_view_type=ViewType.ALL)
    return sorted((_shown(Store(uri, run.info.run_id)) for run in found), key=repr)


def _shown(store: Store) -> dict[str, Any]:
    return {
        "metrics": {
            key: [step for step, _ in points] for key, points in sorted(store.metrics().items()) if key != _OF_SOME_RUNS
        },
        "params": {key: value for key, value in sorted(store.params.items()) if key not in _EACH_TIME},
        "tags": {key: value for key, value in sorted(store.tags.items()) if not key.startswith(_EACH_TIME)},
        "status": store.status,
    }


@pytest.mark.parametrize("framework", SCRIPTS)
def test_a_script_leaves_the_same_with_its_one_line(framework: str, sqlite_template: Path, tmp_path: Path) -> None:
    pytest.importorskip(framework)
    plain = _stored(SCRIPTS[framework], PLAIN, sqlite_template, tmp_path / "plain")
    assert plain
    assert any(run["metrics"] for run in plain)
    assert _stored(SCRIPTS[framework], INSTALLED, sqlite_template, tmp_path / "installed") == plain
    if framework in OWN:
        own = _stored(*OWN[framework], sqlite_template, tmp_path / "own")
        assert len(own) == 1
        # Transformers' own evaluates into a run of its own, once its training is over.
        assert _steps(own) == _steps(plain)
        assert {run["status"] for run in own} == {run["status"] for run in plain}


def _steps(stored: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The steps of each metric in all runs, each once: of two that are equal in all, time too, MLflow keeps one."""
    names = sorted({name for run in stored for name in run["metrics"]})
    return {name: sorted({step for run in stored for step in run["metrics"].get(name, ())}) for name in names}


TENSORBOARD = """
import torch
{line}
torch.manual_seed(0)
writer = SummaryWriter("runs/docs")
x = torch.arange(-5, 5, 0.1).view(-1, 1)
y = -5 * x + 0.1 * torch.randn(x.size())
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(10):
    loss = torch.nn.functional.mse_loss(model(x), y)
    writer.add_scalar("Loss/train", loss, epoch)
    writer.add_scalars("weights", {{"w": model.weight.detach(), "b": model.bias.detach()}}, epoch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
writer.add_hparams({{"lr": 0.1, "bsize": 100}}, {{"hparam/accuracy": 0.5, "hparam/loss": loss.item()}})
writer.flush()
writer.close()
"""

CLU = """
import numpy as np
from clu import metric_writers, values

{line}
with metric_writers.ensure_flushes(writer):
    writer.write_hparams({{"learning_rate": 0.1, "batch_size": 8}})
    for step in range(1, 11):
        writer.write_scalars(step, {{"loss": 1 / step, "accuracy": np.float32(step / 10)}})
        metric_writers.write_values(writer, step, {{"lr": values.Scalar(0.1 / step)}})
"""

WRITERS = "writer = metric_writers.MultiWriter([metric_writers.LoggingWriter(), {one}])"
EVENTS = {
    "tensorboard": (
        TENSORBOARD,
        "from torch.utils.tensorboard import SummaryWriter",
        "from tailrace.tensorboard import SummaryWriter",
    ),
    "clu.metric_writers": (
        CLU,
        WRITERS.replace("{one}", "metric_writers.SummaryWriter('runs')"),
        "from tailrace.integrations.clu import MetricWriter; " + WRITERS.replace("{one}", "MetricWriter('docs')"),
    ),
}
"""Scripts that write event files: the script, its line, and the one that stands for it."""


@pytest.mark.parametrize("framework", EVENTS)
def test_a_script_that_writes_event_files_leaves_its_scalars_in_mlflow(
    framework: str, sqlite_template: Path, tmp_path: Path
) -> None:
    pytest.importorskip(framework, exc_type=ImportError)
    pytest.importorskip("tensorboard")
    code, theirs, ours = EVENTS[framework]
    places = os.pathsep.join(sys.path)
    script(tmp_path, code.format(line=theirs), PYTHONPATH=places)
    written = _scalars(tmp_path)
    assert len(written) > 2
    (tmp_path / "ours").mkdir()
    uri = f"sqlite:///{copy_database(sqlite_template, tmp_path)}"
    script(tmp_path / "ours", code.format(line=ours), MLFLOW_TRACKING_URI=uri, PYTHONPATH=places)
    forget(tmp_path / "ours")
    run = named(uri, "docs")
    stored = {key: [(step, pytest.approx(value)) for step, value in points] for key, points in run.metrics().items()}
    assert written == stored
    assert run.status == "FINISHED"
    assert "0.1" in run.params.values()


def _scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What the event files in a directory have, by name: that of a writer of its own stands before its tag."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.util import tensor_util

    found = EventMultiplexer().AddRunsFromDirectory(str(directory)).Reload()
    scalars = {}
    for run, tags in found.Runs().items():
        for tag in tags["scalars"]:
            # torch's `add_scalars` writes each by a writer of its own, whose directory is named after both.
            own = tag.replace("/", "_") + "_"
            name = f"{tag}/{run.rpartition(own)[2]}" if own in run else tag
            scalars[name] = [(event.step, event.value) for event in found.Scalars(run, tag)]
        for tag in tags["tensors"]:
            if found.SummaryMetadata(run, tag).plugin_data.plugin_name == "scalars":
                events = found.Tensors(run, tag)
                scalars[tag] = [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events]
    return scalars
