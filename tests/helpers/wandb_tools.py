"""Runs of `tailrace.wandb` that go to a store of the test's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from helpers.sdk_tools import Store, tracking
from tailrace import wandb

__all__ = ["stored", "wandb_to"]


@contextlib.contextmanager
def wandb_to(uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In place of the module's own tracker, which outlives a test."""
    with tracking(uri, metadata=False) as sdk:
        monkeypatch.setattr(wandb, "_tracker", lambda: sdk)
        yield
        wandb.finish()


def stored(uri: str, run: wandb.Run) -> Store:
    """Ends a run; what MLflow has of it."""
    assert run.tracked is not None
    run_id = run.tracked.run_id
    run.finish()
    return Store(uri, run_id)
