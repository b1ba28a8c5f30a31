"""Models to log, small ones, and a run in a store for one that is already saved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression

from tailrace_agent.ipc.records import ModelSpec, RunSpec
from tailrace_agent.sinks.mlflow import MlflowSink, open_sink

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
Y = np.array([0, 0, 1, 1])


def fitted() -> LogisticRegression:
    return LogisticRegression().fit(X, Y)


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))


class Sunk:
    """A run in a store, and a model for it."""

    def __init__(self, uri: str, saved: Path, directory: Path) -> None:
        sink = open_sink(uri, str(directory), request_timeout=30)
        assert isinstance(sink, MlflowSink)
        self.sink, self.client = sink, MlflowClient(uri)
        self.spec = ModelSpec(os.urandom(8).hex(), "m", registered_name=f"m-{os.urandom(4).hex()}", aliases=("best",))
        run = RunSpec(run=int.from_bytes(os.urandom(7), "big"), start_time=1, cwd=str(directory))
        self.run_id = sink.open_run(run, None, find_first=False).run_id
        self.files = directory / "model"
        shutil.copytree(saved, self.files)

    def log(self) -> Any:
        return self.sink.log_model(self.run_id, self.files, self.spec)

    def versions(self) -> list[Any]:
        return list(self.client.search_model_versions(f"name = '{self.spec.registered_name}'"))

    def models(self) -> list[Any]:
        return list(self.client.search_logged_models(["0"], f"source_run_id = '{self.run_id}'"))
