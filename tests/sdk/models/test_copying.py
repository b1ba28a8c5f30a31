"""A model as it is at the call: a copy that later training cannot change."""

from __future__ import annotations

import torch

from helpers.models import X, net
from tailrace._models.copying import freeze_model


def test_a_module_is_taken_out_of_its_wrappers_and_keeps_nothing_of_the_original() -> None:
    module = net()
    module[0].weight.grad = torch.ones(3, 2)
    frozen = freeze_model(torch.nn.DataParallel(module), None, {"rows": [torch.tensor(X, requires_grad=True) * 2]})
    assert (frozen.flavor, type(frozen.model)) == ("pytorch", torch.nn.Sequential)
    for ours, theirs in zip(frozen.model.parameters(), module.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
        assert (ours.grad, ours.requires_grad) == (None, True)
    assert not frozen.example["rows"][0].requires_grad
