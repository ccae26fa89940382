"""Which layers stay dense, what arrives at a layer, and how outputs are compared."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.deploy.kernels import capture_inputs, reason_not_measurable, reasons_to_stay_dense
from lightning_dynprune.deploy.kernels.input_capture import relative_difference


def test_plain_layers_may_be_replaced():
    assert reasons_to_stay_dense(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))) == {}


def test_layers_that_stay_dense_say_why():
    class Own(nn.Linear):
        pass

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight
            self.first = self.second = nn.Linear(4, 4)
            self.own = Own(4, 4)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.hooked = nn.Linear(4, 4)
            self.hooked.register_forward_pre_hook(lambda *args: None)
            self.patched = nn.Linear(4, 4)
            self.patched.forward = lambda x: x
            self.attention = nn.MultiheadAttention(4, 1)
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.one.bias = self.other.bias
            self.free = nn.Linear(4, 4)

    assert reasons_to_stay_dense(Model()) == {
        "head": "its weight is tied: 2 modules hold it",
        "first": "it is shared: the model names it 2 times",
        "own": "it is a Own, a subclass, which may compute something else",
        "normed": "it is parametrized; remove the parametrization first",
        "hooked": "it has hooks",
        "patched": "its forward was replaced",
        "attention.out_proj": "it is a NonDynamicallyQuantizableLinear, a subclass, which may compute something else",
        "one": "its bias is tied: 2 modules hold it",
        "other": "its bias is tied: 2 modules hold it",
    }


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "not called in the example's forward"),
        ([torch.zeros(0, 4)], "its input is empty"),
        ([torch.zeros(2, 4).half()], "its input is torch.float16, its weight torch.float32"),
        ([torch.zeros(2, 4).to_sparse()], "not a strided tensor"),
        ([[1.0]], "not a strided tensor"),
        ([torch.zeros(n, 4) for n in range(1, 18)], "called 17 times with inputs of different sizes"),
        ([torch.zeros(n, 4) for n in range(1, 17)], None),
    ],
)
def test_what_cannot_be_measured_says_why(inputs, message):
    why = reason_not_measurable(nn.Linear(4, 4), inputs)
    assert why is None if message is None else message in why


def test_arrivals_are_copies_of_what_each_layer_gets():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward() -> None:
        x = torch.ones(3, 2)
        first(x)
        x.zero_()
        first(torch.full((3, 2), 9.0))  # alike in shape
        second(input=torch.full((1, 2), 5.0))
        second(torch.full((2, 2), 6.0))

    got = capture_inputs({"first": first, "second": second, "third": nn.Linear(2, 2)}, forward)
    assert [x.tolist() for x in got["first"]] == [[[1.0, 1.0]] * 3]
    assert [x.tolist() for x in got["second"]] == [[[5.0, 5.0]], [[6.0, 6.0]] * 2]
    assert got["third"] == []
    assert "forward" not in vars(first)


@pytest.mark.parametrize(
    ("output", "expected", "gap"),
    [
        (torch.tensor([2.0, 0.5]), torch.tensor([2.0, 1.0]), 0.25),
        (
            {"a": torch.tensor([1.0]), "b": [torch.tensor([-4.0])]},
            {"a": torch.tensor([1.0]), "b": [torch.tensor([-8.0])]},
            0.5,
        ),
        (torch.tensor([math.nan, math.inf]), torch.tensor([math.nan, math.inf]), 0.0),
        (torch.tensor([math.nan, 1.0]), torch.tensor([1.0, 1.0]), math.inf),
        (torch.tensor([1.0, 1.0]), torch.tensor([math.inf, 1.0]), math.inf),
        (torch.tensor([1e-9]), torch.tensor([0.0]), math.inf),
        (torch.zeros(2), torch.zeros(2), 0.0),
        (torch.zeros(2), torch.zeros(2, 1), math.inf),
        (torch.zeros(2), torch.zeros(2).double(), math.inf),
        ((torch.zeros(2),), (torch.zeros(2), torch.zeros(2)), math.inf),
        (torch.tensor([True]), torch.tensor([False]), math.inf),
        (torch.tensor([3]), torch.tensor([3]), 0.0),
        (torch.zeros(0), torch.zeros(0), 0.0),
    ],
)
def test_a_difference_is_a_share_of_the_largest_value(output, expected, gap):
    assert relative_difference(output, expected) == gap
