"""The refit against numbers worked out by hand, against least squares, and against merely masking."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_dynprune.calibration import Hessians, InputCapture
from lightning_dynprune.calibration.layer_inputs import input_rows
from lightning_dynprune.calibration.reconstruction import refit
from lightning_dynprune.selection.scores import NonFiniteError
from lightning_dynprune.targets import find_targets

TINY = 1e-9


def hessian_of(inputs: Tensor) -> Tensor:
    return (inputs.mT @ inputs).view(-1, inputs.shape[-1], inputs.shape[-1])


def least_squares(weight: Tensor, mask: Tensor, inputs: Tensor) -> Tensor:
    """Solve each row on its own: the kept columns of the inputs against the row's outputs."""
    solved = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        solved[row, kept] = torch.linalg.lstsq(inputs[:, kept], inputs @ weight[row]).solution
    return solved


def random_case(rows: int, columns: int, sparsity: float, seed: int = 0, dtype: torch.dtype = torch.float64):
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=random, dtype=dtype)
    inputs = torch.randn(4 * columns, columns, generator=random, dtype=dtype) @ mixing
    weight = torch.randn(rows, columns, generator=random, dtype=dtype)
    mask = torch.rand(rows, columns, generator=random) >= sparsity
    return weight, mask, inputs


def change(weight: Tensor, new: Tensor, inputs: Tensor) -> float:
    return float((inputs @ (new - weight).T).square().sum())


@pytest.mark.parametrize("steps", [0, 10])
def test_two_by_two_written_out(steps):
    # H = [[2, 1], [1, 2]]. Row 1 loses column 0, w0 = 1: w1 takes H01 / H11 of it, 3 + 1/2. Row 2 loses none.
    weight, mask = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[False, True], [True, True]])
    new = refit(weight, mask, torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]), damping=TINY, steps=steps)
    assert new.tolist() == [[0.0, 3.5], [5.0, 7.0]]


def test_damping_written_out():
    # The mean of the diagonal is 2, so half of it adds 1: w1 takes H01 / (H11 + 1) of w0, 3 + 1/3.
    weight, mask = torch.tensor([[1.0, 3.0]]), torch.tensor([[False, True]])
    new = refit(weight, mask, torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]), damping=0.5, steps=0)
    torch.testing.assert_close(new, torch.tensor([[0.0, 3.0 + 1 / 3]]))


def test_two_by_three_written_out():
    # H = [[1, 1, 0], [1, 2, 1], [0, 1, 2]]; both rows lose column 0, w0 = 6.
    # Of [[2, 1], [1, 2]] d = 6 [1, 0] the solution is d = [4, -2].
    hessian = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]]])
    weight = torch.tensor([[6.0, 0.0, 0.0], [6.0, 1.0, 5.0]])
    mask = torch.tensor([[False, True, True], [False, True, True]])
    new = refit(weight, mask, hessian, damping=TINY)
    torch.testing.assert_close(new, torch.tensor([[0.0, 4.0, -2.0], [0.0, 5.0, 3.0]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [1, 3, 128])
@pytest.mark.parametrize("lost", [[0], [5], [6], [1, 3, 4]])
def test_columns_that_all_rows_lose_are_made_up_for_exactly(lost, block):
    weight, mask, inputs = random_case(4, 7, 0.0)
    mask[:, lost] = False
    new = refit(weight, mask, hessian_of(inputs), damping=TINY, block=block, steps=0)
    torch.testing.assert_close(new, least_squares(weight, mask, inputs), rtol=1e-5, atol=1e-5)


def test_column_wise_solve_follows_sparsegpt_one_column_at_a_time():
    # The first column is lost by all rows, the second by two, the third by one: the order in which they are taken out.
    weight, _, inputs = random_case(3, 4, 0.0)
    mask = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)
    hessian = hessian_of(inputs)[0]
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(4, dtype=hessian.dtype)
    expected = weight.clone()
    for row in range(3):
        for column in range(4):
            if not mask[row, column]:
                # Equation 3 of the paper: the inverse is that of what has not been passed yet.
                inverse = damped[column:, column:].inverse()
                expected[row, column:] -= expected[row, column] / inverse[0, 0] * inverse[0]
    expected[~mask] = 0
    torch.testing.assert_close(refit(weight, mask, hessian[None], steps=0), expected)


def test_conjugate_gradients_end_at_least_squares():
    weight, mask, inputs = random_case(6, 8, 0.5, dtype=torch.float64)
    new = refit(weight, mask, hessian_of(inputs), damping=TINY, steps=200)
    torch.testing.assert_close(new, least_squares(weight, mask, inputs), rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 12),
    st.integers(1, 24),
    st.floats(0, 1),
    st.integers(1, 40),
    st.sampled_from([0, 1, 10]),
    st.integers(0, 2**31),
)
def test_no_row_comes_out_worse_than_masked(rows, columns, sparsity, samples, steps, seed):
    weight, mask, inputs = random_case(rows, columns, sparsity, seed)
    inputs = inputs[:samples]
    new = refit(weight, mask, hessian_of(inputs), steps=steps)
    for row in range(rows):
        masked = change(weight[[row]], (weight * mask)[[row]], inputs)
        assert change(weight[[row]], new[[row]], inputs) <= masked * (1 + 1e-9) + 1e-9
    assert not new[~mask].any()
    assert not new[~mask].signbit().any()


