"""Calls the hot path in C in every way that it can be called, for some seconds: what the sanitizers watch.

    python -m fuzzing.hammer SECONDS SEED

Most rings lie on the heap here, with the sanitizer's red zones around, and not in a mapping that ends at a page. What
comes out of them is compared with what went in.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import adler32

import msgspec

import fuzzing.instead  # noqa: F401 - before tailrace: the C that is to be watched
from helpers import cuda_standin
from helpers.cuda_standin import Tensor
from tailrace._log.channel import Channel
from tailrace._log.log import LogCall, make_log
from tailrace._log.selection import Selection
from tailrace._values.numbers import KINDS
from tailrace_agent.ipc import native
from tailrace_agent.ipc.device_slots import DTYPES, place_of
from tailrace_agent.ipc.ring_format import BASE, HEAD, MIN_BYTES, SPILL_BASE, SPILLED, TAIL, UNSPILLED
from tailrace_agent.ipc.ring_reader import RingReader
from tailrace_agent.ipc.ring_writer import RingWriter

FIRST = 128
"""Where the frames of a ring on the heap begin: behind the word for the head."""
ROW_MAX = 2048
"""Of agent/native/msgpack.h: around this size it matters which bytes there is room for."""
EDGES = [
    sign * 2**bits + d for bits in (0, 5, 7, 8, 15, 16, 31, 32, 62, 63, 64) for sign in (1, -1) for d in (-1, 0, 1)
]


class HeapRing(native.Cursor):
    """As `RingWriter`, in memory of exactly so many bytes; what finds no room makes the ring empty.

    `shared`: others may be in the middle of a row, so nobody looks at what stands there.
    """

    def __init__(self, size: int, rng: random.Random, *, shared: bool = False) -> None:
        self.memory = bytearray(size)  # type: ignore[assignment]
        self.words = memoryview(self.memory).cast("Q")
        self.rows: list[bytes] = []
        self._size, self._rng, self._shared = size, rng, shared
        self._anew()

    def put(self, row: bytes) -> None:
        self.rows += [*self._frames(), row]
        self._anew()

    put_slowly = put

    def sampled(self, row: bytes, done: int) -> None:
        assert done > 0
        assert self._shared or self._frames()[-1] == row
        self.limit = self._size

    def taken(self) -> list[bytes]:
        """What was put since the last call."""
        rows, self.rows = self.rows + self._frames(), []
        self._anew()
        return rows

    def _anew(self) -> None:
        self.off = self.words[HEAD] = FIRST
        # Beyond the memory, too: C does not believe it.
        self.hard = self._rng.choice([self._size, self._size + self._rng.randrange(64), 1 << 40])
        self.limit = self._rng.choice([-1, FIRST, self._size, self._rng.randrange(self._size)])

    def _frames(self) -> list[bytes]:
        at, rows = FIRST, []
        while not self._shared and at < self.words[HEAD]:
            word = int.from_bytes(self.memory[at : at + 8], "little")
            row = bytes(self.memory[at + 8 : at + 8 + (word & 0xFFFFFFFF)])
            assert adler32(row) == word >> 32
            rows.append(row)
            at += ((word & 0xFFFFFFFF) + 15) & -8
        assert self._shared or at == self.words[HEAD] == self.off
        return rows


class Bench:
    """A `log()` in C that leads to a ring, and what it could not take."""

    def __init__(self, ring: Any, selection: Selection | None = None) -> None:
        self.ring, self.odd = ring, 0
        self.channel = Channel(7, ring.put, self._odd, selection=selection)
        self.channel.lead_to(ring)
        self.log: LogCall = make_log(types.SimpleNamespace(home=None, own=None, shared=self.channel))

    def _odd(self, *_: object) -> None:
        self.odd += 1


class Live(str):
    """A key that runs code of its own when it is hashed, compared, or deleted."""

    __slots__ = ()
    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def __eq__(self, other: object) -> bool:
        Live.meanwhile()
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Live.meanwhile()
        return str.__hash__(self)

    def __del__(self) -> None:
        Live.meanwhile()


class LiveNumber(float):
    """A value that runs code of its own when it goes."""

    def __del__(self) -> None:
        Live.meanwhile()


class LiveTensor:
    """What C takes for a tensor, with code of its own that runs while it is read."""

    is_cpu = True

    def item(self) -> Any:
        Live.meanwhile()
        return LiveNumber(0.5) if id(self) % 3 else 0.5

    __float__ = item


KINDS[LiveTensor] = KINDS[Tensor] = 3


class LiveRemote(Tensor):
    """One that C takes for a tensor on a GPU, with code of its own that runs while it is looked at."""

    def numel(self) -> int:
        Live.meanwhile()
        return super().numel()

    def get_device(self) -> int:
        Live.meanwhile()
        return super().get_device()

    def __del__(self) -> None:
        Live.meanwhile()


KINDS[LiveRemote] = 3


class Going:
    """One that is gone from its dictionary, and was held there alone, when it has said twice that it is not here."""

    def __init__(self, metrics: dict[str, Any]) -> None:
        self._metrics, self._asked = metrics, 0

    @property
    def is_cpu(self) -> bool:
        self._asked += 1
        if self._asked == 2:  # the call is encoded anew for values on devices
            self._metrics.clear()
        return False


KINDS[Going] = 3


class OddRemote(Tensor):
    """One that answers as it should not."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(0.5)
        odd: list[Any] = [-1, 0, 2, 64, 2**31, 2**63, 2**70, None, "x", 0.5, ValueError()]
        self._odd = {rng.choice(["numel", "data_ptr", "get_device", "is_neg", "dtype"]): rng.choice(odd)}

    def __getattribute__(self, name: str) -> Any:
        odd = object.__getattribute__(self, "__dict__").get("_odd", {})
        if name not in odd:
            return super().__getattribute__(name)
        if isinstance(odd[name], Exception):
            raise odd[name]
        # 1 is no address, so nothing odd is ever read from.
        return odd[name] if name == "dtype" else lambda: odd[name] if name != "data_ptr" else min(0, hash(odd[name]))


