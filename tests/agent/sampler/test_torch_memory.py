"""What the training process has written on its board is sampled once, and what it has not written is absent."""

from __future__ import annotations

from pathlib import Path

from tailrace_agent.ipc.sample_board import BoardWriter
from tailrace_agent.sampler.torch_memory import TorchSource, torch_board


def test_what_was_written_anew_is_sampled_and_what_was_sampled_is_not_repeated(tmp_path: Path) -> None:
    board = torch_board(tmp_path, 7)
    source = TorchSource(board)
    assert source.sample(0.0) == {}
    writer = BoardWriter(board)
    assert source.sample(1.0) == {}
    for value in (1.0, 1.0):  # the same figures, measured again
        writer.write({"gpu_0_torch_allocated_megabytes": value})
        assert source.sample(2.0) == {"gpu_0_torch_allocated_megabytes": 1.0}
        assert source.sample(3.0) == {}


def test_each_process_has_a_board_of_its_own(tmp_path: Path) -> None:
    assert torch_board(tmp_path, 7) != torch_board(tmp_path, 8)
