"""Which GPUs a process may see: `CUDA_VISIBLE_DEVICES` read the way CUDA reads it, against what NVML lists.

Entries are separated by commas, and a GPU's visible index is its place among them:

* `2`: the GPU's number as `nvidia-smi` shows it. Digits are read up to the first other character, so `2gpu` is 2.
* `GPU-8932f937…`: its UUID, or enough of the beginning to distinguish it from the others.
* `MIG-…`: a MIG instance's UUID, or the older `MIG-GPU-8932f937…/<GPU instance>/<compute instance>`.

The first entry that is invalid (`-1`, no such GPU, an ambiguous beginning, a number among UUIDs or a UUID among
numbers) ends the list. So an empty value, `-1` and Slurm's `NoDevFiles` hide everything. A GPU that is named twice
hides everything too, as PyTorch reads it. A number or a GPU's UUID stands for the MIG instances of that GPU when MIG is
enabled on it, and of several compute instances in one GPU instance CUDA takes one: here the first. (A driver before
R570 shows a program one MIG instance in all; here it has more, of which it uses the first.)

**The order of numbers.** NVML counts in the order of the PCI bus. So does CUDA under `CUDA_DEVICE_ORDER=PCI_BUS_ID`;
its default, `FASTEST_FIRST`, is the same among GPUs of one model, and may differ where there are several models. CUDA
alone knows that order, so numbers are taken as NVML's, and each index has its UUID as a tag, which shows what was
measured. Naming GPUs by UUID is exact under either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

__all__ = ["Card", "Mig", "Place", "hides_all", "visible"]

_T = TypeVar("_T")
_NUMBER: Final = re.compile(r"\s*\+?0*([0-9]{1,6})(?![0-9])", re.ASCII)
_OLD_MIG: Final = re.compile(r"MIG-(GPU-[^/]*)/([0-9]{1,6})/([0-9]{1,6})", re.ASCII)


class Mig(NamedTuple):
    """A MIG instance as NVML lists it.

    Attributes:
        uuid: `MIG-…`; empty when the driver does not report it.
        gpu_instance: Id of its GPU instance, which owns the memory.
        compute_instance: Its id within that.
    """

    uuid: str
    gpu_instance: int
    compute_instance: int


class Card(NamedTuple):
    """A GPU as NVML lists it.

    Attributes:
        uuid: `GPU-…`; empty when the driver does not report it, as with a GPU that is lost.
        migs: Its MIG instances; None when MIG is not enabled on it.
    """

    uuid: str
    migs: tuple[Mig, ...] | None = None


class Place(NamedTuple):
    """Where a visible device is: the card's place in NVML's list, and the instance's place on it, or None."""

    card: int
    mig: int | None = None


def hides_all(value: str | None) -> bool:
    """Whether this value of `CUDA_VISIBLE_DEVICES` shows nothing, whatever GPUs there are: NVML need not be opened."""
    return value is not None and not value.startswith(("GPU-", "MIG-")) and _NUMBER.match(value) is None


def visible(value: str | None, cards: Sequence[Card]) -> list[Place]:
    """The devices that a process sees, by visible index.

    Args:
        value: Its `CUDA_VISIBLE_DEVICES`; None when it is not set, which shows everything.
        cards: The machine's GPUs in NVML's order.

    Example:
        >>> visible("GPU-b,GPU-a", [Card("GPU-aa"), Card("GPU-bb")])
        [Place(card=1, mig=None), Place(card=0, mig=None)]
    """
    if value is None:
        return _one_each(cards, (place for index in range(len(cards)) for place in _places(cards, index)))
    chosen: list[Place] = []
    numbers: bool | None = None
    for entry in value.split(","):
        is_number = not entry.startswith(("GPU-", "MIG-"))
        if numbers is None:
            numbers = is_number
        found = _find(entry, cards) if numbers == is_number else []
        if not found:
            break
        if not set(found).isdisjoint(chosen):  # named twice
            return []
        chosen += found
    return _one_each(cards, chosen)


def _find(entry: str, cards: Sequence[Card]) -> list[Place]:
    """What one entry stands for: nothing when it is invalid."""
    if entry.startswith("MIG-"):
        return _find_mig(entry, cards)
    if entry.startswith("GPU-"):
        index = _only(index for index, card in enumerate(cards) if card.uuid.startswith(entry))
        return [] if index is None else _places(cards, index)
    match = _NUMBER.match(entry)
    number = int(match[1]) if match else len(cards)
    return _places(cards, number) if number < len(cards) else []


def _find_mig(entry: str, cards: Sequence[Card]) -> list[Place]:
    every = [
        (Place(index, place), mig) for index, card in enumerate(cards) for place, mig in enumerate(card.migs or ())
    ]
    old = _OLD_MIG.fullmatch(entry)
    if old is not None:
        ids = (int(old[2]), int(old[3]))
        found = _only(
            place
            for place, mig in every
            if cards[place.card].uuid.startswith(old[1]) and (mig.gpu_instance, mig.compute_instance) == ids
        )
    else:
        found = _only(place for place, mig in every if mig.uuid.startswith(entry))
    return [] if found is None else [found]


def _only(candidates: Iterable[_T]) -> _T | None:
    several = list(candidates)
    return several[0] if len(several) == 1 else None


def _places(cards: Sequence[Card], index: int) -> list[Place]:
    migs = cards[index].migs
    if migs is None:
        return [Place(index)]
    return _one_each(cards, [Place(index, place) for place in range(len(migs))])


def _one_each(cards: Sequence[Card], places: Iterable[Place]) -> list[Place]:
    """Without the second and further compute instances of one GPU instance."""
    kept: dict[tuple[int, int | None], Place] = {}
    for place in places:
        migs = cards[place.card].migs
        instance = None if place.mig is None or migs is None else migs[place.mig].gpu_instance
        kept.setdefault((place.card, instance), place)
    return list(kept.values())
