"""What the release is made of: pins with hashes, workflows that read, and a threat model whose tests exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

pytestmark = pytest.mark.skipif(not (ROOT / "tools").exists(), reason="the tests run outside of the source tree")


def _requirements(name: str) -> list[Requirement]:
    text = re.sub(r" *\\\n *--hash=\S+", "", (ROOT / name).read_text(encoding="utf-8"))
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def _pins(name: str, python: str) -> dict[str, str]:
    """The versions that a file of pins names for Linux and one Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    return {
        canonicalize_name(requirement.name): str(requirement.specifier)
        for requirement in _requirements(name)
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_says_what_the_constraints_say_and_leaves_out_torch_alone(python: str) -> None:
    constraints, lock = _pins("constraints.txt", python), _pins("requirements.lock", python)
    assert {name: pin for name, pin in lock.items() if constraints.get(name) != pin} == {}
    assert set(constraints) - set(lock) == {"torch", "mpmath", "networkx", "sympy"}


@pytest.mark.parametrize("name", ["requirements.lock", "tools/requirements.txt"])
def test_every_line_of_a_lock_has_a_hash_and_none_an_address(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    entries = [entry for entry in re.split(r"\n(?=[a-z])", text) if not entry.startswith("#")]
    assert len(entries) > 30
    for entry in entries:
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text


def _load(workflow: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_reads_and_its_jobs_are_bounded(workflow: Path) -> None:
    loaded = _load(workflow)
    assert set(loaded) - {"env", "concurrency"} == {"name", True, "permissions", "jobs"}  # YAML reads `on` as a truth
    assert loaded["permissions"] == {"contents": "read"}
    for name, job in loaded["jobs"].items():
        assert job["timeout-minutes"] <= 60, name
        assert set(_needed_by(job)) <= set(loaded["jobs"]), name
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), (name, step)
            if "uses" in step:  # by what it is, since a tag can be moved
                assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"]), (name, step)
            for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
                assert f"\n{target}: " in (ROOT / "Makefile").read_text(), target
            for file in re.findall(r"(?<![\w-])tools/[\w.]+", step.get("run", "")):
                assert (ROOT / file).exists(), file


def _needed_by(job: dict[str, Any]) -> list[str]:
    needs = job.get("needs", [])
    return [needs] if isinstance(needs, str) else needs


def test_every_python_is_tested_and_gets_a_wheel_that_is_tried() -> None:
    assert WORKFLOWS
    tested = _load(ROOT / ".github/workflows/test.yml")["jobs"]["pinned"]["strategy"]["matrix"]["python"]
    tried = _load(ROOT / ".github/workflows/release.yml")["jobs"]["smoke"]["strategy"]["matrix"]["python"]
    project = (ROOT / "pyproject.toml").read_text()
    built = re.findall(r"\bcp(3)(\d+)-\*", project)
    assert tuple(tested) == tuple(tried) == tuple(f"{major}.{minor}" for major, minor in built) == PYTHONS
    assert set(re.findall(r"Python :: (3\.\d+)", project)) <= set(PYTHONS)


def test_only_the_job_that_publishes_may_sign_and_it_waits_for_every_try() -> None:
    jobs = _load(ROOT / ".github/workflows/release.yml")["jobs"]
    assert [name for name, job in jobs.items() if "permissions" in job] == ["publish"]
    assert set(_needed_by(jobs["publish"])) == set(jobs) - {"publish"}
    assert "refs/tags/v" in jobs["publish"]["if"]


def test_every_line_of_the_threat_model_names_a_test_that_exists_or_says_that_there_is_none() -> None:
    page = (ROOT / "docs" / "architecture" / "threats.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| what ")]
    assert len(rows) > 20
    missing = []
    for row in rows:
        held_by = row.split("|")[-2]
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", held_by)
        assert named or held_by.strip() == "**no test**", row
        for file, test in named:
            if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8"):
                missing.append(f"{file}::{test}")
    assert missing == []
