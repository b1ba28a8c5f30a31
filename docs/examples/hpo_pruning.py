"""Searches how to train a small network on handwritten digits. Trials that do badly are ended by what they log."""

from __future__ import annotations

import sys
from typing import Any

from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import tailrace as sdk
from tailrace.hpo import HpoResult, OptunaRunner

X, y = load_digits(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(X / 16, y, random_state=0)

SPACE = {
    "learning_rate_init": {"type": "float", "low": 1e-4, "high": 0.3, "log": True},
    "alpha": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
    "width": {"type": "int", "low": 8, "high": 64, "step": 8},
}


def objective(_trial: Any, params: dict[str, Any]) -> float:
    """Trains for some epochs, and returns the accuracy on digits that it has not seen."""
    width = params.pop("width")
    model = MLPClassifier((width,), random_state=0, **params)
    for epoch in range(15):
        model.partial_fit(X_train, y_train, classes=range(10))
        sdk.log(step=epoch, val_loss=log_loss(y_val, model.predict_proba(X_val), labels=range(10)))
    return float(model.score(X_val, y_val))


def main(n_trials: int = 20) -> HpoResult:
    """Searches; the study lies in memory."""
    runner = OptunaRunner("digits", metric="val_accuracy", pruner="median", prune_on="val_loss", seed=0)
    return runner.optimize(objective, n_trials, SPACE)


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:])))
