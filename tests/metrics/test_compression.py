"""CompressionRatio: all parameters over those that are not zero."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_dynprune.metrics import CompressionRatio, compression_ratio


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return layer


def test_biases_count():
    layer = linear([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], [0.5, 0.25])
    assert compression_ratio(layer).item() == 8 / 3


def test_model_and_its_parameters_agree():
    layer = linear([[0.0, 2.0]], [1.0])
    assert compression_ratio(layer).item() == compression_ratio(layer.parameters()).item() == 1.5


def test_tied_parameters_count_once_in_a_model_and_in_an_iterable():
    embedding, head = nn.Embedding(2, 3), nn.Linear(3, 2, bias=False)
    nn.init.zeros_(embedding.weight)
    embedding.weight.data[0, 0] = 1.0
    head.weight = embedding.weight
    assert compression_ratio(nn.Sequential(embedding, head)).item() == 6.0
    assert compression_ratio([embedding.weight, head.weight]).item() == 6.0


def test_equal_but_separate_parameters_both_count():
    assert compression_ratio([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])]).item() == 2.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_counts_denormals_as_weights_and_negative_zero_as_zero(dtype):
    smallest = torch.tensor(torch.finfo(dtype).smallest_normal, dtype=dtype) / 2
    weights = torch.tensor([1.0, 0.0, -0.0, 0.0, 0.0, 0.0], dtype=dtype)
    weights[5] = smallest
    assert weights[5] > 0
    assert compression_ratio([weights]).item() == 3.0


def test_a_half_precision_model_counts_beyond_what_half_can_hold():
    layer = nn.Linear(300, 300, bias=False).half()
    nn.init.ones_(layer.weight)
    layer.weight.data[0] = 0
    assert compression_ratio(layer).item() == 90_000 / 89_700


def test_an_all_zero_model_has_an_infinite_ratio():
    assert math.isinf(compression_ratio([torch.zeros(3)]).item())


def test_class_agrees_with_function_and_adds_up_over_parts_of_a_model():
    parts = [linear([[0.0, 0.0, 0.0]], [1.0]), linear([[1.0]], [0.0])]
    metric = CompressionRatio()
    for part in parts:
        metric.update(part)
    assert metric.compute().item() == compression_ratio(nn.ModuleList(parts)).item() == 3.0


def test_parameters_method_of_the_module_is_not_hidden_by_a_state():
    assert list(CompressionRatio().parameters()) == []


def test_counting_leaves_no_graph():
    metric = CompressionRatio()
    metric.update(nn.Linear(2, 2))
    assert not metric.nonzero.requires_grad
    assert not metric.compute().requires_grad


@pytest.mark.parametrize("model", [nn.ReLU(), [], [torch.zeros(0)]])
def test_nothing_to_count_is_refused(model):
    with pytest.raises(ValueError, match="model has no parameters"):
        compression_ratio(model)


def test_something_else_than_parameters_is_refused():
    with pytest.raises(TypeError, match="model=3 is not accepted"):
        compression_ratio(3)
    with pytest.raises(TypeError, match="'weight' at position 1"):
        CompressionRatio().update([torch.ones(1), "weight"])
