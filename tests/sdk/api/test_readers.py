"""The stores that a process reads from are opened once each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace._api.readers import experiment_id_of, reader_at
from tailrace_agent.errors import StoreAbsent


def test_a_store_is_opened_once_for_each_bound_of_its_requests(sqlite_uri: str) -> None:
    usual, bounded = reader_at(sqlite_uri, "/"), reader_at(sqlite_uri, "/", 20.0)
    assert usual is reader_at(sqlite_uri, "/tmp"), "an absolute address is the same from everywhere"
    assert bounded is reader_at(sqlite_uri, "/", 20.0)
    assert usual is not bounded
    assert usual.experiments() == bounded.experiments()


def test_looking_makes_no_store_and_asking_for_an_experiments_id_does(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(StoreAbsent, match="there is no store"):
        reader_at(uri, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert experiment_id_of("mine", uri, str(tmp_path)) == "1"
    assert reader_at(uri, str(tmp_path)).experiments()["1"] == "mine"
