"""Values that were logged: numbers of whatever library, and copies of what may change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tailrace.wandb._values import as_it_is, number_of


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.ones(1), 1.0), (np.ones(2), None), ("1", None), (b"1", None)],
)
def test_what_number_a_value_is(value: Any, number: float | None) -> None:
    assert number_of(value) == number


def test_tensors_of_any_kind() -> None:
    torch = pytest.importorskip("torch")
    for kind in (torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.float64):
        assert number_of(torch.ones((), dtype=kind)) == 1.0
    assert number_of(torch.ones(1, requires_grad=True)) == 1.0
    assert number_of(torch.ones(2)) is None
    for value in (None, object(), 10**400, 1j, torch.ones(1, dtype=torch.complex64)):
        assert number_of(value) is None
    total, array = torch.ones(1, requires_grad=True), np.ones(1)
    kept, copied = as_it_is(total), as_it_is(array)
    total.data.zero_()
    array[0] = 0
    assert (kept.item(), kept.requires_grad, copied.tolist(), as_it_is("text")) == (1.0, False, [1.0], "text")
