"""Filters as conditions on MLflow's tables: the plain kinds, and nothing that could mean something else."""

from __future__ import annotations

import pytest

from tailrace_agent.reading.sqlite_filters import Condition, condition


def test_no_filter_is_no_condition() -> None:
    assert condition("") == condition("  ") == Condition("TRUE", ())


def test_each_comparison_is_one_of_a_rows_columns_or_of_what_its_run_has_logged() -> None:
    found = condition("""attributes.status = "RUNNING" AND metrics.`val/loss` <= -1.5e-3 AND tags.`a` LIKE 'x%'""")
    assert found == Condition(
        "status = ? AND run_uuid IN (SELECT run_uuid FROM latest_metrics WHERE key = ? AND value <= ? AND NOT is_nan)"
        " AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value LIKE ?)",
        ("RUNNING", "val/loss", -1.5e-3, "a", "x%"),
    )
    assert condition("attributes.run_id IN ('ab', 'cd')") == Condition("run_uuid IN (?, ?)", ("ab", "cd"))


@pytest.mark.parametrize(
    "text",
    [
        "params.`a` ILIKE 'x'",
        "params.`a` = 3",
        "params.`a` < '3'",
        "metrics.`a` = '3'",
        "metrics.`a` = 3 OR metrics.`b` = 4",
        "metrics.`a` = 3 AND",
        "metrics.`a` = 3 AND ",
        "AND metrics.`a` = 3",
        "metrics.`a` = 3 4",
        "metrics.`a` = 3metrics.`b` = 4",
        "tags.`a` = 'it''s'",
        r"tags.`a` = 'it\'s'",
        "tags.`a` IS NULL",
        "tags.`a` IN ('x')",
        "attributes.start_time > 5",
        "attributes.artifact_uri = 'x'",
        "attributes.run_id IN ()",
        "attribute.status = 'RUNNING'",
        "datasets.name = 'x'",
        "nonsense",
        "status = RUNNING",
        "metrics.`a` = 3; DROP TABLE runs",
    ],
)
def test_all_else_is_left_to_mlflow(text: str) -> None:
    assert condition(text) is None
