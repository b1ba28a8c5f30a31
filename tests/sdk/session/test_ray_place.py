"""Where a process stands in a job of Ray; with a stand-in, since Ray itself takes seconds: see tests/services."""

from __future__ import annotations

import sys

import pytest

from helpers.ray_standin import Context, put_ray
from tailrace._session.ray_place import RayPlace, ray_place


def test_a_program_without_ray_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert ray_place() is None
    put_ray(monkeypatch, Context(0), initialized=False)
    assert ray_place() is None
    put_ray(monkeypatch, object())
    assert ray_place() is None, "a Ray of another version"


def test_driver_task_and_actor_are_of_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "ray:10.0.0.1:6379:01000000"
    for context, task in ((Context(0), None), (Context(1), "t1"), (Context(1, "a1"), "a1")):
        put_ray(monkeypatch, context)
        assert ray_place() == RayPlace(key, task)
