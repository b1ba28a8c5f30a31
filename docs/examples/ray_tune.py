"""Ray Tune tries learning rates on handwritten digits; each trial is a run below one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ray import init, tune

from tailrace.hpo.ray import TailraceLoggerCallback


def train(config: dict[str, Any]) -> None:
    """One trial, in a process of Ray's."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import train_test_split

    x_train, x_val, y_train, y_val = train_test_split(*load_digits(return_X_y=True), random_state=0)
    model = SGDClassifier(learning_rate="constant", eta0=config["eta0"], random_state=0)
    for _ in range(5):
        model.partial_fit(x_train, y_train, classes=range(10))
        tune.report({"val_accuracy": float(model.score(x_val, y_val))})


def main(num_samples: int = 8) -> tune.ResultGrid:
    """Tunes on two CPUs of this machine."""
    init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    callback = TailraceLoggerCallback("digits-ray", metric="val_accuracy", mode="max")
    return tune.Tuner(
        train,
        param_space={"eta0": tune.loguniform(1e-4, 1.0)},
        tune_config=tune.TuneConfig(num_samples=num_samples),
        run_config=tune.RunConfig(storage_path=str(Path("ray").absolute()), callbacks=[callback], verbose=0),
    ).fit()


if __name__ == "__main__":
    best = main(*map(int, sys.argv[1:])).get_best_result("val_accuracy", "max")
    print(best.config, best.metrics["val_accuracy"])
