"""Builds the hot path in C with AddressSanitizer and UndefinedBehaviorSanitizer, and runs Python over it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "agent" / "native"
_FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
_RUNTIMES = ("libasan.so", "libubsan.so")
_BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hatch_build import _compile
print(_compile(Path(sys.argv[2]), Path(sys.argv[3])))
"""


def why_not() -> str | None:
    """What is missing here, or None."""
    if not sys.platform.startswith("linux") or shutil.which("gcc") is None:
        return "the sanitizers need gcc on Linux"
    missing = [name for name in _RUNTIMES if not Path(_runtime(name)).is_absolute()]
    return f"gcc has no {', '.join(missing)} here" if missing else None


def build(out: Path, old: str = "", new: str = "") -> Path:
    """The extension module as the wheel's build makes it, and watched; in its source, `old` became `new`."""
    source = shutil.copytree(NATIVE, out / "native")
    if old:
        found = [file for file in source.iterdir() if old in file.read_text()]
        assert len(found) == 1, f"{old!r} stands in {len(found)} files"
        found[0].write_text(found[0].read_text().replace(old, new))
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(ROOT), str(source / "log.c"), str(out)],
        env={**os.environ, "CC": "gcc", "CFLAGS": f"-O1 -g {_FLAGS}", "LDFLAGS": _FLAGS},
        capture_output=True,
        text=True,
        check=False,
    )
    module = Path(done.stdout.splitlines()[-1] if done.stdout else "")
    assert module.is_file(), done.stdout + done.stderr
    return module


def watched(module: Path, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs Python with such a module in the place of the one that is installed.

    Python takes each object from `malloc`, so that the sanitizer knows where it ends, and when it is gone.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(map(_runtime, _RUNTIMES)),
            "ASAN_OPTIONS": "detect_leaks=0",  # of Python's own there are many
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)]),
            "FUZZING_NATIVE": str(module),
        },
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _runtime(name: str) -> str:
    return subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
