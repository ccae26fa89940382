"""Which share of a model the targets hold: what is said of it, and of a model with nothing to prune."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import nn

from lightning_dynprune import DynamicPruning, Pruner
from lightning_dynprune.targets import coverage, find_targets
from tests.compatibility.runs import Module, network
from tests.training import trainer


class CharLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.rnn, self.head = nn.Embedding(8, 4), nn.LSTM(4, 16), nn.Linear(16, 8)


def test_the_share_and_what_is_left_out_are_said_in_one_line():
    net = nn.Sequential(nn.Linear(10, 10), nn.LayerNorm(10))
    said = coverage(net, find_targets(net))
    assert (said.held, said.total, said.is_low) == (100, 130, False)
    assert said.text == "targets hold 100 of 130 parameters (76.9%); left out: LayerNorm 20, bias of Linear 10"


def test_a_recurrent_model_is_told_the_setting_that_takes_it_in():
    net = CharLSTM()
    with pytest.warns(UserWarning, match="targets hold 128 of 1,576 parameters") as seen:
        pruner = Pruner(net, sparsity=0.5, strategy="magnitude", total_steps=4)
    pruner.close()
    message = str(seen[0].message)
    assert "left out: LSTM 1,408, Embedding 32, bias of Linear 8" in message
    assert "\n" not in message
    assert message.endswith("targets=['*', '*weight_hh*', '*weight_ih*'] takes in LSTM")
    found = find_targets(net, ["*", "*weight_hh*", "*weight_ih*"])
    assert [t.name for t in found] == ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]
    assert not coverage(net, found).is_low


def test_tied_parameters_count_once():
    net = nn.ModuleDict(
        {"emb": nn.Embedding(10, 4), "fc": nn.Linear(4, 4, bias=False), "head": nn.Linear(4, 10, False)}
    )
    net["head"].weight = net["emb"].weight
    said = coverage(net, find_targets(net))
    assert (said.held, said.total, said.left_out) == (16, 56, {"Embedding": 40})
    assert "targets=['*', 'emb.weight'] takes in emb.weight of Embedding" in said.text


def test_a_model_whose_targets_hold_the_half_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = Pruner(nn.Linear(8, 8), sparsity=0.5, strategy="magnitude", total_steps=4)
    assert pruner.coverage.share == 64 / 72


def test_a_fit_says_the_share_at_its_start(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lightning.pytorch.utilities.rank_zero"):
        trainer([DynamicPruning(sparsity=0.5)], tmp_path).fit(Module(network()))
    assert sum("targets hold" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("net", "settings", "reason"),
    [
        (nn.Linear(4, 4).requires_grad_(False), {}, "all that targets selects is frozen; .*requires_grad_"),
        (nn.Linear(4, 4), {"exclude": "*"}, r"exclude='\*' leaves out all 1 parameters that targets selects"),
        (nn.LSTM(4, 4), {}, r"no layer of the types .*targets=\['\*weight_hh\*', '\*weight_ih\*'\] takes in LSTM"),
        (nn.Embedding(4, 4), {}, r"no layer of the types .*targets=\['weight'\] takes in weight of Embedding"),
    ],
)
def test_nothing_to_prune_names_the_reason_and_the_setting(net, settings, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=f"nothing to prune: .*{reason}"):
            find_targets(net, **settings)


def test_the_setting_that_a_recurrent_model_is_told_works():
    assert [t.name for t in find_targets(nn.LSTM(4, 4), ["*weight_hh*", "*weight_ih*"])] == [
        "weight_ih_l0",
        "weight_hh_l0",
    ]
    assert torch.is_tensor(find_targets(nn.Embedding(4, 4), ["weight"])[0].parameter)
