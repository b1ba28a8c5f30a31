"""`tailrace export`: runs into an archive, which is not replaced unasked."""

from __future__ import annotations

from pathlib import Path

from helpers.commands import json_of, tailrace
from helpers.stored_runs import Archived
from tailrace_agent.reading.archive import ArchiveReader


def test_an_archive_is_not_replaced_unasked(archived: Archived) -> None:
    again = tailrace("export", "parent", "-o", archived.archive, "--tracking-uri", archived.uri)
    assert again.exit_code == 1
    assert "--force" in again.stderr


def _names(path: Path) -> list[str]:
    with ArchiveReader(path) as archive:
        return [run.run_name for run in archive.runs()]


def test_a_run_goes_alone_or_with_what_is_nested_under_it(archived: Archived, tmp_path: Path) -> None:
    asked = ["--tracking-uri", archived.uri, "-o", tmp_path / "x.zip"]
    assert tailrace("export", "parent", *asked).stdout.startswith("1 run in ")
    assert _names(tmp_path / "x.zip") == ["parent"]
    told = json_of(tailrace("export", "parent", "child", "--nested", "--force", "--json", *asked))
    assert _names(tmp_path / "x.zip") == ["parent", "child"], "each once"
    assert (told["runs"], told["running"]) == ([archived.parent, archived.child], ["child"])
    assert told["bytes"] == (tmp_path / "x.zip").stat().st_size


def test_where_a_run_is_not_found_no_file_is_left(archived: Archived, tmp_path: Path) -> None:
    result = tailrace("export", "parent", "nosuch", "--tracking-uri", archived.uri, "-o", tmp_path / "x.zip")
    assert result.exit_code == 4
    assert list(tmp_path.glob("*.zip*")) == []
