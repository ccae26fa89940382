"""Tensors in nested containers are found and replaced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dynprune.base import map_tensors, nested_tensors


@dataclass
class Output:
    logits: Tensor
    loss: float
    hidden: list


def test_tensors_of_nested_containers_and_dataclasses_come_in_order():
    a, b, c = torch.tensor(1), torch.tensor(2), torch.tensor(3)
    assert nested_tensors(Output(a, 0.5, [{"b": b}, (c, None, "text")])) == [a, b, c]
    assert nested_tensors(3.0) == []


def test_map_keeps_containers_and_all_that_is_not_a_tensor():
    mapped = map_tensors(lambda t: t + 1, {"a": [torch.tensor(1), "text"], "b": (torch.tensor(2),)})
    assert mapped == {"a": [torch.tensor(2), "text"], "b": (torch.tensor(3),)}
