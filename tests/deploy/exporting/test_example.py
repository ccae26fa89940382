"""Random inputs look like the example, and differences are absolute."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_dynprune.deploy.exporting import Example, ExportError
from lightning_dynprune.deploy.exporting.output_check import max_output_difference


def test_a_tensor_a_tuple_and_a_mapping_are_inputs():
    a, b = torch.zeros(2), torch.ones(2)
    assert Example.of(a).args == (a,)
    assert Example.of([a, b]).args == (a, b)
    named = Example.of({"x": a, "y": b})
    assert (named.args, list(named.kwargs)) == ((), ["x", "y"])
    assert named.tensors == (a, b)


@pytest.mark.parametrize(
    ("shapes", "batch"), [([(3, 2)], 3), ([(3,), (3, 5)], 3), ([(3,), (2,)], None), ([()], None), ([(3,), ()], None)]
)
def test_the_batch_is_the_first_axis_that_all_inputs_share(shapes, batch):
    assert Example.of([torch.zeros(shape) for shape in shapes]).batch == batch


def test_floats_are_drawn_with_the_mean_and_deviation_of_the_example():
    example = Example.of(torch.tensor([[9.0, 11.0]]))
    (drawn,) = example.drawn(5000, seed=0).tensors
    assert drawn.shape == (5000, 2)
    assert float(drawn.mean()) == pytest.approx(10, abs=0.05)
    assert float(drawn.std()) == pytest.approx(1, abs=0.05)


def test_a_constant_example_is_varied_all_the_same():
    (drawn,) = Example.of(torch.zeros(4, 3, dtype=torch.float64)).drawn(None, seed=0).tensors
    assert drawn.shape == (4, 3)
    assert drawn.dtype == torch.float64
    assert drawn.std() > 0.3


def test_integers_are_drawn_from_the_range_of_the_example():
    (drawn,) = Example.of(torch.tensor([[4, 7]], dtype=torch.int32)).drawn(200, seed=0).tensors
    assert drawn.dtype == torch.int32
    assert set(drawn.flatten().tolist()) == {4, 5, 6, 7}


def test_bools_are_drawn_with_the_share_of_the_example():
    (drawn,) = Example.of(torch.tensor([[True, False, False, False]])).drawn(1000, seed=0).tensors
    assert drawn.dtype == torch.bool
    assert float(drawn.double().mean()) == pytest.approx(0.25, abs=0.03)


def test_a_seed_draws_the_same_inputs_and_leaves_the_global_state():
    example, state = Example.of({"x": torch.randn(2, 3)}), torch.get_rng_state()
    one, other, third = (example.drawn(4, seed).kwargs["x"] for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_are_repeated_to_another_batch():
    assert Example.of(torch.tensor([[1], [2]])).repeated(5).args[0].flatten().tolist() == [1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("found", "expected", "apart"),
    [
        ([[1.0, 2.0]], [[1.0, 2.5]], 0.5),
        ([[1.0], [3.0]], [[1.0], [1.0]], 2.0),
        ([[math.nan, 1.0]], [[math.nan, 1.0]], 0.0),
        ([[math.nan]], [[1.0]], math.inf),
        ([[1.0]], [[math.nan]], math.inf),
        ([[math.inf]], [[math.inf]], 0.0),
        ([[math.inf]], [[-math.inf]], math.inf),
        ([[math.inf]], [[1.0]], math.inf),
        ([[]], [[]], 0.0),
        ([], [], 0.0),
    ],
)
def test_the_difference_is_the_largest_of_all_outputs(found, expected, apart):
    assert max_output_difference([torch.tensor(t) for t in found], [torch.tensor(t) for t in expected]) == apart


def test_integers_and_bools_differ_by_their_values():
    assert max_output_difference([torch.tensor([3], dtype=torch.int32)], [torch.tensor([5])]) == 2
    assert max_output_difference([torch.tensor([True])], [torch.tensor([False])]) == 1


def test_other_shapes_are_refused():
    with pytest.raises(ExportError, match=r"shapes \[\(1, 2\)\]; the model's have \[\(2,\)\]"):
        max_output_difference([torch.zeros(1, 2)], [torch.zeros(2)])
