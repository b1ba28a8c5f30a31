"""A ring with both ends in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.rings import RingRig, new_rig


@pytest.fixture
def rig() -> Iterator[RingRig]:
    with new_rig() as rig:
        yield rig
