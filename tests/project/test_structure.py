"""The houses of code and tests: what the documentation says of their folders is how they are."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

import pytest

from helpers.sources import parsed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
MODULES = ROOT / "docs" / "architecture" / "modules.md"
_ROW = re.compile(r"^\| `(\w+)` \| (.+) \| (.+) \|$", re.MULTILINE)


def _imported(path: Path) -> Iterator[str]:
    """The modules that a file imports at run time, wherever in it."""
    nodes: list[ast.AST] = [parsed(path)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def _folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir() and any(path.rglob("*.py"))}


def _parts(root: Path) -> set[str]:
    """What a package is made of: its folders and its modules."""
    modules = {path.stem for path in root.glob("*.py")} - {"__init__"}
    return {*_folders(root), *modules}


def _table(root: str) -> dict[str, str]:
    """The rows of a table of the architecture's modules, in their order: what may import what."""
    page = MODULES.read_text(encoding="utf-8")
    (table,) = re.findall(rf"^\| in `{root}` \|.*?(?=\n\n)", page, re.MULTILINE | re.DOTALL)
    return {name: imports for name, _, imports in _ROW.findall(table)}


# -- code --------------------------------------------------------------------------------------------------------------


def test_the_architecture_names_the_parts_of_the_agent_in_the_order_of_their_layers() -> None:
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = [
        contract["layers"]
        for contract in configured["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == ["tailrace_agent"]
    ]
    expected = {}
    for layer in layers:
        names = [name.strip() for name in layer.split("|")]
        for name in names:
            others = ", ".join(f"`{other}`" for other in names if other != name)
            expected[name] = f"all below, not {others}" if others else "all below"
    table = _table("agent/tailrace_agent")
    assert table == expected
    assert list(table) == list(expected)
    assert set(table) == _parts(ROOT / "agent" / "tailrace_agent")


def test_the_architecture_says_of_each_part_of_the_sdk_what_it_imports() -> None:
    """Imports for types alone do not count: nothing runs because of them."""
    root = ROOT / "sdk" / "tailrace"
    table = _table("sdk/tailrace")
    assert set(table) == _parts(root)
    for part, said in table.items():
        files = (root / part).rglob("*.py") if (root / part).is_dir() else [root / f"{part}.py"]
        imported = {module.split(".")[1] for path in files for module in _imported(path) if _is_part(module, table)}
        found = ", ".join(f"`{other}`" for other in sorted(imported - {part})) or "nothing"
        assert said == found, f"the row of `{part}` in {MODULES.relative_to(ROOT)} should say: {found}"


def _is_part(module: str, parts: Container[str]) -> bool:
    root, _, rest = module.partition(".")
    return root == "tailrace" and rest.split(".")[0] in parts


def test_modules_that_pages_name_with_their_folder_are_there() -> None:
    roots = [ROOT / "agent" / "tailrace_agent", ROOT / "sdk" / "tailrace"]
    folders = {name for root in roots for name in _folders(root)}
    for page in (ROOT / "docs").rglob("*.md"):
        for folder, module in re.findall(r"`(\w+)/(\w+)(?:\.\w+)?`", page.read_text(encoding="utf-8")):
            assert folder not in folders or any((root / folder / f"{module}.py").exists() for root in roots), (
                page,
                module,
            )


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


def test_what_stands_in_helpers_has_names_of_its_own() -> None:
    """A name that two helpers share says nothing to whoever reads a test."""
    helpers = [
        *(TESTS / "helpers").glob("*.py"),
        *(p for p in (TESTS / "faults").glob("*.py") if "test_" not in p.name),
    ]
    classes = [node.name for path in helpers for node in parsed(path).body if _is_class(node)]
    assert [name for name, count in Counter(classes).items() if count > 1] == []
    everywhere = [
        node.name
        for path in TESTS.rglob("*.py")
        for node in parsed(path).body
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
    # Of the SDK's folders those that users import have no underscore.
    there = _folders(ROOT / source)
    assert {name for name in tested if name not in there and prefix + name not in there} == set()


_BRANCHES: Final = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.comprehension)
_HAS_LOGIC: Final = 5
"""Branches from which on a module decides something; below, it declares, or passes on."""
_TESTED_BY_NAME: Final = ("agent/tailrace_agent", "sdk/tailrace")
_TESTED_OTHERWISE: Final[dict[str, str]] = {}
"""Modules with logic and no file of tests, and why. Nothing is added here."""


def test_each_module_with_logic_has_a_file_of_tests_of_its_name() -> None:
    lacking = {
        module.relative_to(ROOT).as_posix()
        for root in _TESTED_BY_NAME
        for module in sorted((ROOT / root).rglob("*.py"))
        if _branches(module) >= _HAS_LOGIC and not _tests_of(module).exists()
    }
    assert lacking == set(_TESTED_OTHERWISE)


def _branches(module: Path) -> int:
    nodes = ast.walk(parsed(module))
    return 0 if module.name.startswith("__") else sum(isinstance(node, _BRANCHES) for node in nodes)


def _tests_of(module: Path) -> Path:
    """Of `sdk/tailrace/_log/channel.py` that is `tests/sdk/log/test_channel.py`, of `cli/_app.py` `cli/test_app.py`."""
    part, _, *folders, name = module.relative_to(ROOT).with_suffix("").parts
    return TESTS.joinpath(part, *(folder.strip("_") for folder in folders), f"test_{name.strip('_')}.py")
