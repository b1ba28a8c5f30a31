"""A real training run, to look at: `python -m tailrace.demo`, or `tailrace demo`.

A small network learns scikit-learn's bundled handwritten digits, mini-batch by mini-batch. Every step logs its loss,
accuracy, learning rate and time; every epoch is measured on held-out digits; params, a report, a table and two figures
go along. Everything up to `main` is what any training script looks like.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tailrace as sdk
from tailrace_agent.settings.sources import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["main"]

_BATCH = 32
_LEARNING_RATE = 0.005
_LINES = 8  # of progress, where no bar can be drawn


def train(steps: int, show: Callable[[int, float, float], None]) -> None:
    """Trains for so many steps, logging to the active run. `show` is called with each step, its loss and accuracy."""
    from sklearn.datasets import load_digits
    from sklearn.metrics import classification_report, log_loss
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    # With seeds throughout: everybody who looks at the demo sees the same curves.
    x, x_test, y, y_test = train_test_split(digits.data / 16, digits.target, test_size=0.25, random_state=0)
    params = {"hidden": [128, 64], "batch": _BATCH, "lr": _LEARNING_RATE, "decay": "cosine", "data": {"train": len(x)}}
    sdk.log_params({"model": "MLPClassifier", "steps": steps, **params})
    model = MLPClassifier((128, 64), learning_rate_init=_LEARNING_RATE, solver="sgd", random_state=0)
    history: list[dict[str, float]] = []
    for step, (rows, epoch_ends) in enumerate(_batches(len(x), steps)):
        began = time.perf_counter()
        rate = _cosine(step, steps)
        # The first `partial_fit` makes the optimizer.
        if step:
            model._optimizer.learning_rate = rate
        model.partial_fit(x[rows], y[rows], classes=range(10))
        accuracy = float((model.predict(x[rows]) == y[rows]).mean())
        milliseconds = 1000 * (time.perf_counter() - began)
        sdk.log(step=step, loss=model.loss_, accuracy=accuracy, learning_rate=rate, batch_ms=milliseconds)
        show(step, model.loss_, accuracy)
        if epoch_ends or step == steps - 1:
            guesses = model.predict_proba(x_test)
            test = {
                "test/loss": float(log_loss(y_test, guesses, labels=range(10))),
                "test/accuracy": float((guesses.argmax(axis=1) == y_test).mean()),
            }
            sdk.log(test, step=step)
            history.append({"step": step, **test})
    found = model.predict(x_test)
    sdk.set_tag("result", f"{(found == y_test).mean():.1%} of unseen digits")
    sdk.log_text(classification_report(y_test, found), "report.txt")
    sdk.log_table({key: [entry[key] for entry in history] for key in history[0]}, "epochs.json")
    _log_figures(y_test, found, history)


def _batches(rows: int, steps: int) -> Iterator[tuple[Any, bool]]:
    """Indices of mini-batches, shuffled anew in each epoch, and whether an epoch ends with this one."""
    import numpy as np

    random = np.random.default_rng(0)
    done = 0
    while done < steps:
        order = random.permutation(rows)
        for at in range(0, rows - _BATCH + 1, _BATCH):
            yield order[at : at + _BATCH], at + 2 * _BATCH > rows
            done += 1
            if done == steps:
                return


def _cosine(step: int, steps: int) -> float:
    from math import cos, pi

    return _LEARNING_RATE * (0.05 + 0.95 * (1 + cos(pi * step / steps)) / 2)


def _log_figures(truth: Any, found: Any, history: list[dict[str, float]]) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:  # not a dependency: the run is complete without pictures
        return
    from sklearn.metrics import ConfusionMatrixDisplay

    # Not by pyplot, which would look for a display.
    figure = Figure(figsize=(6, 6))
    ConfusionMatrixDisplay.from_predictions(truth, found, ax=figure.subplots(), colorbar=False)
    sdk.log_figure(figure, "confusion.png")
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot([entry["step"] for entry in history], [entry["test/loss"] for entry in history])
    axes.set(xlabel="step", ylabel="loss on unseen digits", yscale="log")
    sdk.log_figure(figure, "loss.png")


# ── What is seen of it ───────────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """Reads the command line, trains, and prints where to look."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m tailrace.demo", description="Trains on digits, logging each step.")
    parser.add_argument("--steps", type=int, default=3000, help="training steps (default: 3000)")
    parser.add_argument("--tracking-uri", help="where to log to (default: the setting, or sqlite:///mlflow.db here)")
    given = parser.parse_args()
    if given.steps < 1:
        parser.error("--steps must be at least 1")
    try:
        import sklearn  # noqa: F401 - imported here, so that its absence is one line
    except ImportError:
        sys.exit("tailrace: the demo needs scikit-learn: pip install scikit-learn")
    if given.tracking_uri:
        sdk.set_tracking_uri(given.tracking_uri)
    elif load_settings().tracking_uri is None and any(Path().glob("mlruns/*/meta.yaml")):
        sdk.set_tracking_uri("sqlite:///mlflow.db")  # MLflow would go on with plain files, or refuse to
    sdk.set_experiment("tailrace-demo")
    try:
        with sdk.start_run(run_name=f"digits-{time.strftime('%H%M%S')}"), _Shown(given.steps) as shown:
            train(given.steps, shown.step)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as a shell reports it


class _Shown:
    """Progress: a bar on a terminal, a few lines elsewhere. Sees to it that Ctrl-C ends the run as FAILED."""

    def __init__(self, steps: int) -> None:
        self._interrupted = False
        self._handler: Any = None
        self._steps = steps
        self._every = max(1, steps // _LINES)
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Shown:
        # scikit-learn takes a KeyboardInterrupt for a wish to stop one call early, and goes on.
        self._handler = signal.signal(signal.SIGINT, self._interrupt)
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}", markup=False),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                refresh_per_second=8,
            )
            self._task = self._bar.add_task("", total=self._steps)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._handler)
        if self._bar is not None:
            self._bar.stop()

    def _interrupt(self, *_: object) -> None:
        self._interrupted = True

    def step(self, step: int, loss: float, accuracy: float) -> None:
        """One step is done."""
        if self._interrupted:
            raise KeyboardInterrupt
        if self._bar is not None:
            if step % 20 == 0 or step == self._steps - 1:
                text = f"loss {loss:.3f}  accuracy {accuracy:.0%}"
                self._bar.update(self._task, completed=step + 1, description=text)
        elif (step + 1) % self._every == 0 or step == self._steps - 1:
            print(  # noqa: T201 - a program's own output
                f"step {step + 1:,} of {self._steps:,}: loss {loss:.3f}, accuracy {accuracy:.0%}",
                file=sys.stderr,
                flush=True,
            )


if __name__ == "__main__":
    main()
