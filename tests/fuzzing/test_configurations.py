"""Whatever the settings are: they are refused in words before the first batch, or the pruning keeps its promises.

``DYNPRUNE_FUZZ=5000`` draws so many examples a test, at random; otherwise a few, always the same.
"""

from __future__ import annotations

import copy
import io
import os
import warnings
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_dynprune import DynamicPruning, Pruner
from tests.fuzzing.settings import good, spoilt

EXAMPLES = int(os.environ.get("DYNPRUNE_FUZZ", "0"))
TOTAL = 8
WORDS = ("sparsity", "strategy", "threshold", "schedule", "pattern", "targets", "exclude", "min_kept", "reconstruct")


def examples(few: int) -> settings:
    return settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attention(x, x, x)[0]).flatten(1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def convolutions() -> nn.Module:
    layers = [nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3))


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mlp": (mlp, (4, 8)),
    "convolutions": (convolutions, (4, 2, 4, 4)),
    "attention": (Attention, (4, 3, 8)),
}


class Run:
    """A model, its optimizer and its pruner."""

    def __init__(self, kind: str, given: dict[str, Any]) -> None:
        build, self.shape = MODELS[kind]
        torch.manual_seed(0)
        self.model = build()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        times = {"total_steps": TOTAL, "steps_per_epoch": 4, "epochs": 2}
        # What the callback can refuse where it is written it must refuse in the same way.
        DynamicPruning(**copy.copy(given))
        example = torch.zeros(1, *self.shape[1:])
        self.pruner = Pruner(self.model, self.optimizer, **given, example_input=example, **times)

    def train(self, first: int, last: int) -> None:
        for step in range(first, last):
            ends = step % 4 == 3
            if self.pruner.attends and self.pruner.updates_next(ends):
                self.pruner.attend()
            self.optimizer.zero_grad()
            torch.manual_seed(step)
            self.model(torch.randn(self.shape)).square().mean().backward()
            self.optimizer.step()
            self.pruner.tick()
            if ends:
                self.pruner.end_epoch()
            self.pruner.ignore()
            self.check_zeros()

    def check_zeros(self) -> None:
        for target, mask in zip(self.pruner.targets, self.pruner.masks.tensors, strict=True):
            assert not target.parameter.detach().view(torch.int32)[~mask].any(), target.name
            assert int(mask.sum()) >= min(target.min_kept, target.numel), target.name

    def check_sparsity(self) -> None:
        pruner = self.pruner
        off = (pruner.sparsity - pruner.scheduled_sparsity) * pruner.masks.total
        unit = pruner.unit * getattr(pruner.pattern, "round_to", 1)
        assert off <= unit, "more is pruned than the schedule asked for"
        if pruner.threshold.exact and pruner.updates and not pruner._at_floor:
            assert off >= -unit, "less is pruned than the schedule asked for"


def written_and_read(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b) or (a != a and b != b)


def check(kind: str, given: dict[str, Any]) -> str | None:
    """Train with settings and check the promises; return the message where they are refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run = Run(kind, given)
        except (TypeError, ValueError) as error:
            return str(error)
        run.train(0, TOTAL // 2)
        again = Run(kind, given)
        again.pruner.load_state_dict(written_and_read(run.pruner.state_dict()))
        assert equal(again.pruner.state_dict(), run.pruner.state_dict())
        again.model.load_state_dict(run.model.state_dict())
        again.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
        for each in (run, again):
            each.train(TOTAL // 2, TOTAL)
            each.check_sparsity()
        assert equal(again.model.state_dict(), run.model.state_dict())
        assert equal(again.pruner.state_dict(), run.pruner.state_dict())
    return None


@examples(60)
@given(st.sampled_from(sorted(MODELS)), good)
def test_settings_that_look_right_are_refused_in_words_or_keep_the_promises(kind, given):
    message = check(kind, given)
    assert message is None or any(word in message for word in WORDS), message


@examples(250)
@given(spoilt())
def test_a_setting_of_any_value_is_refused_by_its_name_or_keeps_the_promises(drawn):
    given, name = drawn
    message = check("mlp", given)
    assert message is None or name in message, f"{name} is not named: {message}"
