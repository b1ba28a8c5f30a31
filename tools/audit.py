"""Asks a public service about known vulnerabilities of every pinned package: `make audit`.

Exit status: 0 nothing is known, 1 something is, 2 not every package could be asked about. pip-audit itself calls it a
success when its service knows none of the packages, as it looks behind a mirror or a proxy without that service.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "tools/requirements.txt")


def main() -> int:
    """Audits each file of pins, all of them whatever the first one says."""
    return max([audit(name) for name in LOCKS])


def audit(name: str) -> int:
    """Audits one file of pins, and says what came out."""
    # Without pip, which would download each package: the pins and their hashes are all that is needed.
    options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, "-r", str(ROOT / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:  # no answer at all
        print(f"{name}: NOT CHECKED, the vulnerability service gave no answer:\n{done.stderr.strip()[-1000:]}")
        return 2
    known = [(package, fault) for package in packages for fault in package.get("vulns", ())]
    for package, fault in known:
        mended = ", ".join(fault["fix_versions"]) or "no version yet"
        print(f"{name}: {package['name']} {package['version']}: {fault['id']}, mended in {mended}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped:
        names = ", ".join(skipped[:5]) + (", …" if len(skipped) > 5 else "")
        print(f"{name}: NOT CHECKED, {len(skipped)} of {len(packages)} packages the service says nothing of: {names}")
        print("Where there is no way to it, the public workflow (.github/workflows/audit.yml) is what checks.")
    elif not known:
        print(f"{name}: {len(packages)} packages, no known vulnerability")
    return 1 if known else 2 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
