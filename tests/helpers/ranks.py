"""Ranks without torch: processes that a launcher has started with torchrun's variables, in a fifth of a second."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

__all__ = ["LAUNCHER", "launch", "start"]

LAUNCHER = """
import os, signal, subprocess, sys, time

# What torchrun does: starts the ranks of one node, stops all when one falls, starts them anew, and fails at last.
script, ranks, nodes, node, restarts, run_id = sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6]
for attempt in range(restarts + 1):
    workers = []
    for rank in range(ranks):
        variables = {
            "RANK": node * ranks + rank, "WORLD_SIZE": ranks * nodes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks,
            "GROUP_RANK": node, "GROUP_WORLD_SIZE": nodes, "TORCHELASTIC_RUN_ID": run_id,
            "TORCHELASTIC_RESTART_COUNT": attempt, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500,
        }
        environ = os.environ | {name: str(value) for name, value in variables.items()}
        workers.append(subprocess.Popen([sys.executable, script], env=environ))
    while True:
        codes = [worker.poll() for worker in workers]
        if all(code == 0 for code in codes):
            sys.exit(0)
        if any(codes):
            break
        time.sleep(0.1)
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    for worker in workers:
        worker.wait()
sys.exit(1)
"""


def start(
    directory: Path, code: str, *, ranks: int = 2, nodes: int = 1, node: int = 0, restarts: int = 0,
    run_id: str = "none", before: tuple[str, ...] = (), **variables: str,
) -> subprocess.Popen[str]:  # fmt: skip
    """Starts a launcher of several ranks of one program.

    Args:
        directory: Where it works, and keeps its state.
        code: The program.
        ranks: How many there are on this node.
        nodes: How many nodes there are.
        node: Which one this is.
        restarts: How often the launcher starts all anew after a rank has fallen.
        run_id: What torchrun's `--rdzv-id` would be.
        before: Command and arguments that are to start the launcher.
        **variables: For all of them.
    """
    directory.mkdir(exist_ok=True)
    (directory / "launcher.py").write_text(LAUNCHER)
    (directory / "train.py").write_text(textwrap.dedent(code))
    environ = {**os.environ, "TAILRACE_DIR": str(directory / "tailrace"), "PYTHONPATH": os.pathsep.join(sys.path)}
    environ["PYTHONUNBUFFERED"] = ""  # or a line of one rank gets in between the text and the end of another's
    arguments = [str(directory / "train.py"), *map(str, (ranks, nodes, node, restarts)), run_id]
    return subprocess.Popen(
        [*before, sys.executable, str(directory / "launcher.py"), *arguments],
        cwd=directory,
        env=environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(directory: Path, code: str, **options: Any) -> tuple[int, str, str]:
    """Does so, and waits: exit code, standard output, standard error."""
    with start(directory, code, **options) as launcher:
        out, err = launcher.communicate(timeout=100)
    return launcher.returncode, out, err
