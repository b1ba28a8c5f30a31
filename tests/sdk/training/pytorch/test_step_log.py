"""What is logged of steps, epochs and the end, under which names, and nothing twice."""

from __future__ import annotations

import torch

from helpers.training import ListTracker
from tailrace.training.pytorch.loop import Step
from tailrace.training.pytorch.step_log import StepLog

CPU = torch.device("cpu")


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in rates])


TWO = optimizer(0.1, 0.01)


def step(number: int, *, accuracy: float | None = 0.5, norm: float | None = None) -> Step:
    return Step(number, 0.25, accuracy, 16, norm, 0.01, 0.05)


def test_a_step_is_one_call_with_everything_in_it() -> None:
    tracker = ListTracker()
    StepLog(tracker, TWO, 1, CPU, -1, 0).step(step(3, norm=2.0))
    assert tracker.logged == [
        (
            3,
            {
                "train/loss_step": 0.25,
                "train/accuracy_step": 0.5,
                "train/batch_time_seconds": 0.05,
                "train/data_wait_seconds": 0.01,
                "train/samples_per_second": 320.0,
                "train/learning_rate": 0.1,
                "train/learning_rate_1": 0.01,
                "train/grad_norm": 2.0,
            },
        )
    ]


def test_what_there_is_not_is_not_logged() -> None:
    tracker = ListTracker()
    StepLog(tracker, optimizer(0.1), 1, CPU, -1, 0).step(step(0, accuracy=None))
    assert {"train/accuracy_step", "train/grad_norm"}.isdisjoint(tracker.logged[0][1])


def test_each_nth_step_is_logged_and_none_that_the_run_has() -> None:
    tracker = ListTracker()
    log = StepLog(tracker, TWO, 3, CPU, 4, 0)
    for number in range(12):
        log.step(step(number))
    assert [at for at, _ in tracker.logged] == [6, 9]


def test_an_epoch_that_the_run_has_is_not_logged_again() -> None:
    tracker = ListTracker()
    log = StepLog(tracker, TWO, 1, CPU, -1, 2)
    for epoch in (1, 2, 3):
        log.epoch(epoch, {"train_loss": 0.5, "val_loss": 0.6}, 1.5)
    assert tracker.logged == [(3, {"epoch/train_loss": 0.5, "epoch/val_loss": 0.6, "epoch/duration_seconds": 1.5})]


def test_the_end_is_numbers_at_the_last_step() -> None:
    tracker = ListTracker()
    StepLog(tracker, TWO, 1, CPU, -1, 0).end({"best_val_loss": 0.5, "early_stopped": True}, 99)
    assert tracker.logged == [(99, {"final/best_val_loss": 0.5, "final/early_stopped": 1.0})]


def test_learning_rates_are_those_that_the_optimizer_has_at_the_step() -> None:
    """Loading a state puts other groups in the place of those that were there; a callback may add some."""
    tracker, ours = ListTracker(), optimizer(0.1)
    log = StepLog(tracker, ours, 1, CPU, -1, 0)
    log.step(step(0))
    ours.load_state_dict(optimizer(0.05).state_dict())
    log.step(step(1))
    ours.add_param_group({"params": [torch.zeros(2)], "lr": 0.001})
    log.step(step(2))
    assert tracker.of("train/learning_rate") == [(0, 0.1), (1, 0.05), (2, 0.05)]
    assert tracker.of("train/learning_rate_1") == [(2, 0.001)]
