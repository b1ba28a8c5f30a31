"""Workers of torch's `DataLoader` that are spawned log to the run; forked ones are in `faults/test_forks.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from helpers.sdk_tools import forget, named, script

pytestmark = pytest.mark.services
pytest.importorskip("torch")

PROGRAM = """
import tailrace
from torch.utils.data import DataLoader, Dataset


class Items(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        tailrace.log({"loaded": index}, step=index)
        return index


if __name__ == "__main__":
    with tailrace.start_run(run_name="loaded"):
        for batch, _ in enumerate(DataLoader(Items(), batch_size=5, num_workers=2, multiprocessing_context="spawn")):
            tailrace.log({"batch": batch}, step=batch)
"""


def test_what_a_spawned_worker_logs_is_in_the_run(sqlite_uri: str, tmp_path: Path) -> None:
    script(tmp_path, PROGRAM, TAILRACE_TRACKING_URI=sqlite_uri, PYTHONPATH=os.pathsep.join(sys.path))
    forget(tmp_path)
    store = named(sqlite_uri, "loaded")
    assert store.status == "FINISHED"
    assert sorted(store.history("loaded")) == [(n, n) for n in range(20)]
    assert store.history("batch") == [(n, n) for n in range(4)]
