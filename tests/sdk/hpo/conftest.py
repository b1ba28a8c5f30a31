"""A tracker for the tests of searches, and Optuna without its lines."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest

from helpers.sdk_tools import tracking
from tailrace import Tracker


@pytest.fixture(autouse=True)
def _quiet_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def tracker(sqlite_uri: str) -> Iterator[Tracker]:
    with tracking(sqlite_uri) as tracker:
        yield tracker
