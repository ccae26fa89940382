"""A forward is split into stages that compute what it computes, and without cuts into one flat graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from lightning_dynprune.adaptive.stages import StageError, flat_form, split_into_stages, without_inputs
from tests.adaptive.networks import Reshaping, Skipping, Untraceable, images


def test_without_cuts_there_is_one_stage_the_whole_forward():
    net, x = Skipping().eval(), images(3)[0]
    (stage,) = split_into_stages(net, [], x)
    assert torch.equal(stage.module(x), net(x))


def test_the_flat_form_calls_the_layers_without_the_modules_around_them():
    net, x = Skipping().eval(), images(3)[0]
    flat = flat_form(net, x)
    assert isinstance(flat, fx.GraphModule)
    called = [node.target for node in flat.graph.nodes if node.op == "call_module"]
    assert called == ["stem.0", "stem.1", "stem.2", "left", "right", "last", "head"]
    assert torch.equal(flat(x), net(x))


def test_a_network_that_has_no_flat_form_stays_as_it_is():
    net, x = Untraceable().eval(), images(3)[0]
    assert flat_form(net, x) is net
    assert flat_form(net, {"x": x}) is net


def test_the_values_of_both_sides_of_a_skip_connection_cross_a_cut():
    net, x = Skipping().eval(), images(5)[0]
    first, last = split_into_stages(net, ["left"], x)
    crossing = first.module(x)
    shapes = [tuple(value.shape) for value in crossing]
    assert shapes == [(5, 8, 8, 8), (5, 4, 8, 8)]
    assert first.crossing == ("inputs", "inputs")
    scores: Tensor = last.module(*crossing)
    assert torch.equal(scores, net(x))


def test_a_layer_that_does_nothing_in_eval_mode_is_left_out():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Dropout()), nn.ReLU()).eval()
    (stage,) = split_into_stages(net, [], torch.ones(2, 2))
    assert [node.target for node in stage.module.graph.nodes if node.op == "call_module"] == ["0.0", "1"]


def test_the_number_of_inputs_crosses_a_cut_and_follows_the_inputs_that_leave():
    net, x = Reshaping().eval(), images(5)[0]
    first, last = split_into_stages(net, ["first"], x)
    assert first.crossing == ("inputs", "count")
    kept = torch.tensor([1, 4])
    features, count = without_inputs(first.module(x), first.crossing, kept)
    assert count == 2
    assert torch.allclose(last.module(features, count), net(x)[kept], atol=1e-6)


def test_a_number_that_depends_on_the_batch_in_another_way_is_refused():
    class Doubled(Reshaping):
        def forward(self, x: Tensor) -> Tensor:
            count = 2 * x.size(0)
            return self.last(torch.relu(self.first(x)).reshape(count // 2, -1))

    with pytest.raises(StageError, match="int crosses a cut: it is 4 for 2 inputs and 6 for 3"):
        split_into_stages(Doubled().eval(), ["first"], images(2)[0])
