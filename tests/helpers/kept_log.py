"""A log of the agent that keeps its lines, for tests to read."""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    level: str
    event: str
    fields: dict[str, object]


class KeptLog:
    """What `tailrace_agent.log.Log` asks for."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(Line("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(Line("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(Line("error", event, fields))

    @property
    def events(self) -> list[str]:
        return [line.event for line in self.lines]

    @property
    def texts(self) -> list[str]:
        """Each line as a person would read it."""
        return [f"{line.event} {line.fields}" for line in self.lines]

    def said(self, part: str) -> list[dict[str, object]]:
        """The fields of all lines whose event has that in it."""
        return [line.fields for line in self.lines if part in line.event]
