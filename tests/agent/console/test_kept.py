"""A text with a bound."""

from __future__ import annotations

import re
from pathlib import Path

from tailrace_agent.console.kept import KeptText, left_out_line


def test_what_has_room_is_there_as_it_came(tmp_path: Path) -> None:
    kept = KeptText(tmp_path / "console.log", 1000)
    kept.append("a\n")
    kept.append("b\n")
    assert (tmp_path / "console.log").read_text() == "a\nb\n"
    kept.copy(tmp_path / "copy", "begun")
    assert (tmp_path / "copy").read_text() == "a\nb\nbegun"


def test_of_too_much_the_middle_is_left_out_and_counted(tmp_path: Path) -> None:
    kept = KeptText(tmp_path / "console.log", 1000)
    lines = [f"line {number}\n" for number in range(5000)]
    for line in lines:
        kept.append(line)
        assert kept.size <= 1300
    kept.copy(tmp_path / "copy", "")
    text = (tmp_path / "copy").read_text()
    assert len(text.encode()) <= 1000 + len(left_out_line(10**9)) + 10
    assert text.startswith("line 0\nline 1\n")
    assert text.endswith("line 4998\nline 4999\n")
    (count,) = re.findall(r"^\[… ([0-9,]+) bytes left out …\]$", text, re.MULTILINE)
    rest = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("[…"))
    assert int(count.replace(",", "")) + len(rest) == len("".join(lines))


def test_whoever_follows_the_file_sees_that_another_one_has_taken_its_place(tmp_path: Path) -> None:
    kept = KeptText(tmp_path / "console.log", 1000)
    before = kept.path.stat().st_ino
    with kept.path.open() as follower:
        for number in range(2000):
            kept.append(f"line {number}\n")
        assert follower.readline() == "line 0\n"
    assert kept.path.stat().st_ino != before
