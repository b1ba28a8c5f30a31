"""Which answers are MLflow's."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace_agent.mlflow.answers import check_answer


@pytest.mark.parametrize(
    ("given", "known", "fields", "may_be_empty", "believed"),
    [
        (True, ("run",), {"run": {}}, False, True),
        (True, ("run",), {"run": {}, "new": 1}, False, True),
        (False, (), {}, False, True),
        (False, (), {"detail": "x"}, False, False),
        (False, ("run",), {}, False, False),
        (False, ("runs",), {}, True, True),
        (False, ("runs",), {"detail": "x"}, True, False),
    ],
)
def test_an_answer_is_mlflows_where_it_has_what_was_asked_for(
    given: bool, known: tuple[str, ...], fields: dict[str, Any], may_be_empty: bool, believed: bool
) -> None:
    if believed:
        check_answer(given, known, fields, "GetRun", may_be_empty=may_be_empty)
        return
    with pytest.raises(ValueError, match="not that to GetRun"):
        check_answer(given, known, fields, "GetRun", may_be_empty=may_be_empty)
