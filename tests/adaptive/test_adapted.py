"""A network is adapted in one call, runs per input, is saved and loaded, and is stripped to what it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive import METHODS, Adapted, EarlyExits, adapt, attach, strip
from tests.adaptive.networks import Skipping, Untraceable, adapted, images, trained


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return adapted(trained(Skipping())).model


def test_the_methods_are_registered():
    assert "early_exit" in METHODS.names()


def test_the_network_keeps_its_keys_values_modes_and_outputs_and_strip_removes_the_rest():
    torch.manual_seed(0)
    plain = trained(Skipping(), steps=5)
    before, x = copy.deepcopy(plain.state_dict()), images(5)[0]
    expected = plain(x)
    model = adapted(plain).model
    added = set(model.state_dict()) - set(before)
    assert added
    assert all(key.startswith("adaptive.") for key in added)
    assert not model.training
    assert torch.equal(model(x), expected)
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "adaptive" not in name)
    assert strip(model) is model
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert strip(model) is model  # nothing is left to take out


def test_a_sequential_network_still_returns_its_own_output():
    torch.manual_seed(0)
    x, labels = images(64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    expected = net.eval()(x)
    found = adapt(net, "early_exit", [(x, labels)], [(x, labels)], after=["2"], hidden=4, epochs=2, budget=0.99)
    assert torch.equal(net(x), expected)
    assert found(x).shape == (64, 4)


def test_a_saved_network_is_loaded_and_takes_the_same_exits_and_budgets(network):
    state, x = network.state_dict(), images(40, seed=2)[0]
    loaded = Skipping().eval()
    attach(loaded, state)
    assert loaded.load_state_dict(state).missing_keys == []
    first, second = Adapted(network), Adapted(loaded)
    assert torch.equal(first(x), second(x))
    assert torch.equal(first.runner().exits, second.runner().exits)
    module = second.budget(0.5).module
    assert isinstance(module, EarlyExits)
    assert module.chosen.compute == pytest.approx(0.5, rel=0.02)


def test_a_state_without_or_with_a_damaged_module_is_refused(network):
    with pytest.raises(ValueError, match=r"holds no adaptive\.description"):
        attach(Skipping(), Skipping().state_dict())
    state = {**network.state_dict(), "adaptive.description": torch.tensor([1, 2], dtype=torch.uint8)}
    with pytest.raises(ValueError, match="holds no settings of a method"):
        attach(Skipping(), state)
    state = {key: value for key, value in network.state_dict().items() if key != "adaptive.heads.0.hidden.weight"}
    with pytest.raises(ValueError, match="damaged"):
        attach(Skipping(), state)


def test_a_deep_copy_is_a_network_of_its_own(network):
    twin = copy.deepcopy(network)
    x = images(20, seed=3)[0]
    expected = Adapted(network)(x)
    for parameter in network.stem.parameters():
        assert all(parameter is not other for other in twin.parameters())
    assert torch.equal(Adapted(twin)(x), expected)


def test_running_in_training_mode_is_refused(network):
    twin = copy.deepcopy(network).train()
    with pytest.raises(ValueError, match=r"call eval\(\)"):
        Adapted(twin)(images(2)[0])


def test_a_network_without_the_module_or_with_an_own_one_of_the_name_is_refused():
    with pytest.raises(ValueError, match="call adapt or attach first"):
        Adapted(Skipping())
    own = Skipping()
    own.adaptive = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="of the model's own"):
        adapted(own)
    assert strip(own).adaptive is own.adaptive


@pytest.mark.parametrize(
    ("train", "held_out", "message"),
    [
        ([], [images(4)], "train has no inputs"),
        ([images(4)], [], "held_out has no inputs"),
        ([images(4)], [images(0)], "held_out has no inputs"),
        ([images(4)[0]], [images(4)], "give pairs"),
        ([images(4)], [(images(4)[0], torch.ones(4, 4))], "give class indices"),
        ([(images(4)[0], torch.tensor([0, 1, 2, 4]))], [images(4)], "labels from 0 to 4 are no class indices of 4"),
        ([images(4)], [(images(4)[0], torch.zeros(3, dtype=torch.int64))], "4 inputs and 3 labels"),
    ],
)
def test_batches_that_cannot_be_read_are_refused_and_the_network_is_left_alone(train, held_out, message):
    model = Skipping().eval()
    with pytest.raises((ValueError, TypeError), match=message):
        adapt(model, "early_exit", train, held_out, after=["stem"], epochs=1)
    assert not hasattr(model, "adaptive")


def test_a_network_that_does_not_trace_is_adapted_too():
    torch.manual_seed(0)
    found = adapted(trained(Untraceable(), steps=20))
    assert found(images(6)[0]).shape == (6, 4)
    assert isinstance(found.module, EarlyExits)
    assert "cannot trace" in str(found.module.why_pieces)
