"""The houses of code and tests: what the documentation says of their folders is how they are."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"


def _imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def _folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir() and any(path.rglob("*.py"))}


# -- tests -------------------------------------------------------------------------------------------------------------


def test_no_test_module_is_imported_by_another_file() -> None:
    files = sorted(TESTS.rglob("*.py"))
    assert len(files) > 100
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in _imported(path)
        if any(part.startswith("test_") for part in module.split(".")[:-1]) or module.split(".")[0].startswith("test_")
    ]
    assert not wrong, "what two test modules need goes to tests/helpers"


def test_test_modules_outside_of_packages_have_names_of_their_own() -> None:
    files = [path for path in TESTS.rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    assert [name for name, count in Counter(path.name for path in files).items() if count > 1] == []


def test_what_stands_in_helpers_has_names_of_its_own() -> None:
    """A name that two helpers share says nothing to whoever reads a test."""
    helpers = [
        *(TESTS / "helpers").glob("*.py"),
        *(p for p in (TESTS / "faults").glob("*.py") if "test_" not in p.name),
    ]
    classes = [node.name for path in helpers for node in ast.parse(path.read_text()).body if _is_class(node)]
    assert [name for name, count in Counter(classes).items() if count > 1] == []
    everywhere = [
        node.name
        for path in TESTS.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if _is_class(node) and node.name.endswith("Rig")
    ]
    assert len(everywhere) == len(set(everywhere))
    assert "Rig" not in everywhere


def _is_class(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef)


def test_the_readme_of_the_tests_names_each_of_their_folders() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|", (TESTS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert Counter(rows) == Counter(_folders(TESTS) - {"__pycache__"})


@pytest.mark.parametrize(("source", "prefix"), [("agent/tailrace_agent", ""), ("sdk/tailrace", "_")])
def test_the_folders_of_tests_are_those_of_the_code(source: str, prefix: str) -> None:
    tested = _folders(TESTS / source.partition("/")[0])
    assert {prefix + name for name in tested} <= _folders(ROOT / source)
