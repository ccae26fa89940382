"""What patterns would give, measured on random zeros."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from lightning_dynprune.coupling import coupled_groups
from lightning_dynprune.deploy.forecast import preflight
from lightning_dynprune.deploy.forecast.forecast_result import Cell, verdict
from lightning_dynprune.deploy.forecast.random_masks import RandomlyNarrowed, randomly_pruned
from lightning_dynprune.deploy.timing import Ratio
from lightning_dynprune.patterns import NM, Block, Element
from lightning_dynprune.targets import find_targets
from tests.deploy.fake_clock import FakeClock, modules_take
from tests.networks import GPT, residual


@pytest.fixture(autouse=True)
def clock() -> Iterator[FakeClock]:
    with modules_take() as made:
        yield made


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 10))


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_element_zeros_are_the_share_asked_for_in_every_target_and_the_model_is_not_changed(sparsity: float) -> None:
    net = wide()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pruned = randomly_pruned(net, Element(), find_targets(net), sparsity)
    for layer in (pruned[0], pruned[2]):
        assert int((layer.weight == 0).sum()) == round(sparsity * layer.weight.numel())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_block_zeros_fill_whole_blocks_and_an_edge_stays_dense() -> None:
    net = nn.Linear(6, 70)
    zeros = randomly_pruned(net, Block(32, 1, pad=True), find_targets(net), 0.5).weight == 0
    assert not zeros[64:].any()
    per_block = zeros[:64].view(2, 32, 6).sum(1)
    assert sorted(per_block.flatten().tolist()) == [0] * 6 + [32] * 6


def test_n_of_m_zeros_are_two_of_every_four() -> None:
    net = nn.Linear(8, 3)
    zeros = randomly_pruned(net, NM(2, 4), find_targets(net), 0.5).weight == 0
    assert (zeros.view(3, 2, 4).sum(2) == 2).all()


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
def test_narrow_models_reach_the_sparsity_in_connections_and_run(sparsity: float) -> None:
    net, example = residual().eval(), torch.randn(2, 3, 8, 8)
    targets = find_targets(net)
    narrow = RandomlyNarrowed(net, coupled_groups(net, example).groups, targets).at(sparsity)
    left = sum(dict(narrow.named_parameters())[target.name].numel() for target in targets)
    reached = 1 - left / sum(target.numel for target in targets)
    # A channel less would be too few: one of these small groups is up to 0.09 of the connections.
    assert sparsity <= reached < sparsity + 0.1
    assert narrow(example).shape == (2, 4)


def test_channels_out_of_reach_are_refused_naming_the_most() -> None:
    net = GPT().eval()
    models = RandomlyNarrowed(net, coupled_groups(net, torch.randint(11, (2, 7))).groups, find_targets(net))
    # All but one of 96 inner units of both blocks gone: 2 * 2 * 95 * 24 of 2 * (12 * 24 * 24) + 24 * 11 connections.
    assert models.most == pytest.approx(2 * 2 * 95 * 24 / (2 * 12 * 24 * 24 + 24 * 11))
    with pytest.raises(ValueError, match=r"whole channels reach a sparsity of 0\.65 at most"):
        models.at(0.9)


def test_a_wide_layer_pays_in_blocks_and_channels_at_a_high_sparsity() -> None:
    found = preflight(wide(), torch.zeros(1, 512), batches=[1], sparsities=[0.9], seconds=8.0)
    for pattern in ("channel", "block 32x1"):
        (cell,) = found.of(pattern)
        assert cell.pays, str(found)
        assert found.verdicts[pattern] == f"batch 1: pays from 90 % on ({cell})"
    assert found.dense[1].median > 0


def test_a_tiny_network_cannot_pay_in_blocks_and_lower_sparsities_are_not_tried() -> None:
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))
    found = preflight(net, torch.zeros(1, 32), patterns=["block"], batches=[1], sparsities=[0.5, 0.9], seconds=8.0)
    low, high = found.of("block 32x1")
    assert (low.sparsity, high.sparsity) == (0.5, 0.9)
    assert high.is_measured
    assert not high.pays
    assert low.note == "it does not pay at 90 % either"
    assert found.verdicts["block 32x1"].startswith("batch 1: cannot pay here:")


def test_what_the_time_does_not_reach_is_not_measured_and_the_time_is_kept(clock: FakeClock) -> None:
    net = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(1024, 1024), nn.ReLU())])
    found = preflight(net, torch.zeros(1, 1024), batches=[1, 4096], seconds=0.3)
    assert clock.seconds < 3
    late = [cell for cell in found.cells if cell.batch == 4096]
    assert all(str(cell) == "not measured" and cell.note for cell in late)
    assert 4096 not in found.dense


def test_reasons_why_a_pattern_cannot_be_measured_are_in_words() -> None:
    found = preflight(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()),
        torch.zeros(1, 1, 8, 8),
        patterns=["block", {"name": "block", "rows": 2}, "n_m", "head"],
        batches=[1],
        seconds=5.0,
    )
    assert "rows=32 does not divide the 4 of 0.weight" in found.verdicts["block 32x1"]
    assert "kernels replace Linear layers, and the model has none" in found.verdicts["block 2x1"]
    assert "the model is on cpu" in found.verdicts["n_m 2:4"]
    assert found.verdicts["head"].startswith("not measured: heads hold too few")


def test_every_cell_has_an_outcome_or_a_reason_and_is_plain() -> None:
    import json

    found = preflight(wide(), torch.zeros(1, 512), batches=[1, 4], seconds=3.0)
    assert len(found.cells) == 4 * 3 * 2
    assert all(cell.is_measured or cell.note for cell in found.cells)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [cell["measured"] for cell in content["cells"]] == [cell.is_measured for cell in found.cells]


def test_a_verdict_names_where_a_pattern_starts_to_pay_for_each_batch() -> None:
    def ratio(median: float) -> Ratio:
        return Ratio(median, median - 0.01, median, 9)

    cells = [
        Cell("block", 0.5, 1, ratio(0.9)),
        Cell("block", 0.7, 1, ratio(1.5)),
        Cell("block", 0.9, 1, ratio(4.0)),
        Cell("block", 0.9, 32, note="too long"),
        Cell("block", 0.9, 64, ratio(1.04)),
    ]
    assert verdict(cells) == (
        "batch 1: pays from 70 % on (1.50x), 4.00x at 90 %; batch 32: not measured; "
        "batch 64: cannot pay here: 1.04x at 90 %"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batches": []}, r"batches=\[\] is not accepted"),
        ({"batches": [2, 2]}, r"batches=\[2, 2\] is not accepted"),
        ({"sparsities": [1.5]}, "sparsities=1.5 is not accepted"),
        ({"sparsities": []}, "need one entry each"),
        ({"patterns": ["stripe"]}, "pattern='stripe' is unknown"),
        ({"seconds": 0.0}, "seconds=0.0 is not accepted"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preflight(nn.Linear(4, 4), torch.zeros(1, 4), **settings)
