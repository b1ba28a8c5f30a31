"""Each byte of an archive of runs, and of each file in it, flipped: it is read as it was, or refused as an archive."""

from __future__ import annotations

import json
import mmap
import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzzing.flips import flips
from helpers.archives import RUN_ID, consumed, files, harmless, manifest, packed

some_or_all = pytest.mark.parametrize("most", [40, pytest.param(None, marks=pytest.mark.faults)], ids=["some", "all"])


def refusals(path: Path, bodies: list[bytes], tmp_path: Path) -> int:
    """How many of them are refused; the others are read as if nothing had been flipped."""
    refused = 0
    for number, body in enumerate(bodies):
        path.write_bytes(body)
        into = tmp_path / str(number)
        said = harmless(path, into)
        refused += said is not None
        assert said != ""
        if said is None:
            found = {file.relative_to(into / RUN_ID).as_posix(): file.read_bytes() for file in into.rglob("*.txt")}
            assert list(found.values()) == [b"hello"]
    return refused


@pytest.mark.timeout(3600)
@some_or_all
def test_an_archive_with_one_flipped_byte_is_read_as_it_was_or_refused(tmp_path: Path, most: int | None) -> None:
    path = packed(tmp_path / "a.zip", files())
    bodies = [body for _, body in flips(path.read_bytes(), most)]
    assert refusals(path, bodies, tmp_path) > len(bodies) // 2


@pytest.mark.timeout(3600)
@some_or_all
@pytest.mark.parametrize("part", ["run.json", "metrics.parquet", "manifest.json"])
def test_an_archive_one_of_whose_files_was_forged_by_a_byte_is_read_or_refused(
    tmp_path: Path, part: str, most: int | None
) -> None:
    """The sums fit: whoever flipped it has written the manifest, too."""
    path = packed(tmp_path / "a.zip", files())
    whole = files()
    if part == "manifest.json":
        body = json.dumps(manifest(whole)).encode()
        for number, (_, flipped) in enumerate(flips(body, most)):
            harmless(_with_manifest(path, whole, flipped), tmp_path / str(number))
        return
    name = f"runs/{RUN_ID}/{part}"
    bodies = [flipped for _, flipped in flips(whole[name], most)]
    _in_children(len(bodies), lambda at: harmless(packed(path, {**whole, name: bodies[at]}), tmp_path / str(at)))


def _in_children(count: int, check: Callable[[int], object]) -> None:
    """Parquet's C++ may end its process (SIGABRT), which an import survives; see `check_points_apart`.

    Where that has happened, the next child goes on behind it.
    """
    first = 0
    with mmap.mmap(-1, 8) as reached:
        while first < count:
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                    for number in range(first, count):
                        reached[:] = number.to_bytes(8, "little")
                        check(number)
                    status = 0
                finally:
                    os._exit(status)
            _, status = os.waitpid(pid, 0)
            if status == 0:
                return
            assert os.WIFSIGNALED(status)
            assert os.WTERMSIG(status) == signal.SIGABRT
            first = int.from_bytes(reached[:], "little") + 1


def _with_manifest(path: Path, whole: dict[str, bytes], body: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as into:
        for name, each in {**whole, "manifest.json": body}.items():
            into.writestr(name, each)
    return path


def test_an_archive_in_which_nothing_was_flipped_is_read(tmp_path: Path) -> None:
    assert consumed(packed(tmp_path / "a.zip", files()), tmp_path / "into")
