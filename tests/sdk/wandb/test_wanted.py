"""What a run is to be: arguments, and variables."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from tailrace import wandb
from tailrace.wandb._wanted import note_id, wanted


def test_the_variables_count_and_arguments_are_stronger(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PROJECT": "from env", "NAME": "env name", "RUN_GROUP": "env group", "TAGS": "x, y", "NOTES": "n",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"WANDB_{name}", value)
    run = wandb.init(name="given", config=argparse.Namespace(lr=1))
    assert (run.project, run.name, run.group, run.tags, run.notes) == (
        "from env",
        "given",
        "env group",
        ("x", "y"),
        "n",
    )
    assert run.config.lr == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode": "dryrun"}, ("offline", None)),
        ({"mode": "no such"}, ("online", None)),
        ({"mode": "disabled"}, ("disabled", None)),
        ({"resume": True}, ("online", "auto")),
        ({"resume": "never"}, ("online", "never")),
        ({"resume": "perhaps"}, ("online", "allow")),
        ({"resume": False}, ("online", None)),
    ],
)
def test_what_a_mode_and_a_resumption_mean(given: dict[str, Any], expected: tuple[str, str | None]) -> None:
    what = wanted(given)
    assert (what.mode, what.resume) == expected


def test_an_id_is_made_up_or_that_of_the_run_before(tmp_path: Path) -> None:
    first = wanted({"resume": "auto", "dir": tmp_path})
    assert (len(first.id), first.given_id) == (8, False)
    note_id(tmp_path, first.id)
    again = wanted({"resume": "auto", "dir": tmp_path})
    assert (again.id, again.given_id) == (first.id, True)
    note_id(tmp_path, None)
    assert wanted({"resume": "auto", "dir": tmp_path}).id != first.id


def test_a_directory_that_cannot_be_written_to_is_a_warning(tmp_path: Path, warned: list[str]) -> None:
    (tmp_path / "wandb").write_text("a file")
    note_id(tmp_path, "abc")
    assert "cannot be written" in warned[0]


def test_its_tags_in_mlflow() -> None:
    what = wanted({"id": "abc", "group": "g", "tags": "one"})
    assert what.tracked_tags == {"one": "true", "wandb.id": "abc", "wandb.group": "g"}
