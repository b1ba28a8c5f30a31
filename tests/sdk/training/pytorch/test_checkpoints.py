"""Checkpoints: whole or not at all, read without running anything, and random numbers that go on."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tailrace import CallError
from tailrace.training.pytorch import checkpoints


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / checkpoints.LAST
    checkpoints.save(path, {"model": {"w": torch.ones(2)}, "epoch": 3, "run": "abc"})
    state = checkpoints.load(path)
    assert torch.equal(state["model"]["w"], torch.ones(2))
    assert (state["epoch"], state["run"]) == (3, "abc")
    assert [entry.name for entry in path.parent.iterdir()] == [checkpoints.LAST]


def test_numbers_of_numpy_can_be_read_again(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "n.pt", {"groups": [{"lr": np.float64(0.5), "betas": (np.float32(0.5), 1)}]})
    assert checkpoints.load(tmp_path / "n.pt")["groups"] == [{"lr": 0.5, "betas": (0.5, 1)}]


def test_what_cannot_be_written_leaves_the_one_before_and_no_parts(tmp_path: Path) -> None:
    path = tmp_path / checkpoints.LAST
    checkpoints.save(path, {"epoch": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoints.save(path, {"epoch": lambda: 2})
    assert checkpoints.load(path)["epoch"] == 1
    assert len(list(tmp_path.iterdir())) == 1


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this has been run",)


def test_a_file_that_would_run_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"format": 1, "model": Hostile()}, tmp_path / "foreign.pt")
    with pytest.raises(CallError, match=r"foreign\.pt cannot be read as a checkpoint"):
        checkpoints.load(tmp_path / "foreign.pt")
    assert capsys.readouterr().out == ""


def test_what_is_no_checkpoint_of_ours_says_so(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(CallError, match="no checkpoint of a Trainer"):
        checkpoints.load(tmp_path / "weights.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CallError, match="cannot be read"):
        checkpoints.load(tmp_path / "torn.pt")
    torch.save({"format": 99}, tmp_path / "newer.pt")
    with pytest.raises(CallError, match="newer tailrace"):
        checkpoints.load(tmp_path / "newer.pt")


def test_auto_is_the_last_one_of_the_directory_if_there_is_one(tmp_path: Path) -> None:
    assert checkpoints.to_resume("auto", tmp_path) is None
    checkpoints.save(tmp_path / checkpoints.LAST, {})
    assert checkpoints.to_resume("auto", tmp_path) == tmp_path / checkpoints.LAST
    assert checkpoints.to_resume(tmp_path, None) == tmp_path / checkpoints.LAST
    assert checkpoints.to_resume(None, tmp_path) is None


def test_a_checkpoint_that_is_named_and_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="no checkpoint at"):
        checkpoints.to_resume(tmp_path / "away.pt", tmp_path)
    with pytest.raises(CallError, match="checkpoint_dir"):
        checkpoints.to_resume("auto", None)


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "r.pt", {"random": checkpoints.random_state()})
    drawn = random.random(), torch.rand(1).item(), np.random.rand()
    checkpoints.restore_random_state(checkpoints.load(tmp_path / "r.pt")["random"])
    assert (random.random(), torch.rand(1).item(), np.random.rand()) == drawn


def test_the_best_one_is_the_same_file_and_is_left_alone_by_the_next(tmp_path: Path) -> None:
    path, best = tmp_path / checkpoints.LAST, tmp_path / checkpoints.BEST
    checkpoints.save(path, {"epoch": 1}, best=True)
    assert path.samefile(best)
    checkpoints.save(path, {"epoch": 2})
    assert (checkpoints.load(path)["epoch"], checkpoints.load(best)["epoch"]) == (2, 1)


def test_what_a_kill_leaves_is_not_written_over_since_the_best_one_may_share_it(tmp_path: Path) -> None:
    path, best = tmp_path / checkpoints.LAST, tmp_path / checkpoints.BEST
    checkpoints.save(path, {"epoch": 1}, best=True)
    checkpoints.keep(best, tmp_path / f".{checkpoints.LAST}.part")  # killed after the best one was put in its place
    checkpoints.save(path, {"epoch": 2})
    assert checkpoints.load(best)["epoch"] == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [checkpoints.BEST, checkpoints.LAST]
