"""Layers that read the weight rows of live inputs compute what dense does with the other inputs set to zero."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from lightning_dynprune.adaptive.activations import ByteRowSkipping, FloatRowSkipping, compat
from lightning_dynprune.adaptive.activations.thresholded_forward import is_live

FORMS = {"float32": FloatRowSkipping, "int8": ByteRowSkipping}


def layer(inputs: int, outputs: int, bias: bool = True, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs, bias=bias)


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Round each column of a weight, that is each input's row, to 256 steps between its least and largest value."""
    low, high = weight.amin(0), weight.amax(0)
    step = (high - low) / 255
    return ((weight - low) / step).round() * step + low


def test_a_literal_layer_sums_the_rows_of_inputs_above_the_threshold():
    linear = layer(4, 2)
    linear.weight.data = torch.tensor([[1.0, 10.0, 100.0, 1000.0], [2.0, 20.0, 200.0, 2000.0]])
    linear.bias.data = torch.tensor([0.5, -0.5])
    skipping = FloatRowSkipping(linear, 1.0)
    x = torch.tensor([[3.0, 1.0, -2.0, 0.0]])  # the second is at the threshold, and skipped
    assert skipping(x).tolist() == [[3.0 - 200.0 + 0.5, 6.0 - 400.0 - 0.5]]
    assert skipping(x[0]).tolist() == skipping(x)[0].tolist()
    assert skipping(torch.zeros(2, 3, 4)).tolist() == [[[0.5, -0.5]] * 3] * 2


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    inputs=st.integers(1, 30),
    outputs=st.integers(1, 20),
    threshold=st.sampled_from([0.0, 0.3, 1.0, 10.0]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_layer_equals_dense_on_inputs_set_to_zero(rows, inputs, outputs, threshold, bias, seed):
    linear = layer(inputs, outputs, bias, seed)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(seed))
    kept = torch.where(x.abs() <= threshold, 0.0, x)
    with torch.no_grad():
        assert torch.allclose(FloatRowSkipping(linear, threshold)(x), linear(kept), atol=1e-5)
        expected = F.linear(kept, rounded(linear.weight) if outputs > 1 else linear.weight, linear.bias)
        # The scale of a row is a half-precision number in some versions of the operator.
        assert torch.allclose(ByteRowSkipping(linear, threshold)(x), expected, atol=2e-3 * inputs**0.5 + 1e-3)


@pytest.mark.parametrize("precision", FORMS)
def test_seven_rows_get_bit_for_bit_what_each_gets_alone(precision):
    skipping = FORMS[precision](layer(300, 70), 0.5)
    x = torch.randn(7, 300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(skipping(x), torch.cat([skipping(row) for row in x.split(1)]))
    assert torch.equal(skipping(x.view(7, 1, 300))[:, 0], skipping(x))


@pytest.mark.parametrize("precision", FORMS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_input_that_is_not_finite_gives_what_dense_gives(precision, value):
    linear = layer(6, 8)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    x[1, 4] = value
    with torch.no_grad():
        for rows in (x, x[1:2]):
            dense, found = linear(rows), FORMS[precision](linear, 0.1)(rows)
            assert torch.equal(found.isfinite(), dense.isfinite())
            if precision == "float32":  # the scale and the offset of 8 bits make an infinite input NaN
                assert torch.allclose(found, dense, atol=0.5, equal_nan=True)


@pytest.mark.parametrize("precision", FORMS)
def test_an_empty_batch_and_many_rows(precision):
    linear = layer(5, 3)
    skipping = FORMS[precision](linear, 0.0)
    assert skipping(torch.zeros(0, 5)).shape == (0, 3)
    assert skipping(torch.zeros(2, 0, 5)).shape == (2, 0, 3)
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(skipping(x), torch.cat([skipping(row) for row in x.split(1)]), atol=1e-5)


def test_a_conv1d_of_transformers_is_read_by_rows_too():
    conv = Conv1D(3, 5)
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(4))
    kept = torch.where(is_live(x, 0.5), x, 0.0)
    with torch.no_grad():
        assert torch.allclose(FloatRowSkipping(conv, 0.5)(x), conv(kept), atol=1e-6)


def test_the_operators_of_8_bit_rows_are_there_and_store_a_byte_a_weight_and_eight_a_row():
    table = torch.tensor([[0.0, 255.0, 100.0], [1.0, 1.0, 1.0]])
    packed = compat.pack_byte_rows(table)
    assert packed.shape == (2, 3 + 8)
    assert packed[0, :3].tolist() == [0, 255, 100]
    assert torch.equal(compat.unpack_byte_rows(packed), table)
    indices, offsets = torch.tensor([0, 1, 1], dtype=torch.int32), torch.tensor([0, 1, 2], dtype=torch.int32)
    sums = compat.sum_byte_rows(packed, indices, offsets, torch.tensor([2.0, 3.0, -1.0]))
    assert sums.tolist() == [[0.0, 510.0, 200.0], [3.0, 3.0, 3.0], [-1.0, -1.0, -1.0]]
