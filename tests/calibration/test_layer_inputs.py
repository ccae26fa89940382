"""Rows of inputs reproduce each module's output, and hooks hand them over and go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_dynprune.calibration import InputCapture
from lightning_dynprune.calibration.layer_inputs import input_rows, row_pieces
from lightning_dynprune.targets import Target, find_targets

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def collected(model: nn.Module, targets: list[Target], *batches: torch.Tensor) -> dict[int, list[torch.Tensor]]:
    taken: dict[int, list[torch.Tensor]] = {}
    with InputCapture(model, targets, lambda position, rows: taken.setdefault(position, []).append(rows)):
        for batch in batches:
            model(batch)
    return taken


def outputs(module: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Multiply rows with the flat weights of each group: (n, output channels)."""
    weight = module.weight.flatten(1).view(rows.shape[0], -1, rows.shape[2])
    return (rows @ weight.mT).permute(1, 0, 2).flatten(1)


@st.composite
def convolutions(draw):
    spatial = draw(st.sampled_from([1, 2, 3]))
    groups = draw(st.sampled_from([1, 2, 3]))
    each = st.tuples(*[st.integers(1, 3)] * spatial)
    kernel, dilation = draw(each), draw(st.tuples(*[st.integers(1, 2)] * spatial))
    padding = draw(st.one_of(st.tuples(*[st.integers(0, 2)] * spatial), st.sampled_from(["same", "valid"])))
    stride = (1,) * spatial if padding == "same" else draw(each)
    channels = groups * draw(st.integers(1, 2))
    module = CONVOLUTIONS[spatial](
        channels,
        groups * draw(st.integers(1, 2)),
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=False,
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        dtype=torch.float64,
    )
    sizes = [draw(st.integers(5, 7)) for _ in range(spatial)]
    lead = [] if draw(st.booleans()) else [draw(st.integers(1, 3))]
    return module, torch.randn(*lead, channels, *sizes, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(deadline=None, max_examples=200)
@given(convolutions(), st.integers(1, 200))
def test_rows_times_flat_weights_are_the_output_of_any_convolution(case, most):
    module, inputs = case
    batched = module.weight.dim() == inputs.dim()
    expected = module(inputs if batched else inputs.unsqueeze(0)).movedim(1, -1).flatten(0, -2)
    rows = input_rows(module, inputs)
    torch.testing.assert_close(outputs(module, rows), expected, rtol=1e-10, atol=1e-12)
    pieces = list(row_pieces(module, inputs, most))
    assert torch.equal(torch.cat(pieces, dim=1), rows)
    assert all(piece.numel() <= max(most, rows[:, :1].numel()) for piece in pieces)


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (0, 4)])
def test_rows_of_a_linear_are_its_inputs_without_their_batch_dimensions(shape):
    module, inputs = nn.Linear(4, 3, bias=False), torch.randn(shape)
    rows = input_rows(module, inputs)
    assert rows.shape == (1, inputs.numel() // 4, 4)
    torch.testing.assert_close(outputs(module, rows), module(inputs).reshape(-1, 3))
    assert sum(piece.shape[1] for piece in row_pieces(module, inputs, 4)) == inputs.numel() // 4


def test_rows_of_a_small_convolution_written_out():
    conv = nn.Conv2d(2, 2, (1, 2), groups=2)
    image = torch.tensor([[[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]]])
    assert input_rows(conv, image).tolist() == [[[1.0, 2.0], [2.0, 3.0]], [[4.0, 5.0], [5.0, 6.0]]]


def test_rows_are_float32_for_narrow_inputs_and_refused_of_other_modules():
    assert input_rows(nn.Linear(2, 2), torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.float32
    with pytest.raises(TypeError, match="Conv3d, not of ConvTranspose2d"):
        input_rows(nn.ConvTranspose2d(1, 1, 2), torch.ones(1, 1, 2, 2))


def test_inputs_hands_over_every_call_and_nothing_after_exit():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    targets = find_targets(net)
    first, second = torch.randn(4, 3), torch.randn(2, 5, 3)
    taken = collected(net, targets, first, second)
    assert [rows.shape for rows in taken[0]] == [(1, 4, 3), (1, 10, 3)]
    assert torch.equal(taken[0][0][0], first)
    torch.testing.assert_close(taken[1][0][0], net[:2](first).detach())
    assert not any(rows.requires_grad for rows in taken[0] + taken[1])
    net(first)
    assert len(taken[0]) == 2
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_hooks_go_where_the_model_or_the_taker_fails():
    net = nn.Linear(3, 2)
    targets = find_targets(net)
    with pytest.raises(RuntimeError), InputCapture(net, targets, lambda *_: None):
        net(torch.ones(1, 4))
    with pytest.raises(ZeroDivisionError), InputCapture(net, targets, lambda *_: 1 / 0):
        net(torch.ones(1, 3))
    assert not net._forward_pre_hooks


def test_a_module_that_does_not_run_hands_over_nothing():
    net = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    targets = find_targets(net)
    taken: list[int] = []
    with InputCapture(net, targets, lambda position, rows: taken.append(position)):
        net["used"](torch.ones(1, 2))
        net["used"](torch.ones(0, 2))
    assert taken == [0]


def test_both_owners_of_a_tied_weight_count():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    taken = collected(net, find_targets(net), torch.ones(3, 2))
    assert list(taken) == [0]
    assert [rows.shape for rows in taken[0]] == [(1, 3, 2)] * 2


def test_inputs_given_by_name_are_handed_over():
    net = nn.Linear(2, 2)
    taken: list[torch.Tensor] = []
    with InputCapture(net, find_targets(net), lambda _, rows: taken.append(rows)):
        net(input=torch.ones(3, 2))
    assert taken[0].shape == (1, 3, 2)


def test_under_autocast_what_is_taken_stays_in_float32():
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    products = []
    with (
        InputCapture(net, find_targets(net), lambda _, rows: products.append((rows, rows.mT @ rows))),
        torch.autocast("cpu", torch.bfloat16),
    ):
        net(torch.randn(9, 64))
        assert net(torch.randn(9, 64)).dtype == torch.bfloat16
    for rows, product in products:
        assert rows.dtype == product.dtype == torch.float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_is_made_while_no_gradients_are_kept_can_be_written_to_later(mode):
    net = nn.Linear(2, 2)
    sums: list[torch.Tensor] = []
    with mode(), InputCapture(net, find_targets(net), lambda _, rows: sums.append(rows.sum(1))):
        net(torch.ones(3, 2))
    assert sums[0].add_(1).tolist() == [[4.0, 4.0]]


def test_targets_without_rows_are_refused_by_name():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, 2))

    net = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(4, 2),
            "up": nn.ConvTranspose1d(2, 2, 2),
            "words": nn.Embedding(3, 2),
            "own": Scaled(),
            "fine": nn.Linear(2, 2),
        }
    )
    net["tied"] = nn.Linear(2, 3, bias=False)
    net["tied"].weight = net["words"].weight
    named = {
        "attention.in_proj_weight": "the in_proj_weight of a MultiheadAttention",
        "attention.out_proj.weight": "the weight of a NonDynamicallyQuantizableLinear",
        "up.weight": "the weight of a ConvTranspose1d",
        "words.weight": "the weight of a Embedding",
        "own.scale": "the scale of a Scaled",
        "fine.bias": "the bias of a Linear",
    }
    for name, what in named.items():
        with pytest.raises(ValueError, match=f"Conv1D only, and {name} is {what}; exclude it from targets"):
            InputCapture(net, find_targets(net, [name, "fine.weight"]), lambda *_: None)
    stranger = Target("far.weight", nn.Parameter(torch.ones(2, 2)))
    with pytest.raises(ValueError, match=r"far.weight is no parameter of ModuleDict"):
        InputCapture(net, [stranger], lambda *_: None)
