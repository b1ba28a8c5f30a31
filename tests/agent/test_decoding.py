from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tailrace_agent.decoding import convert, decode_json, json_decoder, msgpack_decoder

RACE = """
import os, sys, threading, types
import msgspec
from tailrace_agent.decoding import convert, decode_json, json_decoder, msgpack_decoder

sys.setswitchinterval(1e-6)
fields = "".join(f"    f{i}: 'dict[str, list[int]] | None' = None\\n" for i in range(30))
source = f"class Inner(msgspec.Struct):\\n{fields}class Outer(msgspec.Struct):\\n    inner: 'Inner | None' = None\\n"
data = {"inner": {"f29": {"a": [1]}}}
ways = [
    lambda kind: decode_json(msgspec.json.encode(data), kind),
    lambda kind: convert(data, kind),
    lambda kind: json_decoder(kind).decode(msgspec.json.encode(data)),
    lambda kind: msgpack_decoder(kind).decode(msgspec.msgpack.encode(data)),
]


def new_type(number):
    module = types.ModuleType(f"m{number}")
    module.msgspec = msgspec
    sys.modules[module.__name__] = module
    exec(source, module.__dict__)
    return module.Outer
"""
THREADS = """
for number in range(200):
    kind, start, found = new_type(number), threading.Barrier(len(ways)), []

    def first(way):
        start.wait()
        found.append(way(kind))

    threads = [threading.Thread(target=first, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.inner.f29 for each in found] == [{"a": [1]}] * len(ways)
"""
FORKS = """
for number in range(100):
    kind = new_type(number)
    thread = threading.Thread(target=ways[0], args=(kind,))
    thread.start()
    pid = os.fork()
    if not pid:
        os._exit(0 if ways[1](kind).inner.f29 == {"a": [1]} else 1)
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("race", [THREADS, FORKS], ids=["threads", "forks"])
def test_a_type_is_decoded_into_for_the_first_time_by_several_threads_or_while_the_process_forks(race: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", RACE + race],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_is_not_of_the_type_is_refused_as_msgspec_refuses_it() -> None:
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        decode_json(b'["a"]', list[int])
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        convert(["1"], list[int])
    assert convert(["1"], list[int], strict=False) == [1]
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        json_decoder(list[int]).decode(b'["a"]')


def test_without_a_type_plain_data_is_read() -> None:
    assert decode_json("[1, {}]") == [1, {}]
    assert msgpack_decoder().decode(msgspec.msgpack.encode([1, {}])) == [1, {}]


def test_what_is_no_type_is_said_to_be_none() -> None:
    with pytest.raises(TypeError, match="not supported"):
        decode_json(b"1", 1)
