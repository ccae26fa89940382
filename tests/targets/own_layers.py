"""Stand-ins for layers of transformers, which are recognised without importing it."""

from __future__ import annotations

import torch
from torch import nn


class Conv1D(nn.Module):
    """A stand-in for the class of transformers: ``y = x @ weight + bias``."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class MixtralExperts(nn.Module):
    """A stand-in for the class of transformers: the matrices of all experts in two parameters."""

    def __init__(self, experts: int = 4, width: int = 8) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * width, width))
        self.down_proj = nn.Parameter(torch.randn(experts, width, width))
        self.gate_up_proj_bias = nn.Parameter(torch.randn(experts, 2 * width))
        self.act_fn = nn.SiLU()
