"""Restoring: the exact earlier masks, and the values that were cut since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_dynprune.engine import Pruner, sealed

TOTAL = 24


class Run:
    """A convolution in channels_last and a linear layer, trained with momentum and decay."""

    def __init__(self, **settings: Any) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 7))
        self.net[0].to(memory_format=torch.channels_last)
        self.adam = torch.optim.AdamW(self.net.parameters(), lr=0.02, weight_decay=0.1)
        settings = {
            "sparsity": 0.8,
            "journal": {"remember_values": True},
            "schedule": {"name": "linear", "begin": 2, "end": 20, "every": 3},
            **settings,
        }
        self.pruner = Pruner(self.net, self.adam, total_steps=TOTAL, **settings)
        self.done = 0
        self.masks: dict[int, list[torch.Tensor]] = {}
        self.before: dict[int, list[torch.Tensor]] = {}

    def step(self) -> None:
        x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(self.done))
        self.adam.zero_grad()
        self.net(x).square().mean().backward()
        self.adam.step()
        self.done += 1
        # What an update cuts is what the weights are just before it, zero where pruned already.
        weights = zip(self.pruner.targets, self.pruner.masks.tensors, strict=True)
        self.before[self.done] = [torch.where(m, t.parameter.detach(), 0.0) for t, m in weights]
        self.pruner.tick()
        self.masks[self.done] = [m.clone() for m in self.pruner.masks.tensors]

    def to(self, step: int) -> Run:
        while self.done < step:
            self.step()
        return self

    def expected(self, step: int) -> list[torch.Tensor]:
        """Return what restoring ``step`` gives: values of now where it lives, those of its first cut where not."""
        values = []
        for i, target in enumerate(self.pruner.targets):
            value = target.parameter.detach().clone()
            missing = self.masks[step][i] & ~self.masks[self.done][i]
            for later in range(step + 1, self.done + 1):
                cut = missing & self.masks[later - 1][i] & ~self.masks[later][i]
                value[cut] = self.before[later][i][cut]
                missing &= ~cut
            assert not missing.any()
            values.append(torch.where(self.masks[step][i], value, 0.0))
        return values

    def save(self, path: Path) -> None:
        parts = {"net": self.net, "adam": self.adam, "pruner": self.pruner}
        torch.save({name: part.state_dict() for name, part in parts.items()}, path)

    def load(self, path: Path) -> Run:
        state = torch.load(path, weights_only=True)
        for name, part in (("net", self.net), ("adam", self.adam), ("pruner", self.pruner)):
            part.load_state_dict(state[name])
        self.done = self.pruner.clock.step
        return self


def check(run: Run, masks: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    for target, mask, expected_mask, expected in zip(
        run.pruner.targets, run.pruner.masks.tensors, masks, values, strict=True
    ):
        assert torch.equal(mask, expected_mask)
        assert torch.equal(target.parameter.detach(), expected)
        assert not target.parameter.detach().contiguous().view(torch.int32)[~mask].any()


GROWING: dict[str, Any] = {
    "strategy": {"name": "rigl", "exchange": 0.3},
    "schedule": {"name": "constant", "begin": 2, "end": 20, "every": 3},
}


@pytest.mark.parametrize("settings", [{}, GROWING], ids=["gradual", "rigl"])
@pytest.mark.parametrize("step", [1, 2, 6, 12, 17])
def test_after_a_kill_and_a_resume_the_exact_masks_and_values_are_back(settings, step, tmp_path):
    run = Run(**settings).to(10)
    run.save(tmp_path / "run.pt")
    resumed = Run(**settings)
    for parameter in resumed.net.parameters():
        nn.init.constant_(parameter, 9.0)
    resumed.masks, resumed.before = run.masks, run.before
    resumed.load(tmp_path / "run.pt").to(18)
    values = resumed.expected(step)
    update = resumed.pruner.restore(step)
    check(resumed, resumed.masks[step], values)
    assert resumed.pruner.masks.kept == [int(m.sum()) for m in resumed.masks[step]]
    assert update.step == 18
    assert update.sparsity == resumed.pruner.sparsity
    if not settings and step == 1:
        assert all(value.all() for value in values)  # dense again, every weight with a value


def test_what_returns_trains_from_cleared_slots_and_what_leaves_is_cleared_too():
    run = Run(**GROWING).to(18)
    before = [m.clone() for m in run.pruner.masks.tensors]
    run.pruner.restore(6)
    for target, old, new in zip(run.pruner.targets, before, run.pruner.masks.tensors, strict=True):
        state = run.adam.state[target.parameter]
        assert (old ^ new).any()
        for slot in ("exp_avg", "exp_avg_sq"):
            assert not state[slot][~(old & new)].any()
            assert state[slot][old & new].any()


def test_a_second_restore_undoes_the_first():
    run = Run().to(18)
    masks = [m.clone() for m in run.pruner.masks.tensors]
    run.pruner.restore(6)
    between = [t.parameter.detach().clone() for t in run.pruner.targets]
    # Step 17 lies after the last scheduled update, at 17: the masks of now.
    run.pruner.restore(17)
    check(run, masks, [torch.where(m, v, 0.0) for m, v in zip(masks, between, strict=True)])
    # And back: what the restore cut was remembered as well.
    run.pruner.restore(6)
    check(run, run.masks[6], between)
    assert [text for _, text in run.pruner.journal.notes] == [
        f"masks restored to what they were after step {step}" for step in (6, 17, 6)
    ]


def test_values_come_back_from_their_first_cut_though_a_resume_lies_between_two(tmp_path):
    run = Run(**GROWING).to(9)
    run.pruner.restore(3)
    run.masks[9] = [m.clone() for m in run.pruner.masks.tensors]
    run.save(tmp_path / "run.pt")
    resumed = Run(**GROWING).load(tmp_path / "run.pt")
    resumed.masks, resumed.before = dict(run.masks), dict(run.before)
    resumed.to(16)
    values = resumed.expected(9)
    resumed.pruner.restore(9)
    check(resumed, run.masks[9], values)


def test_without_remembered_values_connections_return_at_zero():
    run = Run(journal=True).to(18)
    alive = [m.clone() for m in run.pruner.masks.tensors]
    weights = [t.parameter.detach().clone() for t in run.pruner.targets]
    run.pruner.restore(6)
    check(run, run.masks[6], [torch.where(a, w, 0.0) for a, w in zip(alive, weights, strict=True)])


@pytest.mark.parametrize("strategy", ["surgery", "movement"])
def test_latent_weights_return_with_what_they_have_become(strategy, tmp_path):
    settings = {"strategy": strategy, "journal": {"remember_values": True}}
    run = Run(**settings).to(10)
    run.save(tmp_path / "run.pt")
    resumed = Run(**settings)
    resumed.masks = run.masks
    resumed.load(tmp_path / "run.pt").to(18)
    whole = [t.parameter.detach() + t.state["latent"] for t in resumed.pruner.targets]
    resumed.pruner.restore(6)
    masks = resumed.masks[6]
    check(resumed, masks, [torch.where(m, w, 0.0) for m, w in zip(masks, whole, strict=True)])
    for target, m, w in zip(resumed.pruner.targets, masks, whole, strict=True):
        assert torch.equal(target.state["latent"], torch.where(m, 0.0, w))


def test_the_schedule_goes_on_after_a_restore_unless_it_is_paused():
    run = Run().to(12)
    run.pruner.restore(2)
    assert run.pruner.sparsity == 0.0
    run.pruner.paused = True
    run.to(16)
    assert run.pruner.sparsity == 0.0
    run.pruner.paused = False
    # Four steps stood still, so its clock shows 20 at step 24.
    run.to(24)
    assert run.pruner.schedule_clock.step == 20
    assert run.pruner.sparsity == pytest.approx(0.8, abs=1 / 834)


def test_a_journal_that_does_not_reach_back_refuses_and_changes_nothing():
    run = Run(journal={"remember_values": True, "cap": 1.0}, **GROWING).to(20)
    reach = run.pruner.journal.earliest_step
    assert 2 < reach < 20
    masks = [m.clone() for m in run.pruner.masks.tensors]
    weights = [t.parameter.detach().clone() for t in run.pruner.targets]
    with pytest.raises(ValueError, match=rf"does not reach back to step 2: cap=1.0 .* give step={reach} or later"):
        run.pruner.restore(2)
    check(run, masks, weights)
    values = run.expected(reach)
    run.pruner.restore(reach)
    check(run, run.masks[reach], values)


def test_without_a_journal_it_refuses():
    run = Run(journal=False).to(4)
    with pytest.raises(ValueError, match="journal=False: nothing was recorded to restore; give journal=True"):
        run.pruner.restore(1)


def test_a_restore_leaves_living_values_alone_though_inputs_wait_for_a_refit():
    torch.manual_seed(0)
    net = nn.Linear(6, 4, bias=False)
    pruner = Pruner(
        net, sparsity=0.5, strategy="magnitude", schedule={"name": "one_shot", "begin": 1}, reconstruct=True
    )
    pruner.calibrate([torch.randn(32, 6)])
    pruner.tick()
    pruner.calibrate([torch.randn(32, 6)])
    pruner.clock.step = 2
    pruner.update(0.75)
    pruner.clock.step = 3
    pruner.restore(1)
    values = net.weight.detach().clone()
    pruner.calibrate([torch.randn(32, 6)])
    pruner.restore(2)
    living = pruner.masks.tensors[0]
    assert pruner.sparsity == 0.75
    assert torch.equal(net.weight.detach()[living], values[living])


def test_a_damaged_journal_in_a_checkpoint_is_refused_before_any_mask_changes():
    saved = Run().to(12).pruner.state_dict()
    record = {**saved["journal"]}
    key = next(k for k, v in record.items() if isinstance(v, torch.Tensor) and v.dtype == torch.uint8 and v.numel())
    record[key] = record[key][:-1]
    fresh = Run().pruner
    with pytest.raises(ValueError, match="journal"):
        fresh.load_state_dict(sealed({**saved, "journal": record}))
    assert all(mask.all() for mask in fresh.masks.tensors)
    assert fresh.clock.step == 0
