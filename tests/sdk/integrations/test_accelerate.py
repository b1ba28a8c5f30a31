"""`integrations/accelerate`: what an `Accelerator` logs, in MLflow."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from helpers.sdk_tools import eventually, named
from tailrace import Tracker

pytestmark = [pytest.mark.services, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
accelerate = pytest.importorskip("accelerate")
import torch  # noqa: E402

from tailrace.integrations.accelerate import TailraceTracker  # noqa: E402


@pytest.fixture(autouse=True)
def _own_state() -> Iterator[None]:
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_what_an_accelerator_logs_is_in_a_run_of_its_own(sdk: Tracker, sqlite_uri: str) -> None:
    accelerator = accelerate.Accelerator(cpu=True, log_with=TailraceTracker("baseline", tracker=sdk))
    accelerator.init_trackers("digits", config={"lr": 0.1, "model": {"layers": 2}})
    for step in range(3):
        accelerator.log({"loss": torch.tensor(1.0 / (step + 1)), "phase": "warm-up"}, step=step)
    accelerator.get_tracker("tailrace", unwrap=True).log({"own": 1.0}, step=7)
    accelerator.end_training()
    store = named(sqlite_uri, "baseline")
    assert store.status == "FINISHED"
    assert store.history("loss") == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert store.history("own") == [(7, 1.0)]
    assert (store.params, store.tags["phase"]) == ({"lr": "0.1", "model.layers": "2"}, "warm-up")


def test_a_training_that_raises_is_failed_once_its_accelerator_is_gone(sdk: Tracker, sqlite_uri: str) -> None:
    def train() -> None:
        tracker = TailraceTracker("failing", tracker=sdk)
        tracker.start()
        tracker.log({"loss": 1.0}, step=0)
        raise ValueError("it diverges")

    with pytest.raises(ValueError, match="it diverges"):
        train()
    gc.collect()
    assert sdk.active_run() is None
    assert eventually(lambda: named(sqlite_uri, "failing").status != "RUNNING")
    assert named(sqlite_uri, "failing").status == "FAILED"


def test_an_active_run_is_joined_and_only_the_main_process_logs(
    sdk: Tracker, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sdk.start_run(run_name="outer") as run:
        accelerator = accelerate.Accelerator(cpu=True, log_with=TailraceTracker(tracker=sdk))
        accelerator.init_trackers("digits")
        accelerator.log({"loss": 0.5}, step=0)
        with monkeypatch.context() as patched:
            patched.setattr(accelerate.PartialState, "is_main_process", False)
            patched.setattr(accelerate.PartialState, "use_distributed", True)
            accelerator.log({"loss": 0.5}, step=1)
        accelerator.end_training()
        assert run.status == "RUNNING"
    assert named(sqlite_uri, "outer").history("loss") == [(0, 0.5)]
