"""Sparsity and LayerSparsity: the share of connections that masks prune."""

from __future__ import annotations

import pytest
import torch

from lightning_dynprune.metrics import LayerSparsity, Sparsity, layer_sparsity, sparsity

MASKS = {
    "conv.weight": torch.tensor([[True, False], [False, False]]),
    "fc.weight": torch.tensor([True, True, True, True, False, False]),
}


def test_sparsity_is_pruned_over_all_connections_not_a_mean_of_layers():
    assert sparsity(MASKS).item() == 5 / 10


def test_sparsity_of_mapping_iterable_and_bare_tensor_agree():
    mask = MASKS["conv.weight"]
    assert sparsity({"w": mask}).item() == sparsity([mask]).item() == sparsity(mask).item() == 0.75
    assert sparsity(m for m in MASKS.values()).item() == 0.5


def test_class_agrees_with_function_and_adds_up_connections_over_updates():
    metric = Sparsity()
    for mask in MASKS.values():
        metric.update([mask])
    assert metric.compute().item() == sparsity(MASKS).item() == 0.5


def test_forward_returns_the_value_of_that_update_alone():
    metric = Sparsity()
    assert metric([MASKS["conv.weight"]]).item() == 0.75
    assert metric([MASKS["fc.weight"]]).item() == pytest.approx(1 / 3, abs=1e-15)
    assert metric.compute().item() == 0.5


def test_one_pruned_connection_of_twenty_million_is_not_lost_to_rounding():
    # float32 cannot hold 20,000,001 and int32 sums of many such layers overflow.
    mask = torch.ones(20_000_001, dtype=torch.bool)
    mask[7] = False
    metric = Sparsity()
    metric.update([mask])
    assert metric.compute().item() == 1 / 20_000_001
    metric.pruned += 2**40
    metric.connections += 2**41
    metric._computed = None
    assert metric.compute().item() == (2**40 + 1) / (2**41 + 20_000_001)


def test_an_empty_target_beside_others_counts_as_nothing():
    assert sparsity([torch.tensor([False, True]), torch.ones(0, dtype=torch.bool)]).item() == 0.5


def test_layer_sparsity_reports_each_layer_by_name():
    shares = layer_sparsity(MASKS)
    assert list(shares) == ["conv.weight", "fc.weight"]
    assert shares["conv.weight"].item() == 0.75
    assert shares["fc.weight"].item() == 2 / 6


def test_layer_class_agrees_with_function_whatever_the_order_of_the_mapping():
    metric = LayerSparsity(list(MASKS))
    metric.update(dict(reversed(MASKS.items())))
    assert metric.compute() == layer_sparsity(MASKS)
    assert list(metric.compute()) == list(MASKS)


def test_layer_class_adds_up_over_updates():
    metric = LayerSparsity(["a"])
    metric.update({"a": torch.tensor([True, False])})
    metric.update({"a": torch.tensor([False, False, False, False])})
    assert metric.compute()["a"].item() == 5 / 6


def test_layer_without_entries_is_nan_since_it_has_no_share():
    shares = layer_sparsity({"a": torch.ones(0, dtype=torch.bool), "b": torch.tensor([False])})
    assert shares["a"].isnan()
    assert shares["b"].item() == 1.0


@pytest.mark.parametrize("masks", [{}, [], [torch.ones(0, dtype=torch.bool)]])
def test_nothing_to_count_is_refused(masks):
    with pytest.raises(ValueError, match="masks has no entries"):
        sparsity(masks)
    with pytest.raises(ValueError, match="masks has no entries"):
        Sparsity().update(masks)


def test_a_mask_that_is_not_bool_is_refused_by_name():
    with pytest.raises(TypeError, match=r"masks\['fc'\] is a torch.float32 tensor; give a bool tensor"):
        sparsity({"fc": torch.ones(3)})
    with pytest.raises(TypeError, match=r"masks\['1'\] is 0.5"):
        sparsity([torch.tensor([True]), 0.5])
    with pytest.raises(TypeError, match="masks=3 is not accepted"):
        sparsity(3)


def test_layers_need_a_mapping():
    with pytest.raises(TypeError, match="give a mapping"):
        layer_sparsity([torch.tensor([True])])


@pytest.mark.parametrize(
    ("names", "error"),
    [([], ValueError), (["a", "a"], ValueError), ("a", TypeError), ([1], TypeError)],
)
def test_layer_names_are_checked_at_construction(names, error):
    with pytest.raises(error, match="names="):
        LayerSparsity(names)


def test_layers_missing_from_or_beyond_the_names_are_named():
    metric = LayerSparsity(["a", "b"])
    with pytest.raises(ValueError, match=r"lacks \['b'\] and has \['c'\]"):
        metric.update({"a": torch.tensor([True]), "c": torch.tensor([True])})
    assert metric.connections.tolist() == [0, 0]
