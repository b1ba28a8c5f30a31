"""A session with its agent, whose every step is the test's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.pipeline_rig import PipelineRig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[PipelineRig]:
    rig = PipelineRig(tmp_path)
    yield rig
    rig.pipeline.close()
