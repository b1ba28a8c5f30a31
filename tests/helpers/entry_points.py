"""The wheel's entry points for programs that tests start: those of an editable install may be older."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["lay_entry_points"]

ROOT = Path(__file__).parents[2]


def lay_entry_points(tmp_path: Path) -> str:
    """Writes them as `pyproject.toml` has them into a directory; what `PYTHONPATH` has to be for who is to see them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    directory = tmp_path / "installed" / f"tailrace-{project['version']}.dist-info"
    directory.mkdir(parents=True)
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in each.items()) for group, each in groups.items()
    ]
    (directory / "entry_points.txt").write_text("\n".join(lines))
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tailrace\nVersion: {project['version']}\n")
    places = [str(directory.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.pathsep.join(places)
