"""Who looks on, and what they are looked at with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.scraping import CollectorRig, endpoint
from helpers.webhook_receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CollectorRig]:
    rig = CollectorRig(tmp_path)
    yield rig
    rig.spool.close()


@pytest.fixture
def address(rig: CollectorRig) -> Iterator[tuple[str, int]]:
    """Where a collector is served."""
    served, _ = endpoint(rig, 0)
    served.step(0.0)
    assert served.url is not None
    yield "127.0.0.1", int(served.url.split(":")[2].split("/")[0])
    served.close()
