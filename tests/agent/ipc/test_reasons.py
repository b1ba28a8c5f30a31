"""Reasons: a closed set, whose words are stored and shown."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

from helpers.sources import parsed
from tailrace_agent.ipc.reasons import Reason, because, of_the_trainer

ROOT = Path(__file__).parents[3]


def test_the_words_are_those_that_spools_and_ledgers_of_all_versions_hold() -> None:
    """Whoever changes one makes two counts out of one. New ones may be added."""
    assert {
        "value is no number",
        "step is no integer",
        "metrics are no mapping",
        "params are no mapping",
        "could not be read",
        "could not be read or drawn",
        "could not be saved",
        "device failed",
        "too many waiting",
        "ring closed",
        "disk full",
        "spill file at its bound",
        "spill file",
        "this process cannot log to the run",
        "damaged in the ring",
        "unreadable row",
        "key is no string",
        "step is too large",
        "staged elsewhere",
        "after its step's statistics",
        "not computed by its device",
        "spool at its bound",
        "lost with a damaged spool",
        "unreadable block",
        "cut short by a power cut",
        "thinned to keep overhead_budget",
        "staged copy is gone",
        "discarded by the user",
    } == set(get_args(Reason))


def test_each_reason_is_given_somewhere() -> None:
    """A reason that nothing is dropped for is a word that nobody can look up."""
    words = set[str]()
    for path in [*(ROOT / "agent" / "tailrace_agent").rglob("*.py"), *(ROOT / "sdk" / "tailrace").rglob("*.py")]:
        if path.name != "reasons.py":
            words |= {
                node.value
                for node in ast.walk(parsed(path))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    assert set(get_args(Reason)) <= words


def test_what_the_system_says_stands_behind_the_reason() -> None:
    assert because("spill file", OSError("Input/output error")) == "spill file: Input/output error"
    assert of_the_trainer("a reason of a later version") == "a reason of a later version"
