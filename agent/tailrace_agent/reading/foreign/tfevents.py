"""TensorBoard's event files: each directory with some is a run, as TensorBoard itself has it.

Scalars become metrics, hparams params, texts and images artifacts. Files are read on from where they ended the last
time; a record that is only half there is read when it is whole. TensorBoard's package knows what is in a record.

A run is known by its directory and by its first file, whose name has time and machine in it: another one that is
written to the same path, in another container say, is another run.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.errors import NotFound, TailraceError
from tailrace_agent.ipc.records import Point
from tailrace_agent.reading.foreign.foreign_run import ForeignRun, origin_of, place_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EventRuns"]

_FILES: Final = "*tfevents*"
_HEAD: Final = struct.Struct("<QI")
_TAIL: Final = 4  # the data's checksum
_LARGEST: Final = 1 << 31  # bytes: protobuf's own bound
_LATEST: Final = 1 << 50  # milliseconds since the epoch
_ELEMENTS: Final = 1 << 20
"""Of a tensor that is read: one may say that it has any number of the same."""
_MASK: Final = 0xA282EAD8


class EventRuns:
    """All runs below a directory.

    Args:
        directory: TensorBoard's log directory.

    Raises:
        TailraceError: TensorBoard is not installed.
        NotFound: There are no event files.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory.resolve()  # by whatever way it is named, it is the same
        self._parse = _parser()
        self._runs: dict[Path, _EventRun] = {}
        self._find()
        if not self._runs:
            raise NotFound(f"there are no event files of TensorBoard ({_FILES}) in {directory}")

    def runs(self, *, going_on: bool = False) -> Iterator[ForeignRun]:
        """Each run as it is now; called again, those that have appeared since, too.

        Args:
            going_on: None of them has ended.
        """
        self._find()
        for run in self._runs.values():
            yield run.read(going_on=going_on)

    def _find(self) -> None:
        folders = {path.parent for path in self._root.rglob(_FILES) if path.is_file()}
        for folder in sorted(folders - self._runs.keys()):
            self._runs[folder] = _EventRun(self._root, folder, self._parse)


class _EventRun:
    """The event files of one directory."""

    def __init__(self, root: Path, folder: Path, parse: Callable[[bytes], Any]) -> None:
        self._folder, self._parse = folder, parse
        below = folder.relative_to(root).as_posix()
        self._name = root.name if below == "." else below
        self._experiment = root.name or "TensorBoard"
        self._files: dict[Path, int] = {}
        self._plugins: dict[str, str] = {}
        self._points: list[Point] = []
        self._texts: dict[str, bytes] = {}
        self._params: dict[str, str] = {}
        self._left_out: dict[str, int] = {}
        self._first: int | None = None
        self._last = 0
        self._first_file = ""

    def read(self, *, going_on: bool) -> ForeignRun:
        """Reads what has come since the last time."""
        sizes: list[str] = []
        # By name, which begins with the time of the file's creation: the order in which they were written.
        for path in sorted(path for path in self._folder.glob(_FILES) if path.is_file()):
            for body in self._records(path):
                self._take(body)
            sizes.append(f"{path.name}:{self._files[path]}")
            self._first_file = self._first_file or path.name
        return ForeignRun(
            origin=origin_of("tfevents", str(self._folder), self._first_file),
            name=self._name,
            experiment=self._experiment,
            start_time=self._first or 0,
            end_time=None if going_on else self._last,
            state=" ".join(sizes),
            points=self._new_points,
            params=dict(self._params),
            texts=dict(self._texts),
            left_out=dict(self._left_out),
            ordered=len(sizes) == 1,
        )

    def _new_points(self) -> Iterable[Point]:
        points, self._points = self._points, []
        return points

    def _records(self, path: Path) -> Iterator[bytes]:
        """The records that are whole, each of its length, a checksum of that, its bytes, and a checksum of those."""
        at = self._files.setdefault(path, 0)
        with path.open("rb") as file:
            file.seek(at)
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                length, checksum = _HEAD.unpack(head)
                if length > _LARGEST or checksum != _masked(head[:8]):
                    self._count("damaged rests of files")
                    self._files[path] = path.stat().st_size  # what is behind it cannot be found
                    return
                body = file.read(length + _TAIL)
                if len(body) < length + _TAIL:
                    return
                at += len(head) + len(body)
                self._files[path] = at
                yield body[:length]

    def _take(self, body: bytes) -> None:
        try:
            self._take_event(self._parse(body))
        except Exception:  # noqa: BLE001 - protobuf's DecodeError, whose module depends on its version, and more
            self._count("damaged records")

    def _take_event(self, event: Any) -> None:
        at = max(0, int(event.wall_time * 1000))
        if at > _LATEST:
            raise ValueError(f"a time of {event.wall_time}")
        self._first = at if self._first is None else min(self._first, at)
        self._last = max(self._last, at)
        if event.WhichOneof("what") in ("graph_def", "meta_graph_def"):
            self._count("graphs")
        for value in event.summary.value:
            plugin = value.metadata.plugin_data.plugin_name or self._plugins.get(value.tag, "")
            self._plugins[value.tag] = plugin  # only the first record of a name need have it
            self._take_value(value, plugin, at, event.step)

    def _take_value(self, value: Any, plugin: str, at: int, step: int) -> None:
        kind = value.WhichOneof("value")
        if kind == "simple_value":
            self._points.append(Point(value.tag, float(value.simple_value), at, step))
        elif plugin == "hparams":
            self._params.update(_hparams(value.metadata.plugin_data.content))
        elif kind == "image":
            self._put("images", value.tag, step, "png", value.image.encoded_image_string)
        elif kind == "tensor" and plugin in ("scalars", "text", "images"):
            self._take_tensor(value, plugin, at, step)
        elif kind is not None:
            self._count({"histo": "histograms"}.get(kind, plugin or kind))

    def _take_tensor(self, value: Any, plugin: str, at: int, step: int) -> None:
        from tensorboard.util.tensor_util import make_ndarray

        if math.prod(dim.size for dim in value.tensor.tensor_shape.dim) > _ELEMENTS:
            raise ValueError("more elements than any text or list of images has")
        content = make_ndarray(value.tensor)
        if plugin == "scalars":
            self._points.append(Point(value.tag, float(content.reshape(-1)[0]), at, step))
        elif plugin == "text":
            self._put("texts", value.tag, step, "txt", b"\n".join(map(bytes, content.reshape(-1))))
        else:  # width, height, and the images
            for index, image in enumerate(content.reshape(-1)[2:]):
                self._put("images", f"{value.tag}_{index}" if index else value.tag, step, "png", bytes(image))

    def _put(self, folder: str, tag: str, step: int, suffix: str, content: bytes) -> None:
        self._texts[f"{folder}/{place_of(tag)}_{step}.{suffix}"] = content

    def _count(self, what: str) -> None:
        self._left_out[what] = self._left_out.get(what, 0) + 1


def _parser() -> Callable[[bytes], Any]:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError as error:
        raise TailraceError(
            f"event files are read by TensorBoard's package ({error}): `pip install tensorboard`"
        ) from None
    parse: Callable[[bytes], Any] = Event.FromString
    return parse


def _hparams(content: bytes) -> dict[str, str]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    data = HParamsPluginData.FromString(content)
    values = data.session_start_info.hparams
    return {name: _text(getattr(value, value.WhichOneof("kind") or "string_value")) for name, value in values.items()}


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C: Final = _table()


def _masked(data: bytes) -> int:
    """The checksum of a record's length: CRC-32C, masked."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF
