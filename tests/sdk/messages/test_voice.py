"""Lines on standard error: as the stream can hold them, and none when asked for quiet."""

from __future__ import annotations

import io
import sys

import pytest

from helpers.sdk_tools import said, tracking
from tailrace._messages import voice


def test_quiet_prints_nothing_at_all_when_all_is_well(
    sqlite_uri: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TAILRACE_QUIET", "1")
    with tracking(sqlite_uri, quiet=None) as sdk, sdk.start_run():
        sdk.log(loss=1)
    assert capsys.readouterr() == ("", "")
    assert said(caplog) == []


def test_a_stream_without_the_characters_of_a_line_gets_them_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(stream, encoding="ascii"))
    voice.print_line("run 'é' → there")
    assert stream.getvalue() == b"tailrace: run '\\xe9' \\u2192 there\n"