def test_rows_without_a_pruned_connection_stay_bit_for_bit():
    weight, mask, inputs = random_case(5, 9, 0.6, dtype=torch.float32)
    mask[[1, 3]] = True
    new = refit(weight, mask, hessian_of(inputs))
    assert torch.equal(new[[1, 3]], weight[[1, 3]])
    assert not torch.equal(new[0], weight[0] * mask[0])


def test_dead_inputs_neither_change_nor_are_changed():
    weight, mask, inputs = random_case(4, 6, 0.4)
    inputs[:, [0, 4]] = 0
    mask[:, 0], mask[:, 4] = True, False
    new = refit(weight, mask, hessian_of(inputs))
    assert torch.equal(new[:, 0], weight[:, 0])
    assert not new[:, 4].any()
    alive = [1, 2, 3, 5]
    alone = refit(weight[:, alive], mask[:, alive], hessian_of(inputs[:, alive]))
    torch.testing.assert_close(new[:, alive], alone)


def test_a_layer_that_saw_only_zeros_is_merely_masked():
    weight, mask, _ = random_case(3, 5, 0.5)
    assert torch.equal(refit(weight, mask, torch.zeros(1, 5, 5)), torch.where(mask, weight, 0))


def test_the_scale_of_the_inputs_does_not_matter():
    weight, mask, inputs = random_case(4, 6, 0.5)
    new = refit(weight, mask, hessian_of(inputs))
    torch.testing.assert_close(refit(weight, mask, hessian_of(1e-3 * inputs)), new)


def test_narrow_weights_come_out_as_wide_ones_rounded():
    weight, mask, inputs = random_case(4, 6, 0.5, dtype=torch.float32)
    narrow = weight.bfloat16()
    new = refit(narrow, mask, hessian_of(inputs))
    assert new.dtype == torch.bfloat16
    assert torch.equal(new, refit(narrow.float(), mask, hessian_of(inputs)).bfloat16())


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, groups=2, padding_mode="reflect", padding=1),
        nn.Conv1d(6, 6, 3, groups=6),
    ],
    ids=["plain", "grouped", "depthwise"],
)
@torch.no_grad()
def test_convolutions_keep_their_output_better_and_each_group_is_its_own_problem(conv):
    torch.manual_seed(0)
    conv.reset_parameters()
    inputs = torch.randn(8, conv.in_channels, *[9] * (conv.weight.dim() - 2)).cumsum(-1)
    weight, mask = conv.weight.clone(), torch.rand(conv.weight.shape) > 0.5
    rows = input_rows(conv, inputs)
    hessian = rows.mT @ rows
    new = refit(weight, mask, hessian)
    dense = conv(inputs)
    off = {}
    for name, tried in (("masked", weight * mask), ("refitted", new)):
        conv.weight.copy_(tried)
        off[name] = float((conv(inputs) - dense).square().sum())
    assert off["refitted"] < 0.8 * off["masked"]
    each = conv.out_channels // conv.groups
    for group in range(conv.groups):
        part = slice(group * each, (group + 1) * each)
        alone = refit(weight[part], mask[part], hessian[[group]])
        torch.testing.assert_close(new[part], alone, rtol=1e-3, atol=1e-4)


