"""The last value of each metric: as it was at the call, apart from the training, and not without bound."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from tailrace import Tracker
from tailrace._log import last_values
from tailrace._log.last_values import MOST
from tailrace._runs.run_part import core_of


def metrics(directory: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((directory / "reports" / "metrics.json").read_text())
    return found


def test_a_value_is_kept_as_it_was_at_the_call_and_keeps_no_graph_alive(off: Tracker, tmp_path: Path) -> None:
    weight = torch.ones(1, requires_grad=True)
    with off.start_run() as run:
        tensor, array = torch.tensor(1.5), np.array([2.5])
        off.log(step=0, plain=1.0)
        for _ in range(3):
            off.log(step=1, tensor=tensor, array=array, narrow=np.float32(0.5), graph=weight * 2)
        tensor += 1
        array += 1
        assert core_of(run).latest is not None
        assert {type(value) for value in core_of(run).latest.values.values()} == {float}
    assert metrics(tmp_path) == {"plain": 1.0, "tensor": 1.5, "array": 2.5, "narrow": 0.5, "graph": 2.0}


class Lost:
    """A tensor on a device that is lost."""

    shape = ()

    def copy(self) -> object:
        raise RuntimeError("device lost")

    item = copy


Lost.__module__ = "cupy"


def test_what_a_lost_device_raises_reaches_no_training(off: Tracker, tmp_path: Path) -> None:
    with off.start_run():
        off.log(loss=Lost(), host=1.0)
        off.log(loss=Lost(), host=2.0)
    assert metrics(tmp_path) == {"host": 2.0}


def test_the_number_of_names_is_bounded(off: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with off.start_run():
        for number in range(MOST + 50):
            off.log({f"image_{number}": 1.0})
    assert len(metrics(tmp_path)) == MOST
    assert "50 values are not in metrics.json" in caplog.text


class Others:
    """What other threads do to the values, between any two instructions that look at them here."""

    def __init__(self, values: dict[Any, Any]) -> None:
        self.values, self.turns = values, 0

    def __enter__(self) -> Others:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != last_values.__file__:
            return None
        frame.f_trace_opcodes = True
        self.turns += 1
        self.values[f"other{self.turns}"] = 1.0
        self.values.pop(5, None)  # by a thread that was bad in the same way
        return self._trace


def test_threads_that_log_at_once_raise_into_nobody_and_lose_nothing(off: Tracker, tmp_path: Path) -> None:
    with off.start_run() as run:
        latest = core_of(run).latest
        assert latest is not None
        with Others(latest.values) as others:
            off.log({"bad": "no number", 5: 2, "good": 1.0}, step=0)
            known = others.turns
            found = latest.numbers()
        assert 0 < known < others.turns
        assert found.keys() >= {"good", *(f"other{turn}" for turn in range(1, known + 1))}
        assert not found.keys() & {"bad", "5"}
    assert metrics(tmp_path).keys() == {"good", *(f"other{turn + 1}" for turn in range(others.turns))}
