"""MLflow's rules for names, kept without importing it."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.ipc.records import Kind
from tailrace_agent.mlflow.name_rules import name_fault
from tailrace_agent.mlflow.own_runs import MlflowRuns

KINDS: tuple[Kind, ...] = ("metric", "param", "tag", "artifact")
NAMES = [
    "loss",
    "a/b",
    "ä",
    "a b",
    "a:b",
    "loss(train)",
    "",
    ".",
    "..",
    "/a",
    "//a",
    "a//b",
    "a/../b",
    "a\\b",
    "x" * 250,
]
NAMES += [
    "x" * 251,
    "a\nb",
    "a\n",
    "é̂",
    "\ud800",
    "..a",
    "./a",
    "a/",
    " ",
    "%",
    "_",
    "-",
    "a\tb",
    "\u2028",
    "…",
    "٣",
    "/",
]
_MLFLOWS = MlflowRuns("", object(), 1)


def test_a_name_is_judged_in_mlflows_own_words() -> None:
    for kind, name in itertools.product(KINDS, NAMES):
        assert name_fault(kind, name) == _MLFLOWS.name_fault(kind, name), (kind, name)


@given(st.sampled_from(KINDS), st.text(max_size=12) | st.text("a./ :-_#\n", max_size=12))
def test_any_name_is_judged_in_mlflows_own_words(kind: Kind, name: str) -> None:
    assert name_fault(kind, name) == _MLFLOWS.name_fault(kind, name)
