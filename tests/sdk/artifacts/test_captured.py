"""The names of artifacts: within the run, normalized, in two parts."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace._artifacts.captured import BadArtifact
from tailrace._artifacts.documents import freeze_dict, freeze_text
from tailrace._artifacts.tables import freeze_table
from tailrace_agent.errors import CallError


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/../../x", "dir/", 3.5, None])
def test_a_path_that_leads_out_of_the_run_is_refused(name: Any) -> None:
    for freeze in (
        lambda: freeze_text("x", name),
        lambda: freeze_dict({}, name),
        lambda: freeze_table({"a": [1]}, name),
    ):
        with pytest.raises(BadArtifact, match="artifact_file must be"):
            freeze()
    assert issubclass(BadArtifact, CallError)
    assert issubclass(BadArtifact, ValueError)


def test_a_path_is_normalized_and_told_in_two_parts() -> None:
    (part,) = freeze_text("x", "a//b/../c.txt").parts
    assert (part.artifact_file, part.artifact_path, part.name) == ("a/c.txt", "a", "c.txt")
    (part,) = freeze_text("x", "c.txt").parts
    assert (part.artifact_path, part.name) == (None, "c.txt")
