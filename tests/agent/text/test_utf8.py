"""Texts that are no UTF-8: spelled out, and everything else as it is."""

from __future__ import annotations

import msgspec
import pytest

from tailrace_agent.text.utf8 import as_utf8, encoded


@pytest.mark.parametrize("text", ["caf\udce9", "\ud800", "läuft", "", "a\\udce9"])
def test_every_text_can_be_written_and_what_is_utf8_stays(text: str) -> None:
    written = as_utf8(text)
    assert written.encode().decode() == written
    assert (written == text) == (not any("\ud800" <= c <= "\udfff" for c in text))


def test_a_value_is_encoded_as_it_is_or_with_its_texts_spelled_out() -> None:
    class Named(msgspec.Struct):
        name: str
        by_key: dict[str, list[object]]

    good = Named("a", {"k": [1, None, "b"]})
    assert encoded(msgspec.json.encode, good) == msgspec.json.encode(good)
    odd = Named("caf\udce9", {"k\udce9": [1, None, {"x": "\udcff"}]})
    assert msgspec.json.decode(encoded(msgspec.json.encode, odd)) == {
        "name": "caf\\udce9",
        "by_key": {"k\\udce9": [1, None, {"x": "\\udcff"}]},
    }


def test_an_encoder_that_fails_for_another_reason_is_not_called_again() -> None:
    calls = []

    def encode(value: object) -> bytes:
        calls.append(value)
        raise TypeError("no such type")

    with pytest.raises(TypeError):
        encoded(encode, object())
    assert len(calls) == 1
