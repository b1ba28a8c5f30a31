"""Links to a run in the UI, and which UI shows a store now."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from helpers.sdk_tools import tracking
from tailrace_agent.mlflow.links import Announcement, run_link, run_page, ui_address
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import load_settings

_ANNOUNCE = """
import sys, time
from tailrace_agent.mlflow.links import Announcement
from tailrace_agent.settings.sources import load_settings
kept = Announcement(sys.argv[1], sys.argv[2], load_settings())
print("here", flush=True)
time.sleep(60)
"""
_KIND = "?workflowType=machine_learning"


@pytest.fixture
def settings() -> Settings:
    return load_settings()


def test_a_runs_link_leads_past_the_genai_pages_and_holds_no_password() -> None:
    link = f"http://mlflow:5000/x/#/experiments/3/runs/0f6a{_KIND}"
    assert run_page("http://ada:pw@mlflow:5000/x/", "3", "0f6a") == link
    assert run_link("http://ada:pw@mlflow:5000/x/", "/", "3", "0f6a", Settings(dir="/nowhere")) == link
    assert run_link("databricks", "/", "3", "0f6a", Settings(dir="/nowhere")) is None


def test_a_store_is_linked_while_it_is_shown_however_its_uri_is_written(tmp_path: Path, settings: Settings) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert ui_address(uri, settings) is None
    with closing(Announcement("http://127.0.0.1:5001", uri, settings)):
        assert run_link("sqlite:///mlflow.db", str(tmp_path), "3", "0f6a", settings) == run_page(
            "http://127.0.0.1:5001", "3", "0f6a"
        )
        assert ui_address(None, settings, str(tmp_path)) == "http://127.0.0.1:5001", "MLflow's default"
        assert ui_address(f"sqlite:///{tmp_path}/other.db", settings) is None
        with closing(Announcement("http://127.0.0.1:5002", uri, settings)):
            assert ui_address(uri, settings) == "http://127.0.0.1:5002", "the newest"
        assert ui_address(uri, settings) == "http://127.0.0.1:5001"
    assert ui_address(uri, settings) is None
    assert list((tmp_path / "tailrace" / "ui").iterdir()) == []


def test_an_announcement_is_private_and_holds_no_password(tmp_path: Path, settings: Settings) -> None:
    with closing(Announcement("http://127.0.0.1:5001", "postgresql://ada:pw@db/mlflow", settings)):
        (file,) = (tmp_path / "tailrace" / "ui").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        assert "pw" not in file.read_text()
        assert ui_address("postgresql://ada@db/mlflow", settings) == "http://127.0.0.1:5001"


def test_an_announcement_counts_only_while_its_process_lives(tmp_path: Path, settings: Settings) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    command = [sys.executable, "-c", _ANNOUNCE, "http://127.0.0.1:5001", uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        assert ui_address(uri, settings) == "http://127.0.0.1:5001"
        process.kill()
        process.wait()
    assert ui_address(uri, settings) is None
    assert list((tmp_path / "tailrace" / "ui").iterdir()) == [], "what is left of it is deleted"


def test_a_ui_of_another_machine_and_a_file_that_is_none_are_passed_over(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with closing(Announcement("http://127.0.0.1:5001", uri, settings)):
        (tmp_path / "tailrace" / "ui" / "ui-x.json").write_text("{")
        (tmp_path / "tailrace" / "ui" / "ui-y.json").mkdir()
        assert ui_address(uri, settings) == "http://127.0.0.1:5001"
        here = os.uname()
        elsewhere = os.uname_result((here.sysname, "elsewhere", here.release, here.version, here.machine))
        with monkeypatch.context() as patch:
            patch.setattr(os, "uname", lambda: elsewhere)
            assert ui_address(uri, settings) is None
        assert ui_address(uri, settings) == "http://127.0.0.1:5001", "and left alone"


def test_a_state_directory_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "none"):
        assert ui_address("sqlite:////x.db", Settings(dir=str(place))) is None


def test_a_run_on_sqlite_ends_with_a_link_while_the_ui_shows_its_store(
    sqlite_uri: str, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    def last_line() -> str:
        with tracking(sqlite_uri, quiet=False) as tracker, tracker.start_run(run_name="linked") as run:
            run.log(loss=1.0)
        return capsys.readouterr().err.splitlines()[-1]

    assert last_line() == f"tailrace: look at run 'linked' with `tailrace ui --tracking-uri {sqlite_uri}`"
    with closing(Announcement("http://127.0.0.1:5001", sqlite_uri, settings)):
        link = re.escape("http://127.0.0.1:5001/#/experiments/0/runs/")
        assert re.fullmatch(rf"tailrace: look at {link}[0-9a-f]{{32}}{re.escape(_KIND)}", last_line())
