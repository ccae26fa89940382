"""Wanda against the paper's formula and its selection inside each row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_dynprune.engine import Pruner
from lightning_dynprune.selection.scores import NonFiniteError
from lightning_dynprune.strategies import Wanda
from lightning_dynprune.targets import Target
from tests.targets.own_layers import Conv1D


def scores(weight: Tensor, *inputs: Tensor, per_row: bool = True, groups: int = 1) -> Tensor:
    strategy, target = Wanda(per_row), Target("w", nn.Parameter(weight), groups=groups)
    target.state = strategy.init_state(target)
    view = target.view(torch.ones_like(weight, dtype=torch.bool))
    for rows in inputs:
        strategy.observe_inputs(view, rows)
    return strategy.score(view)


def test_product_of_weight_and_input_norm_written_out():
    inputs = torch.tensor([[[3.0, 0.0], [4.0, 2.0]]])
    product = scores(torch.tensor([[1.0, -5.0], [2.0, 2.0]]), inputs, per_row=False)
    root = math.sqrt(2)
    torch.testing.assert_close(product, torch.tensor([[5.0, 10.0], [10.0, 4.0]]) / root)


def test_rank_in_the_row_written_out_and_of_equal_connections_the_first_ranks_higher():
    weight = torch.tensor([[1.0, -5.0, 0.5, 0.0], [2.0, 1.0, 2.0, -2.0]])
    inputs = torch.tensor([[[1.0, 1.0, 4.0, 1.0]]])
    # products: 1 5 2 0 and 2 1 8 2
    assert scores(weight, inputs).tolist() == [[0.25, 0.75, 0.5, 0.0], [0.5, 0.0, 0.75, 0.25]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_rank_in_the_row_is_that_of_float32_whatever_the_weights_are(dtype):
    weight = torch.tensor([[1.0, -5.0, 0.5, 0.0], [2.0, 1.0, 2.0, -2.0]], dtype=dtype)
    inputs = torch.tensor([[[1.0, 1.0, 4.0, 1.0]]], dtype=torch.promote_types(dtype, torch.float32))
    assert scores(weight, inputs).tolist() == [[0.25, 0.75, 0.5, 0.0], [0.5, 0.0, 0.75, 0.25]]


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 8), st.integers(0, 2**31))
def test_any_cut_takes_the_papers_connections_of_every_row(rows, columns, pruned, seed):
    pruned = min(pruned, columns)
    random = torch.Generator().manual_seed(seed)
    weight, inputs = torch.randn(rows, columns, generator=random), torch.randn(20, columns, generator=random)
    # The reference implementation: the smallest metrics of each row are pruned.
    metric = weight.abs() * inputs.norm(dim=0)
    expected = torch.ones(rows, columns, dtype=torch.bool)
    expected.scatter_(1, metric.sort(dim=1, stable=True).indices[:, :pruned], False)
    ranks = scores(weight, inputs.unsqueeze(0))
    cut = ranks.flatten().sort(descending=True).indices[: rows * (columns - pruned)]
    kept = torch.zeros(rows * columns, dtype=torch.bool)
    kept[cut] = True
    assert torch.equal(kept.view(rows, columns), expected)


def test_inputs_add_up_over_batches():
    weight, inputs = torch.randn(4, 6), torch.randn(1, 30, 6)
    whole = scores(weight, inputs, per_row=False)
    torch.testing.assert_close(scores(weight, inputs[:, :7], inputs[:, 7:], per_row=False), whole)


def test_each_group_of_a_convolution_has_its_own_inputs():
    weight = torch.ones(4, 1, 2)  # 2 groups of 2 output channels
    inputs = torch.tensor([[[1.0, 2.0]], [[4.0, 3.0]]])
    product = scores(weight, inputs, per_row=False, groups=2)
    assert product.tolist() == [[[1.0, 2.0]], [[1.0, 2.0]], [[4.0, 3.0]], [[4.0, 3.0]]]
    assert scores(weight, inputs, groups=2).flatten(1).tolist() == [[0.0, 0.5], [0.0, 0.5], [0.5, 0.0], [0.5, 0.0]]


def test_large_weights_are_ranked_in_pieces_as_they_are_whole(monkeypatch):
    weight, inputs = torch.randn(10, 6), torch.randn(2, 5, 6)
    whole = scores(weight, inputs, groups=2)
    monkeypatch.setattr("lightning_dynprune.strategies.wanda._PIECE", 24)
    assert torch.equal(scores(weight, inputs, groups=2), whole)


def test_scores_are_float32_and_shaped_like_a_narrow_weight():
    for per_row in (True, False):
        result = scores(torch.randn(4, 2, 3, dtype=torch.bfloat16), torch.randn(1, 5, 6), per_row=per_row)
        assert result.shape == (4, 2, 3)
        assert result.dtype == torch.float32


def test_state_takes_four_bytes_an_input_of_a_row():
    state = Wanda().init_state(Target("w", nn.Parameter(torch.zeros(50, 3, 2, dtype=torch.bfloat16))))
    assert state["input_squares"].shape == (1, 6)
    assert state["input_squares"].dtype == torch.float32
    assert state["inputs"].numel() == 1


def test_scoring_before_any_input_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"no inputs of w: call pruner.calibrate\(batches\) first"):
        scores(torch.ones(2, 2))


def test_inputs_that_are_not_finite_are_refused_though_ranks_would_be_finite():
    with pytest.raises(NonFiniteError, match="inputs of w are not finite"):
        scores(torch.ones(2, 2), torch.tensor([[[1.0, math.inf]]]))


def test_a_setting_that_is_no_truth_value_is_refused():
    with pytest.raises(TypeError, match="per_row='no' is not accepted; give true or false"):
        Wanda(per_row="no")


class TwoInputs(nn.Module):
    """Takes its inputs by name, as many models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4, bias=False)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
        return self.linear(x * scale)


