"""Where what a run has printed lies among its artifacts: never in the place of what an earlier program has printed.

A program that resumes a run says so, and is named by its start from the beginning. A job that is started anew under the
same name goes on in its run without a word: whether an earlier session has stored anything is found out in MLflow,
once for each rank, before the first upload. What a launcher starts anew within one session goes on in the same file.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import Final

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.files.ownership import make_parents
from tailrace_agent.ipc.records import RunSpec, run_hex
from tailrace_agent.sinks.base import Sink

__all__ = ["printed_name", "set_apart"]

_TOP: Final = re.compile(r"(console\.log|traceback\.txt|crash\.txt)")
_BESIDE: Final = re.compile(r"rank([0-9]+)\.(log|traceback\.txt|crash\.txt)")


def printed_name(spec: RunSpec, rank: int, name: str) -> str:
    """Where a file of a rank lies: at the top, if it is that of the run as such.

    Args:
        spec: The run.
        rank: Whose.
        name: `console.log`, `traceback.txt`, `crash.txt`.

    Example:
        >>> printed_name(RunSpec(run=1, start_time=0, cwd="/"), 3, "console.log")
        'console/rank3.log'
    """
    # the run has those of the programs before this one
    return _name(_by_start(spec) if spec.run_id is not None and not spec.created else "", rank, name)


def set_apart(sink: Sink, book: RunBook, state: RunState, folder: Path) -> None:
    """Gives the files that are to be stored other names, where MLflow has such of a session before this one.

    Args:
        sink: Where the run is.
        book: Keeps what was found out.
        state: The run, which MLflow knows.
        folder: The files, by the names that `printed_name` gives; these of ours may be renamed already.

    Raises:
        Unavailable: It could not be found out.
        OSError: The files cannot be renamed.
    """
    spec = state.spec
    if spec.job is None or spec.run_id is not None:
        return
    for rank, name, path in _files(folder):
        if rank not in state.printed_as:
            there = _is_there(sink, state, printed_name(spec, rank, "console.log"))
            book.update(state.run, printed_as={**state.printed_as, rank: _by_start(spec) if there else ""})
        if state.printed_as[rank]:
            placed = folder / _name(state.printed_as[rank], rank, name)
            make_parents(placed.parent)
            path.replace(placed)


def _name(earlier: str, rank: int, name: str) -> str:
    of = [*([earlier] if earlier else []), *([f"rank{rank}"] if rank else [])]
    return f"console/{'-'.join(of)}.{name.removeprefix('console.')}" if of else name


def _by_start(spec: RunSpec) -> str:
    started = time.strftime("resumed-%Y%m%d-%H%M%S", time.gmtime(spec.start_time / 1000))
    # Of several within a second none is to replace another; those of one job have one id.
    number = run_hex(spec.run) if spec.job is None else run_hex(spec.run ^ spec.start_time)
    return f"{started}-{number[-6:]}"


def _files(folder: Path) -> list[tuple[int, str, Path]]:
    """Rank, name and place of each that has not yet another name."""
    found = [(0, path.name, path) for path in folder.iterdir() if _TOP.fullmatch(path.name)]
    for path in (folder / "console").glob("*"):
        if rank := _BESIDE.fullmatch(path.name):
            name = "console.log" if rank[2] == "log" else rank[2]
            found.append((int(rank[1]), name, path))
    return sorted(found)


def _is_there(sink: Sink, state: RunState, name: str) -> bool:
    assert state.ref is not None
    with tempfile.TemporaryDirectory(prefix="tailrace-") as folder:
        return sink.fetch_artifact(state.ref.run_id, name, Path(folder)) is not None
