"""What a call can be wrong about: the same words for the same fault, and nothing that waits for a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tailrace._log.faults import as_step, bad_value, not_named, shown


def test_a_name_and_a_value_one_after_the_other_are_answered_with_what_to_write() -> None:
    fault = not_named("loss", 0.5)
    assert "log({'loss': 0.5}, step=…), or log_metric('loss', 0.5, step=…)" in fault.text
    assert "log({'loss': …}, step=…)" in not_named("loss", None).text
    assert (fault.reason, fault.n) == ("metrics are no mapping", 1)


def test_what_is_no_mapping_is_named_by_its_type_and_reported_once_for_its_words() -> None:
    fault = not_named([1], None)
    assert (fault.text, fault.about) == ("log() takes a mapping or keywords, not list", None)


def test_a_bad_value_is_reported_once_for_its_metric_whatever_the_reason() -> None:
    one, other, elsewhere = bad_value(("loss", "a")), bad_value(("loss", "b")), bad_value(("acc", "a"))
    assert one.text == "metric 'loss' was not logged: a"
    assert one.about == other.about != elsewhere.about


@pytest.mark.parametrize(
    ("value", "expected"), [("a", "'a'"), (None, "None"), ("x" * 500, repr("x" * 500)[:100]), ([1], "of list")]
)
def test_a_value_is_shown_shortly(value: Any, expected: str) -> None:
    assert shown(value) == expected


def test_a_value_on_a_device_is_named_and_not_read() -> None:
    assert "tensor" in shown(torch.zeros((), device="meta")).lower()


@pytest.mark.parametrize("step", [7, 7.0, np.int64(7), torch.tensor(7), np.float32(7), 1 - 2**63, 2**63 - 1])
def test_a_step_is_any_whole_number_of_64_bits(step: Any) -> None:
    assert as_step(step) == int(step)
    assert type(as_step(step)) is int


@pytest.mark.parametrize("step", [7.5, 2**63, -(2**63), "7", None, float("nan"), float("inf"), [7]])
def test_what_is_no_whole_number_is_no_step(step: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        as_step(step)
