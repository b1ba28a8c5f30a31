"""The wheel: built from the source distribution, installed into a clean environment, complete and typed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="the tests run outside of the source tree"
)


def _run(*command: object, cwd: Path) -> str:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TAILRACE_"))}
    environ["KERAS_BACKEND"] = "torch"
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environ, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution (so that this one is complete, too)."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of a new environment: the wheel in it, its dependencies borrowed from here."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    python = venv / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=venv.parent)
    # A .pth inside of a directory that comes from a .pth is not read, so the editable install here stays out.
    (site_packages,) = venv.glob("lib/python*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.mark.slow
def test_the_wheel_holds_its_packages_their_types_and_the_license_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "tailrace",
        "tailrace_agent",
        "tailrace_mlflow",
    }
    for wanted in (
        "tailrace/__init__.py",
        "tailrace/py.typed",
        "tailrace_agent/__init__.py",
        "tailrace_agent/py.typed",
        "tailrace_mlflow/__init__.py",
    ):
        assert wanted in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_metadata_asks_for_ranges_and_keeps_torch_an_extra(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(archive.read(name).decode())
    required = metadata.get_all("Requires-Dist") or []
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert not [requirement for requirement in required if "==" in requirement.split(";")[0]]
    assert [requirement for requirement in required if requirement.startswith("mlflow")]
    assert all("extra ==" in requirement for requirement in required if requirement.startswith("torch"))


@pytest.mark.slow
def test_the_installed_wheel_has_the_hot_path_in_c(wheel: Path, clean_python: Path) -> None:
    script = "from tailrace_agent.ipc import native; print(native.why_not)"
    assert _run(clean_python, "-c", script, cwd=clean_python.parent).split() == ["None"]
    assert f"-cp{sys.version_info[0]}{sys.version_info[1]}-" in wheel.name


@pytest.mark.slow
def test_without_a_compiler_the_wheel_is_pure_python_unless_the_builder_insists(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir"]
    monkeypatch.setenv("CC", "false")  # a compiler that always fails
    _run(*build, tmp_path / "pure", cwd=source)
    (pure,) = (tmp_path / "pure").glob("*.whl")
    assert pure.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(pure).namelist() if name.endswith(".so")]
    with pytest.raises(AssertionError, match="could not be compiled"):
        _run("env", "TAILRACE_BUILD_NATIVE=1", *build, tmp_path / "none", cwd=source)


def test_the_installed_wheel_imports_from_a_clean_environment(clean_python: Path) -> None:
    script = "import tailrace, tailrace_agent; print(tailrace.__file__); print(tailrace_agent.__file__)"
    venv = clean_python.parents[1]
    for line in _run(clean_python, "-c", script, cwd=venv).split():
        assert Path(line).is_relative_to(venv)


@pytest.mark.slow
def test_every_module_of_the_installed_wheel_imports(clean_python: Path) -> None:
    script = """
import importlib, pkgutil, tailrace, tailrace_agent
for package in (tailrace, tailrace_agent):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ImportError as error:  # a framework that is not installed here
            assert module.name.startswith("tailrace.integrations.") and "pip install" in str(error), error
"""
    _run(clean_python, "-c", script, cwd=clean_python.parent)


def test_the_installed_command_answers(clean_python: Path) -> None:
    assert "status" in _run(clean_python.parent / "tailrace", "--help", cwd=clean_python.parent)


def test_the_constraints_pin_every_line_exactly_and_name_no_index() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert "torch==2.13.0" in lines
    for line in lines:
        assert "==" in line.split(";")[0]
        assert not line.startswith("-")
        assert "+" not in line.split(";")[0]
        assert "://" not in line


def test_make_clean_removes_caches_and_keeps_every_run(tmp_path: Path) -> None:
    runs = ["mlflow.db", "mlruns/1/meta.yaml", "runs.tailrace.zip", "reports/metrics.json"]
    caches = ["build/x", ".pytest_cache/x", ".mypy_cache/x", "sdk/__pycache__/x.pyc"]
    for name in (*runs, *caches):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    _run("make", "-f", ROOT / "Makefile", "clean", cwd=tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(runs)
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"mlflow.db", "mlruns/", "reports/", "*.tailrace.zip"} <= set(ignored)
