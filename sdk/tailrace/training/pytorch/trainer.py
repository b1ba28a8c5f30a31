"""A loop for PyTorch that is tracked by itself, and goes on where a crash has ended it."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from tailrace.training.pytorch import checkpoints, logged_steps
from tailrace.training.pytorch.course import Course
from tailrace.training.pytorch.loop import Loop
from tailrace.training.pytorch.monitor import Monitor
from tailrace.training.pytorch.progress import Progress
from tailrace.training.pytorch.ranks import Ranks, job_key, joined_ranks
from tailrace.training.pytorch.recipe import Precision, Recipe
from tailrace.training.pytorch.resumption import find_resumed
from tailrace.training.pytorch.scores import mode_of
from tailrace.training.result import TrainingResult
from tailrace.training.runs.run_log import default_tracker
from tailrace.training.runs.tracked_run import Resumed, TrackedRun, entered, mlflows_run
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from tailrace.protocol import TrackerLike
    from tailrace.training.pytorch.callbacks import Callback

__all__ = ["Trainer"]


class Trainer:
    """Trains a PyTorch model, validates it after each epoch, and logs both.

    Inside of `with tailrace.start_run(…)` or `with mlflow.start_run(…)` it logs to that run, else to one of its own.
    Each step is logged as `train/loss_step`, `train/accuracy_step`, `train/learning_rate`, `train/batch_time_seconds`,
    `train/data_wait_seconds`, `train/samples_per_second`; each epoch as `epoch/train_loss`, `epoch/val_loss`, …; the
    end as `final/best_<monitor>`, `final/best_epoch`, `final/total_epochs`, `final/total_steps`, `final/early_stopped`.
    Checkpoints and the configuration are artifacts.

    Under `torchrun` all processes train together, and the first one logs: see docs/training.md.

    Args:
        model: The module; it is moved to the device.
        train_loader: A `DataLoader`, or anything that yields `(inputs, targets)`, several inputs before the targets, or
            a mapping with `labels`, `targets` or the like.
        val_loader: The same for validation; None: none.
        optimizer: Of the model's parameters.
        criterion: Takes outputs and targets, and gives the loss, the mean over a batch, of shape ().
        device: `auto` (CUDA, then MPS, then the CPU), or as torch names it.
        num_epochs: How often it goes over the training data.
        logging_steps: Each how-manieth step is logged.
        log_system_metrics: Whether CPU, memory and GPUs are sampled in the background.
        system_metrics_interval: Seconds between two samples.
        scheduler: Of torch's; steps once an epoch, `OneCycleLR` and `CyclicLR` with each step of the optimizer.
        metrics: Names (`accuracy`, `f1_macro`, `auroc`, `rmse`, …), or by name torchmetrics' metrics or functions of
            `(outputs, targets)`. None: the accuracy, where targets are classes.
        monitor: The metric that decides which epoch is the best: `val_loss`, `val_f1_macro`, `train_loss`, … Without a
            `val_loader`, `val_loss` means `train_loss`.
        mode: `min`, `max`, or `auto`: as a metric of torchmetrics says of itself, else by the metric's name; an error
            where that does not say it.
        early_stopping_patience: Epochs without an improvement after which it stops; None: never.
        min_delta: What counts as an improvement.
        checkpoint_dir: Where checkpoints are kept; None: nowhere but in the run's artifacts.
        resume_from: A checkpoint, its directory, or `auto`: the last one in `checkpoint_dir`, if there is one. Training
            goes on in the same run of MLflow; steps that the run has already are trained again, and not logged twice.
        accumulate: Batches for each step of the optimizer.
        max_grad_norm: Gradients are clipped to it.
        precision: `32`, `bf16` or `fp16` (autocast, with a gradient scaler for `fp16`).
        compile: Whether the model goes through `torch.compile`.
        seed: Of Python's, NumPy's and torch's random numbers; None leaves them alone.
        callbacks: See `Callback`.
        tracker: Where everything goes; tailrace's own by default.
        log_model: Whether the model, with the weights of its best epoch, becomes an artifact.
        registered_model_name: Registers it under this name, too.
        input_example: A small input, for the model's signature; by default the first sample of the data.
        progress: Whether progress is shown on stderr, in a notebook below the cell.

    Raises:
        CallError: An argument can never work; nothing has been started.

    Thread safety: one thread.

    Example:
        >>> trainer = Trainer(model, train_loader, val_loader, optimizer, nn.CrossEntropyLoss(), num_epochs=10)
        >>> trainer.train()["best_val_loss"]
        0.031
    """

    def __init__(  # noqa: PLR0913 - each is something that a training needs, and all but six are optional
        self,
        model: nn.Module,
        train_loader: Any,
        val_loader: Any,
        optimizer: Optimizer,
        criterion: Callable[[Any, Any], Tensor],
        device: str = "auto",
        num_epochs: int = 1,
        *,
        logging_steps: int = 1,
        log_system_metrics: bool = False,
        system_metrics_interval: float = 10,
        scheduler: Any = None,
        metrics: Mapping[str, Any] | Sequence[str] | None = None,
        monitor: str = "val_loss",
        mode: str = "auto",
        early_stopping_patience: int | None = None,
        min_delta: float = 0.0,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
        accumulate: int = 1,
        max_grad_norm: float | None = None,
        precision: Precision = "32",
        compile: bool = False,  # noqa: A002 - torch's word
        seed: int | None = None,
        callbacks: Sequence[Callback] = (),
        tracker: TrackerLike | None = None,
        log_model: bool = False,
        registered_model_name: str | None = None,
        input_example: Any = None,
        progress: bool = True,
    ) -> None:
        if val_loader is None and monitor == "val_loss":
            monitor = "train_loss"
        folder = None if checkpoint_dir is None else Path(checkpoint_dir).absolute()
        self._recipe = Recipe(
            model=model,
            train_loader=train_loader,
            val_loader=val_loader,
            optimizer=optimizer,
            criterion=criterion,
            device=device,
            num_epochs=num_epochs,
            logging_steps=logging_steps,
            scheduler=scheduler,
            metrics=metrics,
            monitor=monitor,
            accumulate=accumulate,
            max_grad_norm=max_grad_norm,
            precision=precision,
            compile=compile,
            seed=seed,
            callbacks=callbacks,
            checkpoint_dir=folder,
        )
        self._recipe.check()
        if mode == "auto":
            mode = mode_of(metrics, monitor)
        self._monitor = Monitor(monitor, mode, early_stopping_patience, min_delta)
        self._check_plateau(scheduler)
        checkpoints.to_resume(resume_from, folder)
        self._resume_from = resume_from
        interval: Any = system_metrics_interval
        if not (isinstance(interval, SupportsFloat) and float(interval) > 0):
            raise CallError(f"system_metrics_interval is {interval!r}; it is a number of seconds above 0")
        self._system = system_metrics_interval if log_system_metrics else None
        self._log_model = log_model or registered_model_name is not None
        self._registered_name, self._input_example = registered_model_name, input_example
        self._progress = progress
        self._tracker: Any = default_tracker() if tracker is None else tracker
        if not hasattr(self._tracker, "start_run"):
            raise CallError(f"tracker is {type(tracker).__name__}, which has no start_run(): see tailrace.TrackerLike")

    def train(self) -> TrainingResult:
        """Trains to the end, or until it stops getting better.

        Returns:
            The run, and the last and best values: `result["best_val_loss"]`.

        Raises:
            FloatingPointError: The loss is NaN or infinite. The last checkpoint is of the epoch before.
            CallError: The data or what the model returns cannot be used, or a checkpoint cannot be read.

        What the model, the loaders or a callback raise goes through as it is; the run says FAILED, and why.
        """
        with joined_ranks(self._recipe.device) as ranks:
            progress = Progress(self._recipe.num_epochs, wanted=self._progress and ranks.first, warns=ranks.first)
            self._seed(ranks)
            loop = Loop(self._recipe, ranks)
            monitor = replace(self._monitor)  # it may be trained again, as in the next cell of a notebook
            path = ranks.from_first(checkpoints.to_resume(self._resume_from, self._recipe.checkpoint_dir))
            state = None if path is None else checkpoints.load(path)
            resumed = None
            if state is not None:
                loop.load_state_dict(state)
            if state is not None and ranks.first:
                resumed = find_resumed(self._tracker, state.get("run"), logged_steps.read(path.parent), progress.warn)
            if state is not None:
                resumed = ranks.from_first(resumed)
            with contextlib.ExitStack() as stack:
                folder = self._recipe.checkpoint_dir
                if folder is None:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tailrace-")))
                run = stack.enter_context(self._entered(ranks, resumed))
                course = Course(self._recipe, monitor, ranks, loop, run, resumed, folder, progress)
                if state is not None:
                    course.go_on(state, path)
                if ranks.first and self._system is not None and hasattr(run.run, "system_monitor"):
                    stack.enter_context(run.run.system_monitor(interval=self._system))
                metrics = course.through()
                handle = self._model_logged(course, loop.example, run) if ranks.first and self._log_model else None
            result = TrainingResult(
                run_id=run.run_id, metrics=metrics, model_version=None if handle is None else handle.version
            )
            for callback in self._recipe.callbacks:
                callback.on_end(result)
            return result

    def _check_plateau(self, scheduler: Any) -> None:
        """One that lowers the learning rate when the metric gets better would do so all the time."""
        if type(scheduler).__name__ == "ReduceLROnPlateau" and scheduler.mode != self._monitor.mode:
            raise CallError(
                f"ReduceLROnPlateau has mode={scheduler.mode!r}, and is given {self._monitor.metric}, of which "
                f"{'more' if self._monitor.mode == 'max' else 'less'} is better: it should have "
                f"mode={self._monitor.mode!r}"
            )

    @contextlib.contextmanager
    def _entered(self, ranks: Ranks, resumed: Resumed | None) -> Iterator[TrackedRun]:
        """The run; processes other than the first one have a part in it where it is their job's, or none."""
        # One that MLflow has begun is the first one's alone.
        ours = hasattr(self._tracker, "attach_run") and mlflows_run(self._tracker) is None and job_key() is not None
        if ranks.first:
            with entered(self._tracker, run_name=None, resumed=resumed) as run:
                ranks.from_first(ours and run.enabled)
                yield run
        elif ranks.from_first(None):
            with entered(self._tracker, run_name=None, resumed=resumed) as run:
                # What becomes of its steps says the setting `ranks`: by default batch times are compared.
                yield TrackedRun(_Steps(run.run))
        else:
            yield TrackedRun(_Nothing())

    def _seed(self, ranks: Ranks) -> None:
        if self._recipe.seed is None:
            return
        seed = int(self._recipe.seed)  # NumPy's whole numbers are refused as a seed
        import torch

        # Each process draws other numbers, as for dropout; the same ones everywhere would undo it.
        random.seed(seed + ranks.rank)
        torch.manual_seed(seed + ranks.rank)
        numpy: Any = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed((seed + ranks.rank) % 2**32)

    def _model_logged(self, course: Course, example: Any, run: TrackedRun) -> Any:
        """Logs the model with the weights of its best epoch; it keeps those of the last one."""
        if not hasattr(run.target, "log_model"):
            course.progress.warn("the model is not logged: this tracker has no log_model")
            return None
        with course.best_weights():
            return run.target.log_model(
                self._recipe.model,
                "model",
                input_example=example if self._input_example is None else self._input_example,
                registered_model_name=self._registered_name,
            )


class _Steps:
    """Takes the steps of a process that is not the first one."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        self._run.log(values, step=step)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _Nothing:
    """Takes what a process that does not log has to say."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None
