"""The page that the processes of a session share: each change is seen, and what is there outlives who wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace._session.run_page import RunsPage, map_words


def test_what_one_process_writes_the_other_one_reads(tmp_path: Path) -> None:
    one, other = RunsPage(tmp_path), RunsPage(tmp_path)
    assert (other.active, other.has_ended(7), other.elsewhere()) == (0, False, None)
    one.point_at(7)
    assert other.active == 7
    one.end(7)
    assert other.has_ended(7)
    assert not other.has_ended(8)


def test_each_change_changes_the_first_word_and_what_is_none_does_not(tmp_path: Path) -> None:
    page = RunsPage(tmp_path)
    seen = [page.changed]
    for change in (lambda: page.point_at(7), lambda: page.end(7), lambda: page.point_elsewhere("/other", 8)):
        change()
        seen.append(page.changed)
    assert len(set(seen)) == 4
    page.point_at(8)
    seen.append(page.changed)
    page.point_at(8)
    assert page.changed == seen[-1]


def test_a_later_run_in_the_same_place_of_the_table_makes_an_earlier_one_forgotten_and_not_itself(
    tmp_path: Path,
) -> None:
    page = RunsPage(tmp_path)
    places = 4096 // 8 - 2
    page.end(7)
    page.end(7 + places)
    assert page.has_ended(7 + places)
    assert not page.has_ended(7)
    page.end((1 << 63) - 1)  # the largest id that there is
    assert page.has_ended((1 << 63) - 1)


def test_the_run_of_another_session_is_the_one_that_was_named_last(tmp_path: Path) -> None:
    page = RunsPage(tmp_path)
    page.point_elsewhere("/a", 7)
    page.point_elsewhere("/b\udc80", 8)  # any path, whatever its bytes are
    assert RunsPage(tmp_path).elsewhere() == ("/b\udc80", 8)
    (tmp_path / "runs.elsewhere").write_bytes(b"no number\n/c")
    assert page.elsewhere() is None


def test_the_run_that_follows_is_the_one_that_is_active_now_in_whichever_session(
    tmp_path: Path,
) -> None:
    page = RunsPage(tmp_path)
    assert page.following() is None
    page.point_at(7)
    assert page.following() == (7, None)
    page.point_elsewhere("/other", 8)
    assert (page.active, page.following()) == (0, (8, "/other"))
    page.point_at(7)
    assert page.following() == (7, None)
    page.end(7)  # a process may end before it names the next one
    assert page.following() == (8, "/other")


def test_a_page_that_cannot_be_had_is_an_error_now_and_no_signal_later(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        RunsPage(tmp_path / "gone")
    (tmp_path / "real").write_bytes(bytes(8))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError):
        map_words(tmp_path / "link", 8)