def test_batches_that_are_mappings_are_passed_by_name():
    x, scale = torch.randn(8, 6), torch.rand(6)
    named, plain = TwoInputs(), TwoInputs()
    plain.load_state_dict(named.state_dict())
    masks = []
    for net, batches, forward in (
        (named, [{"x": x, "scale": scale}], None),
        (plain, [(x, scale)], lambda batch: plain(batch[0], scale=batch[1])),
    ):
        pruner = Pruner(net, sparsity=0.5, strategy="wanda", schedule={"name": "one_shot", "begin": 1})
        pruner.calibrate(batches, forward)
        pruner.tick()
        masks.append(pruner.masks.tensors[0])
    assert torch.equal(*masks)
    assert int((~masks[0]).sum()) == 12


@pytest.mark.parametrize("pattern", ["element", "n_m"])
@pytest.mark.parametrize("reconstruct", [False, True])
def test_a_conv1d_of_transformers_is_pruned_as_the_linear_layer_that_it_is(reconstruct, pattern):
    torch.manual_seed(0)
    linear, conv = nn.Linear(8, 12), Conv1D(12, 8)
    conv.weight.data = linear.weight.detach().t().clone()
    batches = [torch.randn(16, 8) @ torch.randn(8, 8) for _ in range(2)]
    for net, forward in ((linear, linear), (conv, lambda batch: conv(x=batch))):
        once = {"name": "one_shot", "begin": 1}
        pruner = Pruner(net, strategy="wanda", sparsity=0.5, schedule=once, pattern=pattern, reconstruct=reconstruct)
        pruner.calibrate(batches, forward)
        pruner.tick()
    assert torch.equal(conv.weight != 0, (linear.weight != 0).t())
    torch.testing.assert_close(conv.weight, linear.weight.t())
    assert int((conv.weight == 0).sum()) == 48
