"""`integrations/clu`: a loop that takes CLU's `MetricWriter` is given tailrace's, and its run is in MLflow."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from helpers.sdk_tools import named, said
from tailrace import Tracker
from tailrace.integrations.clu import MetricWriter

INTERFACE = {
    "write_summaries": ["self", "step", "values", "metadata"],
    "write_scalars": ["self", "step", "scalars"],
    "write_images": ["self", "step", "images"],
    "write_videos": ["self", "step", "videos"],
    "write_audios": ["self", "step", "audios", "sample_rate"],
    "write_texts": ["self", "step", "texts"],
    "write_histograms": ["self", "step", "arrays", "num_buckets"],
    "write_hparams": ["self", "hparams"],
    "flush": ["self"],
    "close": ["self"],
}
"""The abstract methods of `clu.metric_writers.MetricWriter` 0.0.12, which itself needs JAX and TensorFlow."""


def test_it_has_the_calls_of_clus_interface() -> None:
    for name, arguments in INTERFACE.items():
        assert list(inspect.signature(getattr(MetricWriter, name)).parameters) == arguments, name


def test_the_interface_is_that_of_clu() -> None:
    theirs: Any = pytest.importorskip("clu.metric_writers.interface").MetricWriter
    assert {name: list(inspect.signature(getattr(theirs, name)).parameters) for name in INTERFACE} == INTERFACE
    assert theirs.__abstractmethods__ == set(INTERFACE)


def test_what_a_loop_writes_is_in_the_run(sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    writer = MetricWriter("flax", tracker=sdk)
    writer.write_hparams({"learning_rate": 0.001})
    for step in (0, 50):
        writer.write_scalars(step, {"loss": np.float32(0.5), "accuracy": np.array([0.25])})
    writer.write_texts(50, {"notes": "no augmentation"})
    writer.write_images(50, {"batch": np.zeros((2, 4, 4, 3)), "one": np.zeros((4, 4, 1))})
    writer.write_histograms(50, {"weights": np.arange(10.0)}, num_buckets={"weights": 2})
    for _ in range(2):
        writer.write_audios(50, {"voice": np.zeros((1, 8, 1))}, sample_rate=8)
        writer.write_videos(50, {"clip": np.zeros((1, 2, 4, 4, 3))})
        writer.write_summaries(50, {"other": np.zeros(2)})
        writer.write_pointcloud(50, {"points": np.zeros((1, 2, 3))})
    writer.flush()
    writer.close()
    store = named(sqlite_uri, "flax")
    assert store.metrics() == {"loss": [(0, 0.5), (50, 0.5)], "accuracy": [(0, 0.25), (50, 0.25)]}
    assert (store.status, store.params) == ("FINISHED", {"learning_rate": "0.001"})
    files = store.artifacts()
    assert {"text/notes.json", "histograms/weights.json"} <= set(files)
    assert len([name for name in files if name.startswith("images/") and name.endswith(".png")]) == 2
    assert [line.split()[1] for line in said(caplog)] == [
        "write_audios",
        "write_videos",
        "write_summaries",
        "write_pointcloud",
    ]
