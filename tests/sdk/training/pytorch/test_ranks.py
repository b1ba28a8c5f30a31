"""How several processes divide the data and agree on sums. What they do under torchrun is in tests/services."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, SubsetRandomSampler

from helpers.training import loader
from tailrace.training.pytorch.ranks import Ranks, joined_ranks

CPU = torch.device("cpu")


def test_one_process_leaves_everything_as_it_is() -> None:
    alone, model, data = Ranks(0, 1, CPU), nn.Linear(2, 2), loader()
    assert alone.first
    assert alone.wrap(model) is model
    assert alone.share(data, training=True) is data
    assert alone.gathered(3) == [3]
    assert alone.from_first("it") == "it"
    assert torch.equal(alone.sum(torch.ones(2)), torch.ones(2))
    assert [alone.any(flag) for flag in (True, False)] == [True, False]


def test_each_process_gets_its_part_and_all_of_it_is_somebodys() -> None:
    data = loader(40, 4, shuffle=True)
    parts = [Ranks(rank, 2, CPU).share(data, training=True) for rank in range(2)]
    seen = [torch.cat([x for x, _ in part]) for part in parts]
    whole = torch.cat([x for x, _ in loader(40, 4)])
    assert [len(part) for part in parts] == [5, 5]
    assert torch.equal(torch.cat(seen).sort(0).values, whole.sort(0).values)


def test_what_is_not_shuffled_stays_in_its_order() -> None:
    part = Ranks(0, 2, CPU).share(loader(8, 2), training=True)
    whole = torch.cat([x for x, _ in loader(8, 2)])
    assert torch.equal(torch.cat([x for x, _ in part]), whole[::2])


def test_a_loader_that_divides_its_data_by_itself_is_left_alone() -> None:
    data = loader()
    own = DataLoader(data.dataset, 4, sampler=DistributedSampler(data.dataset, 2, 1))  # type: ignore[var-annotated,arg-type]
    assert Ranks(1, 2, CPU).share(own, training=True) is own

    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

    stream = DataLoader(Stream(), 4)
    assert Ranks(1, 2, CPU).share(stream, training=True) is stream


def test_a_process_group_that_is_there_is_used_and_left_as_it_is() -> None:
    with joined_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.size, dist.is_initialized()) == (0, 1, False)
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    try:
        with joined_ranks("cpu") as ranks:
            assert (ranks.rank, ranks.size) == (0, 1)
        assert dist.is_initialized(), "the program's own group is its own"
    finally:
        dist.destroy_process_group()


def test_each_sample_is_validated_on_once_and_a_sampler_of_the_users_own_is_kept() -> None:
    data = loader(13, 4)
    parts = [Ranks(rank, 2, CPU).share(data, training=False) for rank in range(2)]
    assert [sum(len(x) for x, _ in part) for part in parts] == [7, 6]
    assert [len(part) for part in parts] == [2, 2]
    ours = SubsetRandomSampler(range(5))
    own = [Ranks(rank, 2, CPU).share(loader(13, 1, sampler=ours), training=True) for rank in range(2)]
    assert [len(part) for part in own] == [2, 2]
    chosen = torch.cat([x for x, _ in loader(13, 5)])[:5]
    assert all((chosen == x).all(1).any() for part in own for x, _ in part)
