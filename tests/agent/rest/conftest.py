"""A server that keeps what it is sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.recorder import Recorder, recording


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as server:
        yield server
