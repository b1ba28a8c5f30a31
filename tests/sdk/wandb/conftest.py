"""A script of wandb's: a directory of its own, no variables of wandb's, and a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.wandb_tools import wandb_to
from tailrace.wandb import _guard


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was warned about, each line once."""
    texts: list[str] = []

    def warn(text: str, *, once: object = None) -> None:
        if text not in texts:
            texts.append(text)

    monkeypatch.setattr(_guard.VOICE, "warn", warn)
    return texts


@pytest.fixture
def store(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the runs go."""
    with wandb_to(sqlite_uri, monkeypatch):
        yield sqlite_uri
