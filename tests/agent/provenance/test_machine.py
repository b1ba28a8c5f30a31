"""What this machine and its interpreters hold."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from tailrace_agent.provenance.machine import gpus, machine, packages


def test_packages_are_those_of_the_interpreter_that_trains(tmp_path: Path) -> None:
    ours = packages(sys.executable)
    assert f"msgspec=={__import__('msgspec').__version__}" in ours
    assert ours == sorted(ours, key=lambda line: line.partition("==")[0].lower())
    another = tmp_path / "python"
    another.write_text('#!/bin/sh\necho \'[["b", "2"], ["A", "1"]]\'\n')
    another.chmod(0o755)
    assert packages(str(another)) == ["A==1", "b==2"]
    assert packages(str(tmp_path / "gone")) == []


def test_of_a_package_that_is_there_twice_the_first_on_the_path_counts(tmp_path: Path) -> None:
    another = tmp_path / "python"
    another.write_text('#!/bin/sh\necho \'[["Torch", "2.1"], ["torch", "1.9"], ["", "3"]]\'\n')
    another.chmod(0o755)
    assert packages(str(another)) == ["Torch==2.1"]


@pytest.mark.parametrize("answer", ["exit 1", "echo no json", "echo '[[1, 2]]'"])
def test_an_interpreter_that_does_not_answer_as_it_should_has_no_packages(tmp_path: Path, answer: str) -> None:
    another = tmp_path / "python"
    another.write_text(f"#!/bin/sh\n{answer}\n")
    another.chmod(0o755)
    assert packages(str(another)) == []


def test_a_package_whose_metadata_is_missing_or_says_no_name_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"a": "Name: a\nVersion: 1\n\nName: text\n", "b": "", "c": "Metadata-Version: 2\n"}.items():
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert packages("") == ["a==1"]


def test_a_machine_without_nvml_or_with_all_gpus_hidden_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus(None) == []
    assert gpus("-1") == []


def test_the_machine_says_what_it_is_and_what_it_does_not_know_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = machine()
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert found["cpus"] == os.cpu_count()

    def unknown(_: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert machine()["memory_bytes"] is None
