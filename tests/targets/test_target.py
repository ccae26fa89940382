"""Which parameters are pruned."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lightning_dynprune.targets import find_targets


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(10, 8)
        self.conv1 = nn.Conv1d(2, 2, 3)
        self.conv2 = nn.Conv2d(2, 2, 3)
        self.conv3 = nn.Conv3d(2, 2, 3)
        self.up = nn.ConvTranspose2d(2, 2, 3)
        self.norm = nn.LayerNorm(8)
        self.bn = nn.BatchNorm2d(2)
        self.attn = nn.MultiheadAttention(8, 2)
        self.cross = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)
        self.rnn = nn.LSTM(8, 8)
        self.fc = nn.Linear(8, 8)


def names(*args, **kwargs):
    return [target.name for target in find_targets(*args, **kwargs)]


def test_default_targets_are_the_weights_that_multiply():
    assert names(Everything()) == [
        "conv1.weight",
        "conv2.weight",
        "conv3.weight",
        "up.weight",
        "attn.in_proj_weight",
        "attn.out_proj.weight",
        "cross.q_proj_weight",
        "cross.k_proj_weight",
        "cross.v_proj_weight",
        "cross.out_proj.weight",
        "fc.weight",
    ]


def test_globs_and_types_choose_and_exclude():
    net = Everything()
    assert names(net, "conv?.weight") == ["conv1.weight", "conv2.weight", "conv3.weight"]
    assert names(net, [nn.Conv2d, "fc.*"]) == ["conv2.weight", "fc.weight"]
    assert names(net, "conv*", exclude=[nn.Conv3d, "conv1.*"]) == ["conv2.weight"]


def test_a_glob_leaves_norms_biases_and_embeddings_alone_unless_it_asks_for_nothing_else():
    net = Everything()
    assert names(net, "*") == names(net)
    assert names(net, "*.weight") == [name for name in names(net) if name.endswith(".weight")]
    assert names(net, ["fc.bias", nn.Embedding]) == ["emb.weight", "fc.bias"]
    assert names(net, nn.LSTM) == ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]


def test_the_first_matching_glob_gives_the_settings():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    found = find_targets(net, {"0.*": {"sparsity": 0.5, "min_kept": 3}, "1.*": 0.25, "*": 0.75})
    assert [(t.sparsity, t.min_kept) for t in found] == [(0.5, 3), (0.25, 1), (0.75, 1)]


def test_a_tied_parameter_is_one_target():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert names(net) == ["0.weight"]
    assert names(net, "2.weight") == ["0.weight"]


def test_a_weight_tied_to_an_embedding_is_an_embedding():
    net = nn.ModuleDict({"emb": nn.Embedding(10, 4), "fc": nn.Linear(4, 4), "head": nn.Linear(4, 10, bias=False)})
    net["head"].weight = net["emb"].weight
    assert names(net) == ["fc.weight"]
    assert names(net, "head.weight") == ["emb.weight"]


def test_frozen_parameters_are_named_and_left_out():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[0].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="frozen, so not pruned: 0.weight"):
        assert names(net) == ["1.weight"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": "encoder.*"}, r"targets: 'encoder.\*' matches no parameter; there are 0.weight, 0.bias"),
        ({"targets": {"nope": 0.5}}, "targets: 'nope' matches no parameter"),
        ({"targets": nn.Conv2d}, "targets: 'Conv2d' matches no parameter"),
        ({"exclude": "nope"}, "exclude: 'nope' matches no parameter"),
        ({"exclude": "*"}, "nothing to prune"),
        ({"targets": {"0.*": {"density": 0.5}}}, "unknown setting 'density'; known: sparsity, min_kept"),
        ({"targets": {"0.*": 1.5}}, r"sparsity of 0.weight=1.5 is not accepted; give a number in \[0, 1\)"),
        ({"targets": {"0.*": {"min_kept": 0}}}, "min_kept of 0.weight=0 is not accepted"),
        ({"min_kept": 0}, "min_kept=0 is not accepted"),
    ],
)
def test_what_cannot_work_is_refused_in_words(settings, message):
    with pytest.raises(ValueError, match=message):
        find_targets(nn.Sequential(nn.Linear(4, 4)), **settings)


@pytest.mark.parametrize("targets", [3, [3], int])
def test_a_selector_of_another_kind_is_refused(targets):
    with pytest.raises(TypeError, match="is not accepted; give globs"):
        find_targets(nn.Linear(2, 2), targets)


def test_a_model_without_a_prunable_parameter_is_refused():
    with pytest.raises(ValueError, match=r"nothing to prune: .* of LayerNorm; its parameters are weight, bias"):
        find_targets(nn.LayerNorm(4))


def test_a_lazy_parameter_is_refused_by_name():
    with pytest.raises(ValueError, match=r"0\.weight is lazy and has no shape yet"):
        find_targets(nn.Sequential(nn.LazyLinear(4)))


def test_a_parameter_pruned_by_torch_is_refused_by_name():
    net = nn.Sequential(nn.Linear(4, 4))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    with pytest.raises(ValueError, match=r"0.weight is pruned by torch.nn.utils.prune already; call prune.remove"):
        find_targets(net)


def test_a_view_slices_and_gathers_every_tensor_alike():
    target = find_targets(nn.Linear(4, 3))[0]
    target.parameter.grad = torch.arange(12.0).view(3, 4)
    target.state["ema"] = -torch.arange(12.0).view(3, 4)
    flat = target.view(torch.arange(12).view(3, 4) % 2 == 0, seed=5).flat()
    piece = flat.piece(4, 8)
    assert piece.grad.tolist() == [4.0, 5.0, 6.0, 7.0]
    assert piece.positions.tolist() == [4, 5, 6, 7]
    picked = flat.gather(torch.tensor([9, 2]))
    assert picked.grad.tolist() == [9.0, 2.0]
    assert picked.state["ema"].tolist() == [-9.0, -2.0]
    assert picked.mask.tolist() == [False, True]
    assert picked.positions.tolist() == [9, 2]
