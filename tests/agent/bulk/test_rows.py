"""The rows of points: the names are those of MLflow's tables; what they hold is held against `log_batch`."""

from __future__ import annotations

import math

from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric

from tailrace_agent.bulk.columns import as_columns
from tailrace_agent.bulk.rows import COLUMNS, LATEST, METRICS, Row, latest_of, rows_of
from tailrace_agent.ipc.records import Point


def test_the_names_are_those_of_mlflows_tables() -> None:
    assert (SqlMetric.__tablename__, SqlLatestMetric.__tablename__) == (METRICS, LATEST)
    for table in (SqlMetric, SqlLatestMetric):
        assert set(COLUMNS.split(", ")) == {column.name for column in table.__table__.columns}


def test_what_no_table_can_hold_is_what_mlflow_makes_of_it() -> None:
    points = [Point("a", value, 5, 1) for value in (0.5, math.nan, math.inf, -math.inf)]
    largest = 1.7976931348623157e308
    assert [(row.value, row.is_nan) for row in rows_of(as_columns("r", points))] == [
        (0.5, False),
        (0.0, True),
        (largest, False),
        (-largest, False),
    ]


def test_the_latest_is_that_of_the_largest_step_time_and_value() -> None:
    rows = [Row("b", 1.0, 2, 3, False, "r"), Row("a", 1.0, 9, 1, False, "r"), Row("a", 0.5, 0, 2, False, "r")]
    rows += [Row("a", 0.25, 0, 2, False, "r"), Row("a", 0.5, 0, 2, True, "r")]
    assert latest_of(rows) == [Row("a", 0.5, 0, 2, False, "r"), Row("b", 1.0, 2, 3, False, "r")]
