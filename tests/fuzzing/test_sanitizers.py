"""The hot path in C under AddressSanitizer and UndefinedBehaviorSanitizer: for seconds, and at length with `-m faults`.

`FUZZING_SECONDS` (120) and `FUZZING_SEED` make the long run longer, and another one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fuzzing.sanitizers import build, watched, why_not

SECONDS = os.environ.get("FUZZING_SECONDS", "120")
SEED = os.environ.get("FUZZING_SEED", "1")

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")

# What each broken source does wrong, and how the sanitizers call it.
BROKEN = {
    "a frame beyond the end of the ring": (
        "end > limit || end > ring->view.len",
        "off > limit || off > ring->view.len",
        "heap-buffer-overflow",
    ),
    "a key without room for its length and value": (
        "end - at < length + ENTRY_EXTRA",
        "end - at < length",
        "stack-buffer-overflow",
    ),
    "room for one key less than there may be": (
        "due[KEYS_MAX], *ends[KEYS_MAX]",
        "due[KEYS_MAX], *ends[KEYS_MAX - 1]",
        "stack-buffer-overflow",
    ),
    "a prefix that is longer than its room": ("PREFIX_MAX = 32", "PREFIX_MAX = 20", "stack-buffer-overflow"),
    "a held row that is longer than its memory": (
        "group->row_room = size;",
        "group->row_room = 2 * size;",
        "heap-buffer-overflow",
    ),
    "a plan that is only borrowed": (
        "plan = Py_XNewRef(PyDict_GetItemWithError(selector->plans, keys));",
        "plan = PyDict_GetItemWithError(selector->plans, keys);",
        "AddressSanitizer",
    ),
    "a slot behind the last one": (
        "at = at + 1 < self->count ? at + 1 : 0;",
        "at = at < self->count ? at + 1 : 0;",
        "heap-buffer-overflow",
    ),
    "one value on a device more than there is room for": (
        "remote->count == COPIES_MAX",
        "remote->count == COPIES_MAX + 1",
        "index 16 out of bounds",
    ),
    "memory of a ring that nobody holds": (
        "self->memory = Py_NewRef(memory);",
        "self->memory = memory;",
        "heap-use-after-free",
    ),
    "a shift into the sign": (
        "(uint64_t)adler32(row, size) << 32",
        "(int64_t)adler32(row, size) << 32",
        "runtime error: left shift",
    ),
}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sanitized"))


def hammered(module: Path, seconds: str, seed: str) -> None:
    done = watched(module, "-m", "fuzzing.hammer", seconds, seed, timeout=float(seconds) + 90)
    assert done.returncode == 0, done.stderr[-5000:]
    assert min(json.loads(done.stdout).values()) >= 3


@pytest.mark.slow
def test_the_hot_path_in_c_touches_nothing_that_is_not_its_own(module: Path) -> None:
    hammered(module, "2", "1")


def found_in(broken: str, folder: Path) -> None:
    old, new, said = BROKEN[broken]
    done = watched(build(folder, old, new), "-m", "fuzzing.hammer", "0", "1", timeout=90)
    assert done.returncode != 0
    assert said in done.stderr, done.stderr[-5000:]


@pytest.mark.slow
def test_the_sanitizers_would_find_a_row_that_is_written_beyond_its_ring(tmp_path: Path) -> None:
    found_in("a frame beyond the end of the ring", tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("broken", BROKEN)
def test_the_sanitizers_find_each_of_many_mistakes(broken: str, tmp_path: Path) -> None:
    found_in(broken, tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(7200)
def test_the_hot_path_in_c_touches_nothing_that_is_not_its_own_at_length(module: Path) -> None:
    hammered(module, SECONDS, SEED)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_the_tests_of_the_hot_path_and_of_the_ring_pass_under_the_sanitizers(module: Path) -> None:
    files = ["sdk/log/test_native_log", "sdk/log/test_device_slots", "agent/ipc/test_ring_damage"]
    # What is about another Python, or begins programs of its own.
    apart = "not without_c and not killed and not hangs and not without_the_driver"
    pytest_ = ["-m", "pytest", "-p", "fuzzing.instead", "-p", "no:cacheprovider", "-n", "0", "-q", "-k", apart]
    done = watched(module, *pytest_, *(f"tests/{name}.py" for name in files), timeout=1100)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
