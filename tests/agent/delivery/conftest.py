"""A book of runs, and what is to be delivered of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.delivery_faults import CountingSink
from helpers.delivery_rigs import DeliveryRig
from helpers.run_books import Saved
from tailrace_agent.delivery.run_book import RunBook


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[DeliveryRig]:
    rig = DeliveryRig(tmp_path, CountingSink())
    yield rig
    rig.spool.close()


@pytest.fixture
def saved() -> Saved:
    return Saved()


@pytest.fixture
def book(saved: Saved) -> RunBook:
    return saved.book()
