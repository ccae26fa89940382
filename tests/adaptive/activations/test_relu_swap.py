"""GELU and SiLU are replaced by ReLU where it is asked for; the model shows it, trains so, and strip undoes it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive import ActivationThreshold, Adapted, adapt, attach, place, strip
from lightning_dynprune.adaptive.activations import find_smooth, swap_back, swap_to_relu
from tests.adaptive.activations.networks import points, thresholded, trained


def kinds(net: nn.Module) -> list[str]:
    return [type(module).__name__ for name, module in net.named_children() if name != "adaptive"]


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU])
def test_a_swap_gives_zeros_is_visible_and_is_undone(activation):
    net = trained(activation)
    before, x = copy.deepcopy(net.state_dict()), points(8)[0]
    expected, own = net(x), net[1]
    found = thresholded(net, swap="relu", density=0.4)
    assert kinds(net) == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert "ReLU" in repr(net)
    assert (found.module.natural[1:] < 0.9).all()
    assert not torch.allclose(net(x), expected)
    assert torch.equal(found.module.outcome(net, x).dense, net(x))
    assert strip(net)[1] is own
    assert torch.equal(net(x), expected)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_model_is_fine_tuned_with_its_relus_and_then_adapted():
    net, x = trained(nn.GELU), points(64)[0]
    method = ActivationThreshold(swap="relu", density=0.4)
    assert method.is_joint
    assert not ActivationThreshold().is_joint
    place(net, method.begin_joint(net, x))
    assert kinds(net).count("ReLU") == 2
    assert "no layer has a threshold yet, 2 activations replaced by ReLU" in net.adaptive.summary
    optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), 1e-2)
    with net.adaptive.joint_step(net, x, points(64)[1]) as loss:
        (nn.functional.cross_entropy(net(x), points(64)[1]) + loss()).backward()
    optimizer.step()
    # Another call continues, as a callback does that trains in two fits.
    place(net, method.begin_joint(net, x))
    found = adapt(net, method, [points(256)], [points(200, seed=1)])
    assert found.module.swapped == ("1", "3")
    assert kinds(net).count("ReLU") == 2
    assert kinds(strip(net)) == ["Linear", "GELU", "Linear", "GELU", "Linear"]


def test_a_saved_swap_is_loaded_into_the_plain_model():
    net, x = trained(nn.GELU), points(6)[0]
    found = thresholded(net, swap="relu", density=0.4)
    loaded = trained(nn.GELU, steps=0)
    attach(loaded, net.state_dict())
    loaded.load_state_dict(net.state_dict())
    assert torch.equal(Adapted(loaded, x)(x), found(x))
    assert kinds(strip(loaded)).count("GELU") == 2
    with pytest.raises(ValueError, match="swap: '1' is a Tanh; a ReLU replaces GELU and SiLU only"):
        attach(trained(nn.Tanh, steps=0), net.state_dict())


def test_a_copy_is_stripped_by_itself():
    net = trained(nn.GELU)
    thresholded(net, swap="relu", density=0.4)
    twin = copy.deepcopy(net)
    strip(net)
    assert kinds(twin).count("ReLU") == 2
    assert kinds(strip(twin)).count("GELU") == 2
    assert twin[1] is not net[1]


def test_a_deployed_copy_keeps_the_relus():
    found = thresholded(trained(nn.GELU), swap="relu", density=0.4)
    x = points(10)[0]
    deployed = found.deploy(x, batches=(1,), seconds=0.02)
    assert torch.allclose(deployed.dense(x), found.model(x), atol=1e-5)


def test_a_module_that_is_used_twice_is_swapped_under_both_names():
    net, shared = trained(nn.GELU), nn.GELU()
    net[1] = net[3] = shared
    assert find_smooth(net) == ["1", "3"]
    originals = swap_to_relu(net, ["1", "3"])
    swap_back(net, originals)
    assert net[1] is net[3] is shared


def test_a_name_that_is_no_module_is_refused_and_nothing_is_replaced():
    net = trained(nn.GELU)
    with pytest.raises(ValueError, match="has no module 'act' to replace"):
        swap_to_relu(net, ["1", "act"])
    assert kinds(net).count("GELU") == 2
