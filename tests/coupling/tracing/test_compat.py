"""The parts of torch that the room uses without a documented interface are there and do what they did."""

from __future__ import annotations

import torch
from torch import nn

from lightning_dynprune.coupling.tracing.compat import (
    OperationListener,
    changes_arguments,
    is_entrywise,
    named_arguments,
    operation_name,
)


def test_a_listener_hears_every_basic_operation_with_the_tensors_that_the_model_uses():
    heard = []
    x, layer = torch.ones(2, 3), nn.Linear(3, 3)
    with torch.no_grad(), OperationListener(lambda func, args, kwargs, result: heard.append((func, args, result))):
        y = layer(x).relu_().view(6)
    names = [operation_name(func) for func, _, _ in heard]
    assert names[-2:] == ["relu_", "view"]
    assert heard[-1][2] is y
    assert any(x is argument for argument in heard[names.index("addmm")][1])
    assert [is_entrywise(func) for func, _, _ in heard[-2:]] == [True, False]
    assert [changes_arguments(func) for func, _, _ in heard[-2:]] == [True, False]


def test_arguments_have_their_names_and_defaults():
    found = named_arguments(torch.ops.aten.slice.Tensor, ("x", 1), {"end": 3})
    assert found == {"self": "x", "dim": 1, "start": None, "end": 3, "step": 1}
