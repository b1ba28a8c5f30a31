"""Where a program is, and where its state goes when it has no home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.other_users import MALLORY, acting_as, needs_root
from tailrace_agent.files.ownership import is_private
from tailrace_agent.runtime import places


@needs_root
@pytest.mark.parametrize("how", ["directory", "link", "open"])
def test_a_temporary_state_directory_that_is_not_ours_is_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
    usual = place / f"tailrace-state-{os.getuid()}"
    assert places.temporary_state_dir() == usual
    if how == "directory":
        acting_as(MALLORY, lambda: usual.mkdir(0o777))
    elif how == "link":
        acting_as(MALLORY, lambda: usual.symlink_to(place))
    else:
        usual.mkdir()
        usual.chmod(0o777)
    acting_as(MALLORY, lambda: usual.with_name(f"{usual.name}-0000").mkdir(0o777))
    ours = places.make_temporary_state_dir()
    assert ours.name.startswith(f"{usual.name}-")
    assert is_private(ours)
    assert places.temporary_state_dir() == ours  # so that `tailrace sync` finds it
    monkeypatch.setattr(places, "_unguessable", "another process")
    assert places.make_temporary_state_dir() == ours


@pytest.fixture
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that was deleted."""
    directory = tmp_path / "gone"
    directory.mkdir()
    monkeypatch.chdir(directory)
    assert places.working_directory() == str(directory)
    directory.rmdir()
    return directory


def test_a_working_directory_that_was_deleted_is_still_the_last_one(gone: Path) -> None:
    assert places.is_nowhere()
    assert places.working_directory() == str(gone)
    assert places.absolute("runs.db") == gone / "runs.db"
    os.chdir("/")
    assert not places.is_nowhere()
    assert places.working_directory() == "/"


def test_a_path_keeps_its_dots_and_an_absolute_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places.absolute("../a") == Path(tmp_path, "..", "a")
    assert places.absolute("/b") == Path("/b")


def test_a_temporary_state_directory_is_private_and_found_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
    made = places.make_temporary_state_dir()
    assert made == place / f"tailrace-state-{os.getuid()}"
    assert is_private(made)
    assert places.make_temporary_state_dir() == places.temporary_state_dir() == made


def test_a_name_that_is_taken_in_between_gives_way_to_another(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
    make = places.make_private

    def later(directory: Path) -> None:
        if directory.name.endswith(str(os.getuid())):
            directory.symlink_to("/nowhere")
        make(directory)

    monkeypatch.setattr(places, "make_private", later)
    made = places.make_temporary_state_dir()
    assert made.name.startswith(f"tailrace-state-{os.getuid()}-")
    assert is_private(made)


def test_a_directory_that_is_not_there_cannot_be_entered(tmp_path: Path) -> None:
    assert places.may_enter(tmp_path)
    assert not places.may_enter(tmp_path / "nowhere")
