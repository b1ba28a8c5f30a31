"""A stand-in for Ray, as far as tailrace looks at it."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

__all__ = ["Context", "put_ray"]


class Context:
    """What Ray says of a process: 0 is a driver, 1 a worker."""

    gcs_address = "10.0.0.1:6379"

    def __init__(self, mode: int, actor: str | None = None) -> None:
        self.worker, self.actor, self.task = SimpleNamespace(mode=mode), actor, "t1"

    def get_job_id(self) -> str:
        return "01000000"

    def get_actor_id(self) -> str | None:
        return self.actor

    def get_task_id(self) -> str:
        return self.task


def put_ray(monkeypatch: pytest.MonkeyPatch, context: Any, *, initialized: bool = True) -> None:
    """Has the program import this one."""
    ray = SimpleNamespace(is_initialized=lambda: initialized, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)
