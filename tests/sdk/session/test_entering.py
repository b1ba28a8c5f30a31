"""Where a session is made: in the place that was configured, elsewhere with a warning, or nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.sdk_tools import Store, tracking, warnings
from tailrace import StateDirError


def test_a_state_directory_that_cannot_be_written_to_is_one_clear_error(sqlite_uri: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with tracking(sqlite_uri, dir=tmp_path / "file" / "state") as sdk:
        with pytest.raises(
            StateDirError, match=r"cannot write to .*file/state.*Set TAILRACE_DIR \(or the setting `dir`\)"
        ):
            sdk.start_run()
        assert sdk.active_run() is None
        with sdk.start_run(dir=tmp_path / "elsewhere") as run:
            sdk.log(x=1)
    assert Store(sqlite_uri, run).history("x") == [(0, 1.0)]


def test_under_warn_an_unwritable_state_directory_is_one_warning_and_state_goes_elsewhere(
    sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("in the way")
    with tracking(sqlite_uri, dir=tmp_path / "file" / "state", on_error="warn") as sdk:
        with sdk.start_run() as run:
            sdk.log(x=1)
        with sdk.start_run():
            sdk.log(x=2)
    assert Store(sqlite_uri, run).history("x") == [(0, 1.0)]
    (said,) = warnings(caplog)
    assert "Keeping state in" in said
    assert list(tmp_path.glob("tailrace-state-*/sessions/*/session.json"))


def test_where_no_state_can_be_kept_at_all_training_goes_on_with_one_warning(
    sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with tracking(sqlite_uri, dir=tmp_path / "file" / "state", on_error="warn") as sdk:
        with sdk.start_run(params={"p": 1}) as run:
            sdk.log(x=1)
            sdk.log_text("text", "text.txt")
            assert sdk.flush().accepted == 0
        assert run.status == "FINISHED"
        sdk.log(x=2)
    (said,) = warnings(caplog)
    assert "nothing can be tracked" in said
    assert "Set TAILRACE_DIR" in said
