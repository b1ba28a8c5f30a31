"""Status files: whole, private, and of any version."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tailrace_agent.ipc import status


def test_a_status_file_is_replaced_as_a_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / status.run_file(7)
    assert status.read(path, status.RunStatus) is None
    for notices in (["x" * 100_000], []):
        status.write(path, status.RunStatus(run=7, notices=notices))
        found = status.read(path, status.RunStatus)
        assert found is not None
        assert found.notices == notices
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": "x"}', b"\xff"])
def test_a_status_of_another_version_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    assert status.read(tmp_path / "s", status.RunStatus) is None
    assert status.read(tmp_path / "s" / "below", status.RunStatus) is None