def test_channels_last_weights_are_refitted_alike():
    weight, mask = torch.randn(4, 3, 2, 2), torch.rand(4, 3, 2, 2) > 0.5
    inputs = torch.randn(50, 12)
    new = refit(weight, mask, hessian_of(inputs))
    strided = weight.to(memory_format=torch.channels_last), mask.to(memory_format=torch.channels_last)
    assert torch.equal(refit(*strided, hessian_of(inputs)), new)


def test_autocast_does_not_narrow_the_solution():
    weight, mask, inputs = random_case(8, 16, 0.5, dtype=torch.float32)
    hessian = hessian_of(inputs)
    new = refit(weight, mask, hessian)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(refit(weight, mask, hessian), new)


def test_an_indefinite_hessian_is_damped_more_or_refused():
    # The eigenvalues are 6 and -4 and the mean of the diagonal 1: it takes a damping above 4, and 0.01 becomes 10.
    weight, mask = torch.tensor([[1.0, 1.0]]), torch.tensor([[False, True]])
    new = refit(weight, mask, torch.tensor([[[1.0, 5.0], [5.0, 1.0]]]), steps=0)
    torch.testing.assert_close(new, torch.tensor([[0.0, 1 + 5 / 11]]))
    with pytest.raises(RuntimeError, match=r"not positive definite with any damping from 0.01 to 1000"):
        refit(weight, mask, torch.tensor([[[1.0, 1e6], [1e6, 1.0]]]))


def test_what_cannot_work_is_refused_in_words():
    weight, mask, hessian = torch.ones(3, 2), torch.ones(3, 2, dtype=torch.bool), torch.eye(2)[None]
    with pytest.raises(ValueError, match=r"needs a mask of that shape and a Hessian \(groups, 2, 2\)"):
        refit(weight, mask, torch.eye(3)[None])
    with pytest.raises(ValueError, match=r"given are \(2, 2\)"):
        refit(weight, mask[:2], hessian)
    with pytest.raises(ValueError, match="3 rows do not divide into 2 groups"):
        refit(weight, mask, hessian.expand(2, 2, 2))
    for damping in (0, -1.0, math.nan, True):
        with pytest.raises(ValueError, match="give a number above 0"):
            refit(weight, mask, hessian, damping=damping)
    with pytest.raises(ValueError, match="block=0"):
        refit(weight, mask, hessian, block=0)
    with pytest.raises(ValueError, match="steps=-1"):
        refit(weight, mask, hessian, steps=-1)


def test_hessians_add_up_what_a_model_reads_and_refit_its_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    targets = find_targets(net)
    hessians = Hessians(targets)
    batches = [torch.randn(16, 2, 5), torch.randn(5, 2, 5)]
    with torch.inference_mode(), InputCapture(net, targets, hessians.accumulate):
        net(batches[0])
    assert hessians.is_ready
    with torch.no_grad(), InputCapture(net, targets, hessians.accumulate):
        net(batches[1])
    rows = input_rows(net[0], torch.cat(batches))
    torch.testing.assert_close(hessians.tensors[0], rows.mT @ rows)
    hessians.check()
    weight, mask = targets[1].parameter.detach(), torch.rand(3, 12) > 0.7
    expected = refit(weight, mask, hessians.tensors[1], damping=0.1)
    assert torch.equal(hessians.refit(1, weight, mask, damping=0.1), expected)
    hessians.clear()
    assert not hessians.is_ready
    assert not hessians.tensors


def test_hessians_say_which_target_has_no_inputs_or_none_that_are_finite():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    hessians = Hessians(find_targets(net))
    hessians.accumulate(0, torch.ones(1, 3, 2))
    with pytest.raises(RuntimeError, match=r"no inputs of 1.weight: call pruner.calibrate\(batches\) first"):
        hessians.check()
    hessians.accumulate(1, torch.tensor([[[1.0, math.nan]]]))
    with pytest.raises(NonFiniteError, match=r"inputs of 1.weight are not finite"):
        hessians.check()
