"""`tailrace hpo`: what it passes on, and with which code it ends. Searches: tests/sdk/hpo/test_workers.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tailrace_agent.cli import main


def test_what_the_search_finds_wrong_is_its_line_and_its_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits.yaml").write_text("hpo: {study_name: digits, objective: 'no:where', search_space: {}}\n")
    arguments = ["hpo", "digits.yaml", "n_trials=3", "--workers", "2", "--storage", "a.journal", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.endswith("objective: there is no module 'no'; a file is named as train.py:where\n")
    assert not (tmp_path / "a.journal").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "'none.yaml' does not exist"),
        (["digits.yaml", "--workers", "0"], "0 is not in the range x>=1"),
    ],
)
def test_wrong_usage_starts_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "digits.yaml").touch()
    result = CliRunner().invoke(main, ["hpo", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_a_wrong_setting_is_reported_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits.yaml").touch()
    monkeypatch.setenv("TAILRACE_AGENT", "nowhere")
    result = CliRunner().invoke(main, ["hpo", "digits.yaml"])
    assert result.exit_code == 2
    assert "TAILRACE_AGENT" in result.output
