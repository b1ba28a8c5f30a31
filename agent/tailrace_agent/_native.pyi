import mmap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

class Cursor:
    off: int
    limit: int
    hard: int
    memory: mmap.mmap
    slots: Slots | None

class Route:
    run: int
    known: int
    ring: Any
    encode: Callable[[Any], bytes] | None
    steps: Iterator[int | None]
    latest: dict[str, Any]
    selection: Any
    page: Any
    seen: int

class Selector:
    encode: Callable[[Any], bytes]
    chooser: Callable[[Any], bytes]
    ring: Any
    plans: dict[tuple[str, ...], Any]
    names: dict[tuple[str, ...], Any]

class Group:
    every: int
    left: int
    interval: int
    logged_at: int
    held: Any
    parts: tuple[Any, ...]
    owners: bytes

class Log:
    pointer: Any
    def __init__(
        self,
        pointer: object,
        otherwise: Callable[..., Any],
        encode: Callable[[Any], bytes],
        encode_checked: Callable[[Any], bytes],
        kinds: dict[type, int],
    ) -> None: ...
    def log(
        self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, *others: Any, **values: Any
    ) -> None: ...

class Slots:
    def __init__(self, memory: object, stream: Callable[[int], int], dtypes: dict[Any, int]) -> None: ...
    def describe(self, tensor: Any, /) -> tuple[int, int, int, int] | None: ...
    def queue(self, copies: list[tuple[int, int, int, int]], /) -> list[bytes] | None: ...

class Steps:
    def __init__(self, word: memoryview, /) -> None: ...
    def __iter__(self) -> Steps: ...
    def __next__(self) -> int: ...
