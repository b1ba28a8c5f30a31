"""Training by several processes: torch.distributed, as `torchrun` sets it up."""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailrace_agent.runtime.job import find_job
from tailrace_agent.runtime.processes import boot_id, process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, device, nn

__all__ = ["Ranks", "job_key", "joined_ranks"]


@dataclass(frozen=True)
class Ranks:
    """The processes of one training, as one of them sees them.

    Attributes:
        rank: Its number; 0 is the one that logs and keeps checkpoints.
        size: How many there are.
        device: Where this one computes.
    """

    rank: int
    size: int
    device: device

    @property
    def first(self) -> bool:
        """Whether this is the process that logs."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Adds up a tensor over all processes; the same everywhere."""
        if self.size == 1:
            return values
        import torch.distributed as dist

        values = values.to(self.device)
        dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so in any of the processes; the same everywhere."""
        if self.size == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(int(flag))).item())

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over all processes."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def same_buffers(self, model: nn.Module) -> None:
        """Gives the model's buffers, as the averages of a batch norm, the values that the first process has."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)

    def share(self, loader: Any, *, training: bool, seed: int = 0) -> Any:
        """The loader of this process's part of the data.

        A `DataLoader` that does not divide its data by itself is built anew: for training with a `DistributedSampler`,
        under which all have equally many samples; for validation so that each sample is there once. A sampler of the
        user's own is kept, and each process takes every so-manieth of its samples. Of an `IterableDataset` each process
        takes what its own iterator gives.
        """
        from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

        if self.size == 1 or not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return loader
        if isinstance(loader.sampler, DistributedSampler) or loader.batch_size is None:
            return loader
        own: Any = loader.sampler
        if not isinstance(own, (RandomSampler, SequentialSampler)):
            sampler: Any = _Part(own, self.rank, self.size, even=True)
        elif not training and len(own) >= self.size:
            sampler = _Part(range(len(own)), self.rank, self.size, even=False)
        else:
            shuffled = training and isinstance(own, RandomSampler)
            sampler = DistributedSampler(loader.dataset, self.size, self.rank, shuffle=shuffled, seed=seed)
        return DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            sampler=sampler,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            drop_last=loader.drop_last,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
            generator=loader.generator,
        )

    def gathered(self, value: Any) -> list[Any]:
        """What each process has, by rank; picklable."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value)
        return held

    def from_first(self, value: Any) -> Any:
        """What the first process has; picklable."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]


class _Part:
    """Every so-manieth of a sampler's samples.

    Args:
        sampler: It has a length.
        rank: Where to begin.
        size: One of so many.
        even: Whether those that are left over are nobody's, so that all parts are of one length.
    """

    def __init__(self, sampler: Any, rank: int, size: int, *, even: bool) -> None:
        self._sampler, self._rank, self._size = sampler, rank, size
        self._length = len(sampler) // size if even else len(range(rank, len(sampler), size))

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(itertools.islice(self._sampler, self._rank, None, self._size), self._length)

    def __len__(self) -> int:
        return self._length


def job_key() -> str | None:
    """What the processes of this training share the runs by that they begin; None where each has its own."""
    job = find_job(os.environ, parent=lambda: process(os.getppid()), boot=boot_id)
    return None if job is None else job.key


@contextlib.contextmanager
def joined_ranks(wanted: str) -> Iterator[Ranks]:
    """The processes that this one trains with: itself, or all that `torchrun` has started.

    A process group that is there already is used and left as it is.

    Args:
        wanted: `auto` (CUDA, then Apple's MPS, then the CPU), or a device as torch names it.
    """
    import torch
    import torch.distributed as dist

    where = _device(wanted)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not (dist.is_available() and dist.is_initialized()):
        yield Ranks(0, 1, where)
        return
    ours = not dist.is_initialized()
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if ours:
        _join("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), where)
    finally:
        if ours:
            dist.destroy_process_group()


def _join(backend: str) -> None:
    """Joins the process group that the launcher's variables name.

    torchrun's store outlives a restart (torch 2.13). Processes put their addresses there under the same names again,
    so that one which comes early would find that of a process of the attempt before, and fail to connect to it.
    """
    import torch.distributed

    dist: Any = torch.distributed  # whose types leave out some of what is public
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if attempt == 0:
        dist.init_process_group(backend)
        return
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group(backend, store=dist.PrefixStore(f"attempt{attempt}", store), rank=rank, world_size=size)


def _device(wanted: str) -> device:
    import torch

    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
