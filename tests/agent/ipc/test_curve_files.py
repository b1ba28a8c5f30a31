"""The curves in shared memory: asked for, written, read."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest

from tailrace_agent.ipc import curve_files
from tailrace_agent.ipc.curve_files import LOOKS_FOR, RunCurves
from tailrace_agent.ipc.curves import Curve


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / "shared"
    directory.mkdir(mode=0o700)
    return directory


def _curve(*values: float) -> Curve:
    curve = Curve()
    curve.add([(n, n, value) for n, value in enumerate(values)])
    return curve


def test_what_was_written_is_read_back_to_the_last_bit(shared: Path) -> None:
    curve = _curve(1.0, math.nan, -0.1, math.inf)
    curve_files.write(shared, 7, RunCurves(curves={"a/b": curve.drawn}, left_out=3))
    found = curve_files.read(shared, 7)
    assert found is not None
    assert found.left_out == 3
    assert found.curves["a/b"].line == curve.line
    assert found.curves["a/b"].last == (3, 3, math.inf)
    assert curve_files.curve_file(shared, 7).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("body", [b"", b"\xff\xff", b"\x81\xa6curves\x01", b"x" * 1000])
def test_what_is_no_curve_file_is_none(shared: Path, body: bytes) -> None:
    assert curve_files.read(shared, 7) is None
    path = curve_files.curve_file(shared, 7)
    path.write_bytes(body)
    path.chmod(0o600)
    assert curve_files.read(shared, 7) is None


def test_lines_of_odd_bytes_are_as_long_as_they_can_be(shared: Path) -> None:
    drawn = _curve(1.0, 2.0).drawn
    odd = type(drawn)(drawn.width, 0, None, None, None, drawn.lows + b"123", drawn.highs[:8], drawn.lasts)
    curve_files.write(shared, 7, RunCurves(curves={"a": odd}))
    found = curve_files.read(shared, 7)
    assert found is not None
    assert [span.low for span in found.curves["a"].line] == [1.0]


def test_a_request_holds_for_a_while_whatever_the_clock_did(shared: Path) -> None:
    now = time.time()
    assert not curve_files.is_asked(shared, now)
    curve_files.ask(shared)
    assert curve_files.is_asked(shared, now)
    assert not curve_files.is_asked(shared, now + LOOKS_FOR + 1)
    assert not curve_files.is_asked(shared, now - LOOKS_FOR - 1), "it is from the future: the clock was set back"
    os.utime(shared / "curves.wanted", (1, 1))
    curve_files.ask(shared)
    assert curve_files.is_asked(shared, time.time())
