"""Builds the hot path in C into the wheel where there is a C compiler; without one, the wheel is pure Python.

Both kinds do the same: `tailrace_agent.ipc.native` says which one is installed, and `tailrace doctor` shows it.
`TAILRACE_BUILD_NATIVE=0` leaves the C out; `TAILRACE_BUILD_NATIVE=1` makes its failure the build's, for those who
publish wheels.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MODULE = "tailrace_agent._native"


class NativeHook(BuildHookInterface[Any]):
    """Compiles one extension module for the interpreter that builds."""

    PLUGIN_NAME = "custom"
    _out: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the module to the wheel, or puts it beside its source for an editable install."""
        wanted = os.environ.get("TAILRACE_BUILD_NATIVE")
        if wanted == "0":
            return
        agent = Path(self.root, "agent")
        # Of this build alone, since others may go on in the same tree; and that may be read-only.
        self._out = Path(tempfile.mkdtemp(prefix="tailrace-build-"))
        built = _compile(agent / "native" / "log.c", self._out)
        here = agent / "tailrace_agent" / built.name
        if not built.exists():
            if wanted == "1":
                raise RuntimeError(f"{_MODULE} could not be compiled; see the compiler's messages above")
            self.app.display_warning(
                "tailrace: no hot path in C (see above); log() will take two to five times as long"
            )
            if version == "editable":
                here.unlink(missing_ok=True)  # an older one
            return
        if version == "editable":
            new = shutil.copy2(built, here.with_name(f"{here.name}.new"))
            new.replace(here)  # whole: a running program may have the old one mapped
            return
        build_data["force_include"][str(built)] = f"tailrace_agent/{built.name}"
        # The tag names this Python and this system: pip installs it nowhere else.
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, *_: object) -> None:
        """Removes what was compiled, now that it is in the wheel."""
        if self._out is not None:
            shutil.rmtree(self._out, ignore_errors=True)


def _compile(source: Path, out: Path) -> Path:
    """Where the module is if this went well."""
    # Here, since a build without C needs no setuptools.
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    # Optional: setuptools itself says what went wrong, and goes on.
    extension = Extension(_MODULE, [str(source)], extra_compile_args=["-std=gnu11"], optional=True)
    command = build_ext(Distribution({"name": "tailrace", "ext_modules": [extension]}))
    command.build_lib, command.build_temp = str(out), str(out / "objects")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath(_MODULE))
