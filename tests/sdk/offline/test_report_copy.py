"""Reports are copied before they are read: which ones, in which order, and not without bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace import CallError
from tailrace._offline import report_copy
from tailrace._offline.report_copy import take_reports


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def report(directory: Path, text: str = "{}") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.json").write_text(text)
    return directory


def test_earlier_reports_come_first_in_the_order_of_their_names_and_the_last_one_last(
    tmp_path: Path, into: Path
) -> None:
    directory = report(tmp_path / "reports")
    for name in ("20240102-b", "20240101-a"):
        report(directory / "earlier" / name, name)
    taken = take_reports(directory, into, 1000)
    assert [each.path.name for each in taken] == ["20240101-a", "20240102-b", "reports"]
    assert [(each.copy / "metrics.json").read_text() for each in taken] == ["20240101-a", "20240102-b", "{}"]


def test_what_is_no_report_is_left_alone(tmp_path: Path, into: Path) -> None:
    assert take_reports(tmp_path, into, 1000) == []
    directory = report(tmp_path / "reports")
    (directory / "notes.txt").write_text("my own")
    (directory / "earlier" / "empty").mkdir(parents=True)
    (directory / "earlier" / "file").write_text("x")
    (taken,) = take_reports(directory, into, 1000)
    assert [path.name for path in taken.copy.iterdir()] == ["metrics.json"]


def test_a_copy_keeps_the_time_of_its_file_by_which_a_report_without_its_own_is_known(
    tmp_path: Path, into: Path
) -> None:
    directory = report(tmp_path / "reports")
    os.utime(directory / "metrics.json", (1_000_000, 1_000_000))
    (taken,) = take_reports(directory, into, 1000)
    assert (taken.copy / "metrics.json").stat().st_mtime == 1_000_000


def test_a_link_to_the_reports_is_followed_and_is_the_only_one(tmp_path: Path, into: Path) -> None:
    (tmp_path / "link").symlink_to(report(tmp_path / "reports"))
    assert len(take_reports(tmp_path / "link", into, 1000)) == 1


def test_the_bound_counts_all_files_together(tmp_path: Path, into: Path) -> None:
    directory = report(tmp_path / "reports", "x" * 60)
    report(directory / "earlier" / "one", "x" * 60)
    with pytest.raises(CallError, match=r"have more than 119 B; if you trust .* max_bytes"):
        take_reports(directory, into, 119)


def test_the_number_of_files_has_a_bound(tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_copy, "_MOST_FILES", 5)
    directory = report(tmp_path / "reports")
    (directory / "figures").mkdir()
    for number in range(5):
        (directory / "figures" / f"{number}.png").write_text("")
    with pytest.raises(CallError, match="the reports have more than 5 files"):
        take_reports(directory, into, 1000)


def test_a_directory_that_is_not_there_is_an_error_that_names_it(tmp_path: Path, into: Path) -> None:
    with pytest.raises(CallError, match=f"{tmp_path}/nowhere cannot be read or copied: No such file"):
        take_reports(tmp_path / "nowhere", into, 1000)
