"""Event files as TensorFlow writes them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

__all__ = ["Events"]


class Events:
    """A file of events, written as TensorFlow writes them."""

    def __init__(self, folder: Path, number: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.17000000{number:02}.host"
        self.write(wall_time=1_700_000_000.0, file_version="brain.Event:2")

    def write(self, **event: Any) -> bytes:
        body = Event(**event).SerializeToString()
        head = struct.pack("<Q", len(body))
        record = head + struct.pack("<I", masked_crc32c(head)) + body + struct.pack("<I", masked_crc32c(body))
        self.append(record)
        return record

    def append(self, record: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(record)

    def scalar(self, tag: str, step: int, value: float) -> bytes:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        return self.write(wall_time=1_700_000_000.0 + step, step=step, summary=summary)
