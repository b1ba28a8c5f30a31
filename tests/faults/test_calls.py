"""A process dies, or the system refuses, at the n-th system call; and the power goes after the n-th.

A small run in one process, see `faults.calls.small`: a few calls of each here, every one in `make test-faults`.
`FAULTS_STRIDE` (1) walks in steps, `FAULTS_CUTS` (100) is the number of power cuts of each kind.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.calls.cut import Call, Disk
from faults.calls.small import FAILED_TO_START
from faults.calls.struck import FAIL, KILL, SHORT, TORN, Cut, Server, Small, fell, kind_of

STRIDE = int(os.environ.get("FAULTS_STRIDE", "1"))
CUTS = int(os.environ.get("FAULTS_CUTS", "100"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))

Strike = tuple[int, int, int]
"""Mode, errno, for how many calls."""
DEATHS: list[Strike] = [(KILL, 0, 1), (TORN, 0, 1)]
REFUSALS: list[Strike] = [
    *((FAIL, number, times) for times in (1, 4, 25) for number in (errno.ENOSPC, errno.EIO, errno.EINTR, errno.EMFILE)),
    (SHORT, 0, 1),
]
_WHERE = {"spool.db-wal", "spool.db", "session.json", "artifacts", "spill", "ring", "status", "owner", "agent.log"}
_CALLS = {"open", "write", "pwrite", "ftruncate", "rename", "mkdir", "mmap", "fdatasync", "fallocate"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def _strike(server: Server, folder: Path, at: int, strike: Strike, *, later: bool = False) -> Counter[str]:
    """One run that is struck, or whose successor is; where."""
    small = Small(server, folder)
    if later:
        small.run(strike=[200, KILL, 0, 1])
        done = small.recover(strike=[at, *strike], log=str(small.log))
    else:
        done = small.run(strike=[at, *strike], log=str(small.log))
    said = f"at call {at}, {strike}{' of the next agent' if later else ''}: {fell(small.log)}"
    assert done.code in (0, -9, FAILED_TO_START), f"{said}: {small.errors()}"
    if small.begun and not small.finished:
        assert small.recover(must_settle=True).code == 0, f"{said}: {small.errors()}"
    try:
        small.verdict(exact=False)
    except AssertionError as error:
        raise AssertionError(f"{said}: {error}") from error
    return fell(small.log)


def _walk(
    server: Server, folder: Path, strikes: list[Strike], stride: int, *, later: bool = False, first: int = 1
) -> Counter[str]:
    """Strikes one run after the other, each a few calls further; where they fell."""
    small = Small(server, folder)
    total = small.run(strike=[200, KILL, 0, 1] if later else [-1, 0, 0, 0]).calls
    if later:
        total = small.recover().calls
    struck: Counter[str] = Counter()
    for n, strike in zip(range(first, total + 1, stride), itertools.cycle(strikes), strict=False):
        struck += _strike(server, folder, n, strike, later=later)
    print(f"{total} calls; struck: {dict(struck.most_common())}")
    return struck


def _enough(struck: Counter[str]) -> None:
    """A walk that has hardly touched what matters has shown nothing."""
    calls, files = ({place.split(" ", 1)[part] for place in struck} for part in (0, 1))
    assert files >= _WHERE, f"vacuous: nothing fell on {_WHERE - files}"
    assert calls >= _CALLS, f"vacuous: nothing fell in {_CALLS - calls}"


@pytest.mark.slow
def test_a_process_that_dies_at_some_system_call_loses_and_doubles_nothing(server: Server, tmp_path: Path) -> None:
    assert _walk(server, tmp_path / "run", DEATHS, 53, first=17).total() > 5
    assert _walk(server, tmp_path / "run", DEATHS, 71, later=True).total() > 2


@pytest.mark.slow
def test_a_system_call_that_fails_stops_nothing_and_is_counted(server: Server, tmp_path: Path) -> None:
    assert _walk(server, tmp_path / "run", REFUSALS, 61, first=5).total() > 5


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strike", DEATHS, ids=["before the call", "after half of it"])
@pytest.mark.parametrize("later", [False, True], ids=["the first process", "the next agent"])
def test_a_process_that_dies_at_any_system_call_loses_and_doubles_nothing(
    later: bool, strike: Strike, server: Server, tmp_path: Path
) -> None:
    struck = _walk(server, tmp_path / "run", [strike], STRIDE, later=later)
    if not later and STRIDE == 1:
        _enough(struck)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("later", [False, True], ids=["the first process", "the next agent"])
def test_any_system_call_that_fails_stops_nothing_and_is_counted(later: bool, server: Server, tmp_path: Path) -> None:
    for first in range(1, 4):  # three of the refusals meet each call
        _walk(server, tmp_path / "run", REFUSALS[first:] + REFUSALS[:first], STRIDE, later=later)


def _cuts(server: Server, folder: Path, count: int, *, away: int, again: bool = False) -> Counter[str]:
    whole, fallen = Cut(server, folder, away=away), Counter[str]()
    for n in range(count):
        rng = random.Random(f"{SEED} {n}")
        call = whole.cut(rng, again=again)
        fallen[kind_of(call.path)] += 1
        try:
            whole.verdict()
        except AssertionError as error:
            raise AssertionError(f"cut {n} of seed {SEED}, after {call.kind} of {call.path}: {error}") from error
    print(f"{len(whole.calls)} calls; the power went after: {dict(fallen.most_common())}")
    return fallen


@pytest.mark.parametrize("away", [0, 9], ids=["the store is there", "the store is away"])
def test_a_power_cut_takes_half_a_second_and_leaves_all_counts_right(away: int, server: Server, tmp_path: Path) -> None:
    assert _cuts(server, tmp_path / "cut", 10, away=away)["spool.db-wal"]


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("away", [0, 9], ids=["the store is there", "the store is away"])
def test_many_power_cuts_take_half_a_second_each_and_leave_all_counts_right(
    away: int, again: bool, server: Server, tmp_path: Path
) -> None:
    fallen = _cuts(server, tmp_path / "cut", CUTS, away=away, again=again)
    assert CUTS < 100 or fallen.keys() >= {"spool.db-wal", "artifacts", "status"}, f"vacuous: {fallen}"


def test_the_disk_of_a_power_cut_keeps_what_was_synced_and_may_lose_the_rest(tmp_path: Path) -> None:
    path = str(tmp_path / "disk" / "file")
    made = [("m", "", 0, b""), ("c", path, 0, b""), ("w", path, 0, b"kept" * 2048), ("s", path, 0, b"")]
    made += [("w", path, 4096, b"lost" * 2048)]
    found = set()
    for seed in range(50):
        disk = Disk(str(tmp_path / "disk"))
        for kind, name, offset, data in made:
            disk.do(Call(kind, name or str(tmp_path / "disk"), "", offset, data, 0))
        disk.write(random.Random(seed))
        body = Path(path).read_bytes()
        Path(path).unlink()
        assert body[:4096] == b"kept" * 1024
        found.add((len(body), body[4096:4100]))
    assert {(8192, b"kept"), (8192, b"lost"), (12288, b"lost")} <= found
