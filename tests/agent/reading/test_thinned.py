"""Some points of one metric, spread over its steps, in a time that does not grow with them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from tailrace_agent.reading import thinned as thinned_module
from tailrace_agent.reading.reader import Reader, open_reader


@pytest.fixture
def reader(uri: str, runs: dict[str, str]) -> Reader:
    return open_reader(uri, "/")


def test_few_points_all_come_back_by_step(reader: Reader, runs: dict[str, str]) -> None:
    found = reader.thinned(runs["read-small"], "loss", 100).points
    assert [step for step, _, _ in found] == [0, 1, 2, 3, 4]
    assert [value for _, _, value in found] == [0.1 * (step - 2) ** 2 for step in range(5)]


def test_only_those_after_a_step_come_when_that_is_asked(reader: Reader, runs: dict[str, str]) -> None:
    assert [step for step, _, _ in reader.thinned(runs["read-small"], "loss", 100, 3).points] == [3, 4]
    assert [step for step, _, _ in reader.thinned(runs["read-small"], "loss", 100, 1, 3).points] == [1, 2, 3]
    assert [step for step, _, _ in reader.thinned(runs["read-small"], "loss", 100, None, 1).points] == [0, 1]
    assert reader.thinned(runs["read-small"], "loss", 100, 100) == ([], True)
    assert reader.thinned(runs["read-small"], "no such metric", 100) == ([], True)


def test_what_is_no_finite_number_is_what_it_was(reader: Reader, runs: dict[str, str]) -> None:
    values = [value for _, _, value in reader.thinned(runs["read-small"], "odd", 100).points]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


def test_of_many_points_some_come_the_first_and_the_last_among_them(
    reader: Reader, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    for begin in (0, 750):
        client.log_batch(run_id, [Metric("x", float(n), 1_700_000_000_000 + n, n) for n in range(begin, begin + 750)])
    monkeypatch.setattr(thinned_module, "_WHOLE", 100)
    monkeypatch.setattr(thinned_module, "_AT_ONCE", 7)
    found, whole = reader.thinned(run_id, "x", 50)
    assert not whole
    steps = [step for step, _, _ in found]
    assert 40 <= len(found) <= 60
    assert (steps[0], steps[-1]) == (0, 1499)
    assert steps == sorted(set(steps))
    assert max(after - before for before, after in pairwise(steps)) <= 80
    later = [step for step, _, _ in reader.thinned(run_id, "x", 50, 701).points]
    assert (later[0], later[-1]) == (701, 1499)
    between = [step for step, _, _ in reader.thinned(run_id, "x", 50, 701, 1300).points]
    assert (between[0], between[-1]) == (701, 1300)
