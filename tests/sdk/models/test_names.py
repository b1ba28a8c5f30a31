"""What models may be called: what MLflow would refuse after the upload is an error at the call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tailrace._models.names import aliases_of, check_names, mapping_of, step_of, tags_of
from tailrace_agent.errors import CallError


def test_one_alias_several_or_none() -> None:
    assert aliases_of(None) == ()
    assert aliases_of("best") == ("best",)
    assert aliases_of(["a", "b"]) == ("a", "b")
    for wrong in (5, {"a": 1}, b"a"):
        with pytest.raises(CallError, match="alias must be a text or several"):
            aliases_of(wrong)  # type: ignore[arg-type]


def test_tags_are_texts_and_anything_without_names_is_refused() -> None:
    assert tags_of({"a": 1, 2: None}) == {"a": "1", "2": "None"}  # type: ignore[dict-item]
    assert tags_of(None) == {}
    with pytest.raises(CallError, match="tags must be a mapping, not list"):
        tags_of([("a", 1)])  # type: ignore[arg-type]


def test_a_mapping_is_copied() -> None:
    given = {"a": 1}
    taken = mapping_of("metadata", given)
    given["b"] = 2
    assert taken == {"a": 1}


@pytest.mark.parametrize(("step", "expected"), [(None, 0), (7, 7), (np.int64(7), 7), (2**63 - 1, 2**63 - 1), (True, 1)])
def test_a_step_is_an_integer_of_64_bits(step: Any, expected: int) -> None:
    assert step_of(step) == expected


@pytest.mark.parametrize("step", [7.0, "7", 2**63, -(2**63) - 1])
def test_what_is_no_such_integer_is_refused(step: Any) -> None:
    with pytest.raises(CallError, match="step must be an integer of 64 bits"):
        step_of(step)


def test_names_that_mlflow_takes_pass() -> None:
    check_names("net", None, None, None)
    check_names("a b-c_1", "digits v2", ["champion", "a-b_1"], "Production", "words")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *[((name, None, None, None), "name must be a text") for name in ("", None, "a/b", "a:b", "a.b", "50%", "it's")],
        (("m", None, "best", None), "pass registered_model_name"),
        (("m", None, None, "staging"), "pass registered_model_name"),
        *[(("m", name, None, None), "registered_model_name must be") for name in ("", "  ", "a/b", "a:b", 5)],
        *[
            (("m", "r", alias, None), "neither latest nor v1")
            for alias in ("latest", "LATEST", "v3", "a b", "", ["ok", 5])
        ],
        (("m", "r", None, "v1"), "neither latest nor v1"),
        (("m", "r", None, None, 5), "description must be a text"),
    ],
)
def test_a_name_that_mlflow_refuses_is_an_error_that_says_what_is_allowed(arguments: Any, said: str) -> None:
    with pytest.raises(CallError, match=said):
        check_names(*arguments)


def test_an_alias_that_only_begins_like_a_version_is_one() -> None:
    check_names("m", "r", ["v3-best", "latest-good"], None)