KINDS[OddRemote] = 3


def slots(count: int) -> Any:
    """Slots on the heap."""
    assert native.Slots is not None
    torch = cuda_standin.fake_torch({0: 5, 1: 6})
    kinds = {getattr(torch, name): code for name, code in DTYPES.items()}
    return native.Slots(bytearray(4096 + 32 * count), lambda index: Live.meanwhile() or 5 + index, kinds)


def remote(rng: random.Random) -> Any:
    dtype = rng.choice(["float32", "float64", "float16", "int64", "int8", "bool", "uint16", "complex64"])
    body = rng.randbytes(2 if dtype.endswith("16") else 1 if dtype in ("bool", "int8") else 4)
    return rng.choice([Tensor, Tensor, LiveRemote])(body, dtype, rng.choice([0, 0, 1]), count=rng.choice([1, 1, 1, 3]))


def number(rng: random.Random) -> Any:
    return rng.choice(
        [rng.choice(EDGES), rng.uniform(-1e9, 1e9), rng.choice([True, False]), float("nan"), float("-inf"), 0, 10**30]
    )


def key(rng: random.Random, length: int | None = None) -> str:
    length = rng.choice([0, 1, 5, 31, 32, 33, 254, 255, 256, 1000]) if length is None else length
    return "".join(rng.choice("aé/ 字") for _ in range(min(length, 3))).ljust(length, "k")[:length]


def numbers(rng: random.Random) -> dict[str, Any]:
    return {key(rng) + str(i): number(rng) for i in range(rng.choice([0, 1, 2, 15, 16, 17, 63, 64, 65, 200]))}


def filling(rng: random.Random) -> dict[str, Any]:
    """Metrics whose row takes `ROW_MAX` bytes, or a few more or less."""
    left, found = ROW_MAX + rng.randrange(-24, 25), {}
    while left > 300:
        found[f"{len(found):0200}"] = 0.5
        left -= 200 + 2 + 9
    found[key(rng, max(0, min(left - 11, 255)))] = rng.choice([0.5, 1, True, 2**63])
    return found


def said(rows: list[bytes]) -> list[str]:
    return [repr((step, values)) for _, step, _, values in map(msgspec.msgpack.decode, rows)]


def plain(values: dict[str, Any]) -> bool:
    return bool(values) and all(not isinstance(each, int) or -(2**63) <= each < 2**64 for each in values.values())


# -- what is done ------------------------------------------------------------------------------------------------------


