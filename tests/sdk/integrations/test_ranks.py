"""`integrations/ranks`: the first of several processes logs."""

from __future__ import annotations

import sys
import types

import pytest

from tailrace.integrations.ranks import is_alone, is_first


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        ({}, True),
        ({"WORLD_SIZE": "2", "RANK": "0"}, True),
        ({"WORLD_SIZE": "2", "RANK": "1"}, False),
        ({"RANK": "1"}, True),  # of something else
    ],
)
def test_the_launcher_says_which_one_it_is(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], first: bool
) -> None:
    monkeypatch.delitem(sys.modules, "torch.distributed", raising=False)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert is_first() is first
    assert is_alone() is ("WORLD_SIZE" not in environ or environ["WORLD_SIZE"] == "1")


def test_torch_knows_better_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    known = types.SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 1, get_world_size=lambda: 2
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", known)  # type: ignore[arg-type]
    assert is_first() is False
    assert is_alone() is False
