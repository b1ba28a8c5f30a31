"""What all commands share: ages, sizes, answers to questions, numbers and texts for people."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tailrace_agent.cli._app import App, Code, Fail, age, broken, byte_size, confirm, count, number
from tailrace_agent.settings.settings import Settings
from tailrace_agent.text.quoting import visible

PARAM = click.Option(["--x"])
CONTEXT = click.Context(click.Command("x"))


def test_numbers_and_names_are_shown_for_people() -> None:
    assert [number(value) for value in (None, 3.0, 1_234_567.0, 0.123456789, 1e-9)] == [
        "-", "3", "1,234,567", "0.12346", "1e-09",
    ]  # fmt: skip
    assert visible("läuft, ok\nnext") == "läuft, ok\nnext"
    assert visible("\x1b[0m\x9b\u202e") == r"\x1b[0m\x9b\u202e"


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604_800), ("12h", 43_200), (" 30M ", 1800), ("2", 172_800), ("0", 0), (None, None)]
)
def test_an_age_is_written_in_days_hours_or_minutes(text: str | None, seconds: float | None) -> None:
    assert age(CONTEXT, PARAM, text) == seconds


@pytest.mark.parametrize("text", ["soon", "-1d", "inf", "nan", "7w", ""])
def test_what_is_no_age_is_a_usage_error_that_shows_how_one_is_written(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 7d, 12h or 30m"):
        age(CONTEXT, PARAM, text)


def test_a_size_is_read_or_a_usage_error() -> None:
    assert [byte_size(CONTEXT, PARAM, text) for text in ("4GiB", "500", None)] == [4 << 30, 500, None]
    with pytest.raises(click.BadParameter, match="'big' is no size"):
        byte_size(CONTEXT, PARAM, "big")


def test_an_error_is_one_line_that_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Fail("two\nlines \x1b[31m").show()
    assert capsys.readouterr().err == "tailrace: two lines \\x1b[31m\n"


def test_lines_are_broken_at_words_and_only_on_a_terminal() -> None:
    text = "a-long-word and another-long-word"
    assert broken(text, None, 2) == f"  {text}"
    assert broken(text, 20, 2).splitlines() == ["  a-long-word and", "  another-long-word"]
    assert broken("x" * 30, 20) == "x" * 30, "a path stays whole, to be copied"


@pytest.mark.parametrize(
    ("json_", "stdin", "code"),
    [(False, "y\n", 0), (False, "n\n", 1), (False, "", Code.USAGE), (True, "y\n", Code.USAGE)],
)
def test_a_question_is_answered_by_a_person_or_is_an_error(json_: bool, stdin: str, code: int) -> None:
    command = click.command()(lambda: confirm("Delete it?", json_=json_))
    result = CliRunner().invoke(command, [], input=stdin)
    assert result.exit_code == code
    assert ("--yes does it without asking" in result.stderr) == (code == Code.USAGE)
    assert ("Delete it?" in result.output) != json_


def test_a_count_has_its_noun() -> None:
    assert [count(n, "point") for n in (0, 1, 1234)] == ["0 points", "1 point", "1,234 points"]
    assert count(2, "entry", "entries") == "2 entries"


def test_the_store_in_force_is_absolute_and_mlflows_default_where_none_is_set(tmp_path: Path) -> None:
    app = App(None)
    assert app.store(Settings()) == f"sqlite:///{tmp_path}/mlflow.db"
    assert app.store(Settings(tracking_uri="sqlite:///runs.db")) == f"sqlite:///{tmp_path}/runs.db"
    assert app.environment().get("TAILRACE_DIR") == os.environ["TAILRACE_DIR"]
    assert App("state").environment()["TAILRACE_DIR"] == str(tmp_path / "state"), "a program may work elsewhere"