def numbers_of_all_kinds(rng: random.Random) -> None:
    bench = Bench(HeapRing(rng.choice([2200, 2208, 2400, 4096, 20_000]) // 8 * 8, rng))
    expected = []
    for step in range(60):
        values = rng.choice([numbers, filling])(rng)
        if rng.random() < 0.5:
            bench.log(values, step)
        else:
            bench.log(**values, step=step)
        if plain(values):
            expected.append(repr((step, values)))
    assert [row for row in said(bench.ring.taken()) if row in set(expected)] == expected


def rules_over_many_keys(rng: random.Random) -> None:
    rules = {pattern: rng.choice([1, 2, 3, 10**30]) for pattern in ("a*", "é*", "*1*", "*2", "*")}
    selection = Selection.of(rules, {"k*": rng.choice([1e-9, 1e9])})
    bench = Bench(HeapRing(rng.choice([2208, 20_000]), rng), selection)
    sets = [rng.choice([numbers, filling])(rng) for _ in range(6)]
    sets += [{f"{name}{index}": 0.5 for index in range(count)} for name, count in (("a", 63), ("é", 64), ("", 65))]
    for _ in range(60):
        values = dict.fromkeys(rng.choice(sets), number(rng))
        if rng.random() < 0.5:
            bench.log(values)
        else:
            bench.log(**values)
    assert selection is not None
    said([*bench.ring.taken(), *(row for row in selection.rest() if isinstance(row, bytes))])


def code_of_others_in_between(rng: random.Random) -> None:
    selection = Selection.of({"a*": 2, "b*": 3, "*": 1}, None)
    assert selection is not None
    bench = Bench(HeapRing(4096, rng, shared=True), selection)
    other = HeapRing(2208, rng, shared=True)
    metrics: dict[str, Any] = {}
    plain = Bench(bench.ring)
    beside = [None, slots(20), slots(2)]
    changes: list[Callable[[], object]] = [
        selection.begin_anew,
        selection.forget,
        selection.plans.clear,
        selection.names.clear,
        lambda: bench.channel.lead_to(other),
        lambda: bench.channel.lead_to(bench.ring),
        lambda: bench.log({"a": 1.0, "z": 2}),
        lambda: bench.log({Live("c"): 1.0}),
        lambda: bench.log(a=LiveNumber(1.0)),
        lambda: setattr(bench.ring, "slots", rng.choice(beside)),
        lambda: plain.channel.lead_to(rng.choice([other, bench.ring])),
        lambda: plain.log(a=remote(rng)),
        gc.collect,
        metrics.clear,
    ]
    depth = itertools.count()

    def meanwhile() -> None:
        if rng.random() < 0.2 and next(depth) < 200:
            rng.choice(changes)()

    for _ in range(30):
        names = [rng.choice([str, Live])(rng.choice("abcz") + str(rng.randrange(3))) for _ in range(rng.randrange(5))]
        metrics.update((name, rng.choice([LiveNumber(2.0), LiveTensor(), remote(rng), 1, 0.5])) for name in names)
        del names
        Live.meanwhile = staticmethod(meanwhile)
        way = rng.random()
        if way < 0.2:
            plain.log(metrics)
        elif way < 0.4:
            bench.log(metrics)
        elif way < 0.8:
            bench.log(**metrics)
        else:
            bench.log(metrics, y=LiveTensor(), z0=1.0)
        Live.meanwhile = staticmethod(lambda: None)
        metrics.clear()
        if rng.random() < 0.1:
            bench.channel.encode = None if bench.channel.encode is not None else selection.chooser
            bench.channel.known = 4


def values_on_devices(rng: random.Random) -> None:
    """Slots that run out, drivers that fail, and tensors that are none; what is in a row is a place that there is."""
    DRIVER.anew()
    count = rng.choice([1, 2, 17, 300])
    bench = Bench(HeapRing(rng.choice([2208, 20_000]), rng))
    bench.ring.slots = slots(count)
    for step in range(60):
        held, fails = rng.choice([0, 0, 1]), rng.choice([-1, -1, 0, 1, 3])
        DRIVER.set(held=held, fails_after=fails, fail_code=700, capturing=rng.choice([0, 0, 0, 1]))
        if rng.random() < 0.3:  # good ones alone, around as many as C takes
            values: dict[str, Any] = {f"k{i}": Tensor(0.5) for i in range(rng.choice([1, 2, 15, 16, 17, 18]))}
        else:
            kinds = [remote, OddRemote, number]
            values = {key(rng, 9) + str(i): rng.choice(kinds)(rng) for i in range(rng.randrange(22))}
        if rng.random() < 0.2:
            values |= filling(rng)
        bench.log(values, step)
        if rng.random() < 0.2:
            tensor = Tensor(0.5)
            bench.ring.slots.queue([bench.ring.slots.describe(tensor)] * rng.randrange(20))
        if rng.random() < 0.1:
            DRIVER.land(newest=rng.random() < 0.5)
            bench.ring.slots = slots(count)  # as an agent that has freed them all
    for row in bench.ring.taken():
        for value in msgspec.msgpack.decode(row)[3].values():
            place = place_of(value)
            assert place is None or place.slot < count
    DRIVER.anew()


def values_that_go(rng: random.Random) -> None:
    """What is asked for its number is gone from its dictionary before it is asked for more."""
    bench = Bench(HeapRing(4096, rng))
    bench.ring.slots = slots(2)
    metrics: dict[str, Any] = {}
    metrics["a"] = Going(metrics)
    bench.log(metrics)
    assert not metrics


def plans_that_go(rng: random.Random) -> None:
    """What is found in a dictionary is gone from it before it is used."""
    selection = Selection.of({"a*": 2, "b*": 3}, None)
    assert selection is not None
    bench = Bench(HeapRing(4096, rng), selection)
    metrics: dict[str, Any] = {}

    class Passing(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            metrics.clear()  # so that nothing but the call has the key
            return str.__eq__(self, other)

        def __del__(self) -> None:
            rng.choice([selection.begin_anew, selection.plans.clear])()

    for first in (str, Passing):
        metrics.update({first("a1"): 1.0, "b": 2})
        bench.log(metrics)
        metrics.clear()


def rings_of_files(rng: random.Random) -> None:
    """The real ring: full, wrapping around, with garbage in its header and in its frames."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        writer = RingWriter(Path(folder, "ring"), MIN_BYTES, Path(folder, "spill"), on_sample=lambda *_: None)
        reader = RingReader(Path(folder, "ring"), Path(folder, "spill"))
        bench, damaged = Bench(writer), rng.random() < 0.5
        taken: list[int] = []
        for step in range(rng.choice([50, 900])):
            bench.log(filling(rng) if rng.random() < 0.5 else {"loss": 0.5}, step)
            if damaged and rng.random() < 0.05:
                word = rng.choice(
                    [2, HEAD, SPILLED, SPILL_BASE, TAIL, UNSPILLED, rng.randrange(BASE // 8, MIN_BYTES // 8)]
                )
                writer.words[word] = rng.choice([0, rng.randrange(2 * MIN_BYTES), rng.randrange(2**64)])
            if rng.random() < 0.02:
                frames = reader.read(give_up=damaged)
                reader.commit(frames.tail, frames.spill)
                taken += [msgspec.msgpack.decode(row)[1] for row in frames.rows]
        while not damaged and (frames := reader.read()).rows:
            reader.commit(frames.tail, frames.spill)
            taken += [msgspec.msgpack.decode(row)[1] for row in frames.rows]
        assert damaged or taken == list(range(step + 1))
        writer.close()
        reader.close()


def threads_and_signals(rng: random.Random) -> None:
    bench = Bench(HeapRing(20_000, rng, shared=True), rng.choice([None, Selection.of({"*": 2}, None)]))

    def work(name: str) -> None:
        for index in range(200):
            bench.log({name: index}) if index % 2 else bench.log(**{name: index})

    def ring_again(*_: object) -> None:
        bench.log(alarm=1.0)
        if ringing:
            signal.setitimer(signal.ITIMER_REAL, 0.001)

    ringing = [True]
    before = signal.signal(signal.SIGALRM, ring_again)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    threads = [threading.Thread(target=work, args=(f"t{index}",)) for index in range(3)]
    for thread in threads:
        thread.start()
    work("main")
    for thread in threads:
        thread.join()
    ringing.clear()  # first: a handler that is still to run must not set the timer again
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def children(rng: random.Random) -> None:
    bench = Bench(HeapRing(2208, rng), rng.choice([None, Selection.of({"*": 2}, None)]))
    page = memoryview(bytearray(8)).cast("Q")
    bench.channel.watch(page, 0, lambda: setattr(bench.channel, "seen", page[0]))
    bench.log(numbers(rng))
    child = os.fork()
    page[0] = rng.randrange(2**64)
    for _ in range(20):
        bench.log(numbers(rng), rng.choice(EDGES))
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def counters(rng: random.Random) -> None:
    assert native.Steps is not None
    word = memoryview(bytearray(8)).cast("Q")
    word[0] = rng.randrange(2**64)
    steps = native.Steps(word)
    assert (next(steps) + 1) % 2**64 == next(steps)
    bench = Bench(HeapRing(2208, rng))
    bench.channel.steps = steps
    for _ in range(20):
        bench.log(numbers(rng))


ALL = [
    numbers_of_all_kinds,
    rules_over_many_keys,
    code_of_others_in_between,
    values_on_devices,
    values_that_go,
    plans_that_go,
    rings_of_files,
    threads_and_signals,
    children,
    counters,
]


DRIVER = cuda_standin.load(Path(tempfile.mkdtemp(prefix="hammer-")))


def main(seconds: float, seed: int) -> None:
    """Prints how often each was done, as JSON; each three times at least."""
    done: Counter[str] = Counter()
    until = time.monotonic() + seconds
    for round_, what in zip(itertools.count(), itertools.cycle(ALL), strict=False):
        if time.monotonic() > until and round_ >= 3 * len(ALL):
            break
        print(what.__name__, seed + round_, file=sys.stderr, flush=True)
        what(random.Random(seed + round_))
        gc.collect()
        done[what.__name__] += 1
    print(json.dumps(done))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
