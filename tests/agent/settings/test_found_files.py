"""A settings file that is found, and not named, is believed only if nobody else can have written it."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.other_users import MALLORY, acting_as, common_place, needs_root
from tailrace import Tracker, load_config
from tailrace_agent.files import ownership
from tailrace_agent.files.ownership import why_not_believed
from tailrace_agent.settings.sources import load_settings, settings_file

HOSTILE = 'tracking_uri = "http://mallory"\n'
NAMES = ["tailrace.toml", "pyproject.toml"]


@pytest.fixture
def place() -> Iterator[Path]:
    with common_place() as there:
        yield there


def write(path: Path, text: str = HOSTILE) -> Path:
    path.write_text(f"[tool.tailrace]\n{text}" if path.name == "pyproject.toml" else text)
    return path


def found(start: Path) -> str | None:
    return load_settings(environ={}, start_dir=start).tracking_uri


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "tailrace"]


@needs_root
@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_file_in_a_directory_above_is_ignored_with_one_warning(
    place: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    ours = place / "project" / "src"
    ours.mkdir(parents=True)
    acting_as(MALLORY, lambda: write(place / name))
    for _ in range(2):
        assert found(ours) is None
        assert settings_file(ours) is None
    (told,) = warnings(caplog)
    assert told.startswith(f"tailrace: {place / name} is ignored: {place} can be written to by everybody")
    assert f"`chmod go-w {place}`" in told
    assert caplog.records[0].levelno == logging.WARNING


def test_a_file_of_ours_is_ignored_too_where_everybody_may_put_another_one_beside_it(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(place / "pyproject.toml")
    assert found(place) is None
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_above_a_directory_of_somebody_elses_is_looked_at_and_without_a_file_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    below = tmp_path / "open" / "project"
    below.mkdir(parents=True)
    write(tmp_path / name)
    assert found(below) == "http://mallory"
    (tmp_path / "open").chmod(0o777)
    assert found(below) is None
    (tmp_path / "open" / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    (tmp_path / "open" / "tailrace.toml").mkdir()
    assert found(below) is None
    assert warnings(caplog) == []
    write(below / name, 'tracking_uri = "http://ours"\n')
    assert found(below) == "http://ours"


def given_away(path: Path) -> Path:
    os.chown(path, MALLORY, MALLORY)
    return path


def its_directory_given_away(path: Path) -> Path:
    os.chown(path.parent, MALLORY, MALLORY)
    return path.parent


def open_to_all(path: Path) -> Path:
    path.chmod(0o646)
    return path


def open_to_a_group(path: Path) -> Path:
    os.chown(path, -1, MALLORY)
    path.chmod(0o664)
    return path


def a_link_to_theirs(path: Path) -> Path:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    os.chown(path.with_name("elsewhere"), MALLORY, MALLORY)
    return path


@needs_root
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (given_away, "belongs to another user (nobody)"),
        (its_directory_given_away, "belongs to another user (nobody)"),
        (open_to_all, "can be written to by everybody"),
        (open_to_a_group, "can be written to by its group (nogroup)"),
        (a_link_to_theirs, "belongs to another user (nobody)"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_somebody_else_can_have_written_is_ignored_and_the_warning_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, spoil: Callable[[Path], Path], reason: str
) -> None:
    path = write(tmp_path / name)
    assert found(tmp_path) == "http://mallory"
    what = spoil(path)
    assert found(tmp_path) is None
    (told,) = warnings(caplog)
    assert f"{path} is ignored: {what} {reason}, so" in told


@needs_root
def test_a_link_of_somebody_elses_to_a_file_of_ours_is_ours(tmp_path: Path) -> None:
    write(tmp_path / "tailrace.toml").rename(tmp_path / "elsewhere")
    (tmp_path / "tailrace.toml").symlink_to(tmp_path / "elsewhere")
    os.chown(tmp_path / "tailrace.toml", MALLORY, MALLORY, follow_symlinks=False)
    assert found(tmp_path) == "http://mallory"


def test_a_pipe_of_that_name_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tailrace.toml")
    os.mkfifo(tmp_path / "pyproject.toml")
    assert found(tmp_path) is None


@needs_root
def test_no_config_that_is_found_is_believed_either_and_one_that_is_named_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tailrace.toml"
    path.write_text('[tracking]\ntracking_uri = "http://mallory"\n')
    os.chown(path, MALLORY, MALLORY)
    monkeypatch.chdir(tmp_path)
    assert load_config().tracking_uri is None
    assert Tracker().__class__ is Tracker
    assert load_config("tailrace.toml").tracking_uri == "http://mallory"
    assert len(warnings(caplog)) == 1


# -- the rule ----------------------------------------------------------------------------------------------------------


class User:
    """A user of a made-up system, and a file in it."""

    def __init__(self, uid: int, monkeypatch: pytest.MonkeyPatch, **environ: str) -> None:
        monkeypatch.setattr(ownership.os, "geteuid", lambda: uid)
        monkeypatch.delenv("SUDO_UID", raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    def believes(self, uid: int, mode: int = 0o644, gid: int = 4242) -> bool:
        return why_not_believed(os.stat_result((stat.S_IFREG | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))) is None


def test_our_own_and_roots_are_believed_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    user = User(4242, monkeypatch, SUDO_UID="4243")
    assert [user.believes(uid) for uid in (4242, 0, 4243)] == [True, True, False]
    assert [user.believes(4242, mode) for mode in (0o600, 0o755, 0o646, 0o602)] == [True, True, False, False]


def test_under_sudo_those_of_who_called_it_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    root = User(0, monkeypatch, SUDO_UID="4242")
    assert [root.believes(uid) for uid in (0, 4242, 4243)] == [True, True, False]
    assert not User(0, monkeypatch, SUDO_UID="-1").believes(4242)
    assert not User(0, monkeypatch).believes(4242)


def test_a_group_may_write_if_it_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Group:
        gr_name, gr_mem = "ada", ["ada"]

    class Ada:
        pw_name = "ada"

    user = User(4242, monkeypatch)
    assert user.believes(4242, 0o664, gid=4242)  # neither has a name here: a container
    assert not user.believes(4242, 0o664, gid=4243)
    monkeypatch.setattr("grp.getgrgid", lambda _: Group)
    monkeypatch.setattr("pwd.getpwuid", lambda _: Ada)
    assert user.believes(4242, 0o664, gid=1)
    for name, members in (("ada", ["ada", "eve"]), ("lab", []), ("lab", ["ada"])):
        monkeypatch.setattr(Group, "gr_name", name)
        monkeypatch.setattr(Group, "gr_mem", members)
        assert not user.believes(4242, 0o664, gid=1)
        assert user.believes(4242, 0o644, gid=1)
