"""The house: who may know whom, what is nobody else's business, and how long a module may be."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from helpers.sources import parsed

ROOT = Path(__file__).parents[2]
PACKAGES = {"tailrace": ROOT / "sdk" / "tailrace", "tailrace_agent": ROOT / "agent" / "tailrace_agent"}
MODULES = sorted(path for package in PACKAGES.values() for path in package.rglob("*.py"))
FOREIGN = {"_replace", "_asdict", "_fields"}
"""Names of named tuples that only look private."""
OF_OTHERS = {
    "agent/tailrace_agent/bulk/tables.py": {"_check_run_is_active", "_get_run"},  # MLflow's, for its own words
    "agent/tailrace_agent/console/forks.py": {"_accept", "_exit"},  # Python's: to load `socket` takes too long
    "agent/tailrace_agent/mlflow/http_bounds.py": {"_content", "_content_consumed"},  # requests': a body within bounds
    "agent/tailrace_agent/mlflow/databases.py": {
        "_make_parent_dirs_if_sqlite",
        "_safe_initialize_tables",
        "_all_tables_exist",
        "_get_latest_schema_revision",
        "_get_schema_version",
        "_initialize_tables",
    },  # MLflow's
    "sdk/tailrace/_fluent/beside.py": {"_active_run_stack"},  # MLflow's
    "sdk/tailrace/_fluent/traced.py": {"_active_run_stack"},  # MLflow's
    "sdk/tailrace/store/batches.py": {
        "_ACTIVE_MODEL_CONTEXT",
        "_get_store_with_resolved_uri",
        "_tracking_client",
    },  # MLflow's
    "sdk/tailrace/store/fluent_metrics.py": {
        "_ACTIVE_MODEL_CONTEXT",
        "_active_run_stack",
        "_get_store_with_resolved_uri",
    },  # MLflow's
    "sdk/tailrace/_log/device_slots.py": {"_C", "_cuda_getCurrentRawStream"},  # torch's: a handle that C can use
    "sdk/tailrace/_log/thinning.py": {"_version"},  # torch's: how often a tensor was changed in place
    "sdk/tailrace/store/active_run.py": {"_active_run_stack"},  # MLflow's
    "sdk/tailrace/store/artifacts.py": {"_artifact_repos_cache", "_get_artifact_repo"},  # MLflow's
    "sdk/tailrace/store/links.py": {"_log_url"},  # MLflow's
    "sdk/tailrace/store/overlay.py": {"_metric_objs"},  # MLflow's, with steps and times
    "sdk/tailrace/store/placing.py": {"_get_store_with_resolved_uri"},  # MLflow's
    "sdk/tailrace/store/schemes.py": {"_tracking_store_registry"},  # MLflow's
    "sdk/tailrace/_messages/suggestions.py": {"_getframe"},  # Python's own, and the only way
    "sdk/tailrace/demo.py": {"_optimizer"},  # scikit-learn's, for the gradient's norm
}
"""Libraries that offer no other way."""


def _own_names(tree: ast.Module) -> set[str]:
    """What a module defines, or keeps in its own objects."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def _touched(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Private names of others that a module uses."""
    own = _own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            through_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not through_self and node.attr not in own | FOREIGN:
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tailrace"):
            within = (node.module or "").endswith(".cli")  # whose private modules are its own
            for name in node.names:
                if name.name.startswith("_") and not within:
                    yield node.lineno, name.name


def test_no_module_reaches_for_another_ones_private_names() -> None:
    found = []
    for path in MODULES:
        name = path.relative_to(ROOT).as_posix()
        for line, touched in _touched(parsed(path)):
            if touched not in OF_OTHERS.get(name, ()):
                found.append(f"{name}:{line}: {touched}")
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_one_another_in_a_circle_those_for_types_counted(package: str) -> None:
    graph = grimp.build_graph(package, cache_dir=None)
    root = package  # `import tailrace` in the demo, as its readers write it
    below = {
        module: {other for other in graph.find_modules_directly_imported_by(module) if other != root}
        for module in graph.modules
        if module != root
    }
    while True:
        leaves = {module for module, imported in below.items() if not imported & below.keys()}
        if not leaves:
            break
        for module in leaves:
            del below[module]
    assert sorted(below) == []


def test_modules_are_short() -> None:
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: n for name, n in lines.items() if n > 500} == {}
    assert statistics.median(lines.values()) < 200


def test_no_folder_has_a_single_module() -> None:
    folders = {path.parent for path in MODULES}
    alone = [
        folder.relative_to(ROOT).as_posix()
        for folder in folders
        if len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) < 2
    ]
    assert alone == []
