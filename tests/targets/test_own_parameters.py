"""Which weights of layers outside torch are pruned: Conv1D of transformers, stacked experts, own matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune import Pruner
from lightning_dynprune.targets import find_targets
from tests.targets.own_layers import Conv1D, MixtralExperts

NOW = {"name": "one_shot", "begin": 1}


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(1, 8)), nn.Parameter(torch.randn(8, 1))
        self.scale, self.pos_embed = nn.Parameter(torch.ones(8)), nn.Parameter(torch.randn(1, 4, 8))


def names(*args, **kwargs):
    return [target.name for target in find_targets(*args, **kwargs)]


def test_conv1d_of_transformers_is_a_default_target():
    net = nn.ModuleDict({"wte": nn.Embedding(9, 8), "c_attn": Conv1D(24, 8), "ln": nn.LayerNorm(8)})
    assert names(net) == ["c_attn.weight"]
    assert names(net, "*.bias") == ["c_attn.bias"]


def test_an_own_class_of_the_name_conv1d_is_no_default_target():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

    Other.__name__ = "Conv1D"
    assert names(nn.Sequential(nn.Linear(2, 2), Other())) == ["0.weight"]


def test_stacked_experts_are_default_targets():
    net = nn.ModuleDict({"gate": nn.Linear(8, 4), "experts": MixtralExperts()})
    assert names(net) == ["gate.weight", "experts.gate_up_proj", "experts.down_proj"]


def test_three_dimensional_parameters_that_are_no_experts_stay_out():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)
            self.pos_weight = nn.Parameter(torch.randn(2, 4, 8))  # beside layers

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1, 4, 8))  # one table
            self.token_weight, self.cube = nn.Parameter(torch.randn(2, 4, 8)), nn.Parameter(torch.randn(2, 4, 8))

    assert names(nn.Sequential(Model(), Positions(), nn.Bilinear(2, 3, 4))) == ["0.fc.weight"]


def test_pairs_of_inputs_of_a_conv1d_are_grouped_along_its_inputs():
    net = Conv1D(2, 4)
    net.weight.data = torch.tensor([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]])
    Pruner(net, strategy="magnitude", pattern="n_m", schedule=NOW).tick()
    assert net.weight.tolist() == [[0.0, 8.0], [0.0, 7.0], [3.0, 0.0], [4.0, 0.0]]


def test_blocks_of_a_conv1d_span_its_outputs():
    net = Conv1D(2, 4)
    net.weight.data = torch.tensor([[1.0, 1.0], [9.0, 0.5], [2.0, 2.0], [7.0, 1.0]])
    Pruner(net, sparsity=0.5, strategy="magnitude", pattern={"name": "block", "rows": 2}, schedule=NOW).tick()
    assert net.weight.tolist() == [[0.0, 0.0], [9.0, 0.5], [0.0, 0.0], [7.0, 1.0]]


class KerasLike(nn.Module):
    """Holds its variables as Keras does on torch: the kernel of a dense layer is ``(inputs, outputs)``."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self._torch_params = nn.ParameterDict({"net/d/kernel": nn.Parameter(torch.randn(*shape))})


def test_pairs_of_inputs_of_a_keras_kernel_are_grouped_along_its_inputs():
    net = KerasLike(4, 2)
    kernel = next(net.parameters())
    kernel.data = torch.tensor([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]])
    Pruner(net, strategy="magnitude", pattern="n_m", schedule=NOW, targets="*/kernel").tick()
    assert kernel.tolist() == [[0.0, 8.0], [0.0, 7.0], [3.0, 0.0], [4.0, 0.0]]


@pytest.mark.parametrize("pattern", [{"name": "n_m", "pad": True}, {"name": "block", "rows": 2, "pad": True}])
@pytest.mark.parametrize(
    ("net", "targets", "name"),
    [(MixtralExperts(), None, "gate_up_proj"), (KerasLike(2, 4, 4), "*/kernel", "_torch_params.net/d/kernel")],
)
def test_a_weight_of_unknown_layout_is_refused_by_patterns_over_inputs(net, targets, name, pattern):
    settings = {} if pattern["name"] == "n_m" else {"sparsity": 0.5}
    with pytest.raises(ValueError, match=f"not known which dimensions of {name}, .* are inputs; exclude it"):
        Pruner(net, strategy="magnitude", pattern=pattern, targets=targets, schedule=NOW, **settings)


def test_experts_are_pruned_exactly():
    net = MixtralExperts()
    pruner = Pruner(net, sparsity=0.75, strategy="magnitude", schedule=NOW)
    pruner.tick()
    assert sum(int((p == 0).sum()) for p in (net.gate_up_proj, net.down_proj)) == 0.75 * pruner.masks.total


@pytest.mark.filterwarnings("ignore:frozen, so not pruned")
def test_a_star_finds_the_matrices_of_an_own_module():
    net = nn.Sequential(nn.Linear(8, 8), LowRank(), nn.LayerNorm(8))
    assert names(net) == ["0.weight"]
    assert names(net, "*") == ["0.weight", "1.lora_A", "1.lora_B"]
    assert names(net, "1.*") == ["1.lora_A", "1.lora_B"]
    assert names(net, "*.pos_embed") == ["1.pos_embed"]
    assert names(net, LowRank) == ["1.lora_A", "1.lora_B"]


def test_weights_and_biases_are_selected_by_one_rule():
    net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    assert names(net, ["*.weight", "*.bias"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert names(net, "1.*") == ["1.weight", "1.bias"]


def test_exclude_leaves_out_parameters_of_every_kind():
    net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    assert names(net, ["*.weight", "*.bias"], exclude="2.*") == ["0.weight", "0.bias"]
    assert names(net, ["0.*", "*.bias", "1.*"], exclude=nn.Linear) == ["1.weight", "1.bias"]
