"""Names of artifacts, read as MLflow reads them, without importing it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.uri import validate_path_is_safe

from tailrace_agent.mlflow.artifact_names import media_type, safe_path, stored_name

PATHS = [
    "a/b.txt",
    "../x",
    "a/../b",
    "/etc/passwd",
    "a%2f..%2f..%2fx",
    "%2e%2e/x",
    "%252e%252e/x",
    "C:\\x",
    "C:/x",
    "a#b",
]
PATHS += [
    "a%23b",
    "na\nme",
    "tab\tx",
    "x\x00y",
    "\x7f",
    "file:/x",
    "file:///x",
    "FILE:/x",
    "file:x",
    "",
    ".",
    "..",
    "…",
]
PATHS += [
    "http://host/x",
    "a;b",
    "a?b=c",
    "100%",
    "%",
    "%zz",
    "\\\\share\\x",
    "a\\..\\b",
    "ü%C3%BC",
    "//host/x",
    "a//b",
]


def _mlflows(path: str) -> str | None:
    try:
        return str(validate_path_is_safe(path))
    except (MlflowException, ValueError):
        return None


def _ours(path: str) -> str | None:
    try:
        return safe_path(path)
    except ValueError:
        return None


@pytest.mark.parametrize("path", PATHS)
def test_a_path_leads_where_mlflow_sees_it_lead(path: str) -> None:
    assert _ours(path) == _mlflows(path)


@given(st.text(max_size=12) | st.text("a./%2e#:;?\\\n", max_size=12))
def test_any_path_leads_where_mlflow_sees_it_lead(path: str) -> None:
    assert _ours(path) == _mlflows(path)


@pytest.mark.parametrize(
    "name", ["a.txt", "a.py", "MLmodel", "a.tar.gz", "a.png", "a", "a.", ".b", "a.JSON", "a.md", "x.pt"]
)
def test_a_file_is_called_what_mlflow_calls_it(name: str) -> None:
    assert media_type(name) == _guess_mime_type(name)


def test_a_name_that_is_changed_is_like_its_own_and_nobody_elses() -> None:
    names = [f"{stem}{extension}" for stem in ("a#b", "a%23b", "a_b", "a\nb") for extension in (".txt", ".png", "")]
    stored = [stored_name(name) for name in names]
    assert len({*stored}) == len(names)
    for name, new in zip(names, stored, strict=True):
        assert Path(new).suffix == Path(name).suffix
        assert stored_name(new) == new
    assert stored_name("dir#1/x.txt").endswith("/x.txt")


@pytest.mark.parametrize("name", ["a.txt", "why?.txt", "100%.txt", "50% off.txt", "ünï.txt", "a/b c/d"])
def test_a_name_that_the_server_keeps_is_kept(name: str) -> None:
    assert stored_name(name) == name
