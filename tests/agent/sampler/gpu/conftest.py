"""NVIDIA's library, stood in for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvml.standin import Standin, build, loaded


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    standin = Standin(tmp_path)
    monkeypatch.setenv("NVML_STANDIN", standin.environ["NVML_STANDIN"])
    monkeypatch.delenv("NVML_STANDIN_TRACE", raising=False)
    with loaded(library):
        yield standin
