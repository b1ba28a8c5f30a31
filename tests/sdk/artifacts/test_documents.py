"""Texts and dictionaries: captured at the call, written later, read back by MLflow."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from helpers.written import written
from tailrace._artifacts.captured import BadArtifact
from tailrace._artifacts.documents import freeze_dict, freeze_text


def test_a_text_is_utf8_and_mlflow_reads_it(tmp_path: Path) -> None:
    (path,) = written(freeze_text("grüß\r\n✓", "notes.txt"), tmp_path)
    assert mlflow.artifacts.load_text(str(path)) == "grüß\n✓"
    assert path.read_bytes() == "grüß\r\n✓".encode()
    with pytest.raises(BadArtifact, match="takes a str, not bytes"):
        freeze_text(b"x", "notes.txt")  # type: ignore[arg-type]


def test_a_dictionary_is_the_same_json_that_mlflow_writes(tmp_path: Path) -> None:
    dictionary = {"b": [1, 2.5, float("nan")], 3: {"when": dt.date(2020, 1, 2), "p": Path("x")}, "é": None}
    expected = json.dumps(dictionary, indent=2, default=str)
    frozen = freeze_dict(dictionary, "dir/config")
    dictionary["b"].append("later")  # type: ignore[union-attr]
    (path,) = written(frozen, tmp_path)
    assert path.read_text() == expected
    assert "é" in mlflow.artifacts.load_dict(str(path))


@pytest.mark.parametrize("name", ["c.yaml", "c.yml"])
def test_a_dictionary_is_the_same_yaml_that_mlflow_writes(tmp_path: Path, name: str) -> None:
    inner = [1, 2]
    dictionary: dict[str, Any] = {"b": inner, "a": {"again": inner}, "t": (1,)}
    expected = yaml.dump(dictionary, indent=2, default_flow_style=False)
    frozen = freeze_dict(dictionary, name)
    inner.append(3)
    dictionary["c"] = 1
    (path,) = written(frozen, tmp_path)
    assert path.read_text() == expected


def test_a_dictionary_that_contains_itself_or_has_odd_keys_is_refused() -> None:
    itself: dict[str, Any] = {}
    itself["me"] = itself
    with pytest.raises(BadArtifact, match="Circular"):
        freeze_dict(itself, "x.json")
    with pytest.raises(BadArtifact, match="keys must be"):
        freeze_dict({(1, 2): 3}, "x.json")
    with pytest.raises(BadArtifact, match="cannot copy"):
        freeze_dict({"lock": threading.Lock()}, "x.yaml")


def test_a_plain_table_a_text_and_a_dictionary_load_neither_pandas_nor_numpy() -> None:
    script = """
import sys, pathlib, tempfile
from tailrace._artifacts.documents import freeze_text, freeze_dict
from tailrace._artifacts.tables import freeze_table
for frozen in (freeze_table({"a": [1, 2]}, "t.json"), freeze_text("x", "x"), freeze_dict({"a": 1}, "x")):
    frozen.parts[0].write(pathlib.Path(tempfile.mkdtemp(), "x"))
print([name for name in ("pandas", "numpy", "mlflow", "yaml", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
