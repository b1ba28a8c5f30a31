"""`tailrace doctor`: findings, mends, and its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.commands import json_of, tailrace
from helpers.left_sessions import CLOSED, spooled_session
from helpers.spools import block
from tailrace_agent.cli._checks import Check


def test_the_doctor_finds_this_machine_well_and_creates_no_store(tmp_path: Path) -> None:
    result = tailrace("doctor", "--json")
    checks = {check["name"]: check for check in json_of(result)["checks"]}
    assert result.exit_code == 0, result.output
    assert {"state directory", "shared memory", "locks", "agent", "mlflow", "store", "clock"} <= set(checks)
    assert checks["locks"]["result"] == "ok"
    assert not (tmp_path / "mlflow.db").exists()


def test_the_doctor_names_what_is_wrong_and_the_mend(tmp_path: Path) -> None:
    away = tailrace("doctor", "--tracking-uri", CLOSED)
    assert away.exit_code == 1
    assert "is the server running" in away.output
    (tmp_path / "file").touch()
    unwritable = tailrace("--dir", str(tmp_path / "file"), "doctor")
    assert unwritable.exit_code == 1
    assert "set TAILRACE_DIR" in unwritable.output


def test_a_wrong_setting_ends_the_checks_with_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_NICE", "99")
    result = tailrace("doctor", "--json")
    checks = json_of(result)["checks"]
    assert (result.exit_code, [check["name"] for check in checks]) == (1, ["program", "hot path", "settings"])
    assert "TAILRACE_NICE" in checks[-1]["text"]


def test_a_warning_is_no_failure_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace_agent.cli._checks.native.why_not", "no compiler")
    spooled_session(blocks=[block(3, run=7)])
    result = tailrace("doctor")
    assert result.exit_code == 0
    assert "1 session left over, 3 entries pending" in result.stdout
    assert "→ tailrace sync" in result.stdout
    assert "this machine works, " in result.stdout.splitlines()[-1]


def test_a_store_is_not_asked_where_mlflow_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Check(name="mlflow", result="fail", text="half of it is missing", mend="pip install mlflow")
    monkeypatch.setattr("tailrace_agent.cli._checks_store.mlflow", lambda: broken)
    result = tailrace("doctor", "--json")
    names = [check["name"] for check in json_of(result)["checks"]]
    assert (result.exit_code, "store" in names, "gpu" in names) == (1, False, True)


def test_the_doctor_says_how_many_points_a_store_takes_at_once(sqlite_uri: str, mlflow_server: str) -> None:
    directly = tailrace("doctor", "--tracking-uri", sqlite_uri)
    assert "20,000 points at once, straight into MLflow's tables" in " ".join(directly.output.split())
    plain = tailrace("doctor", "--tracking-uri", mlflow_server)
    assert "1,000 points at once; `mlflow server --app-name tailrace` takes more" in " ".join(plain.output.split())
