"""Whatever the settings are: they are refused in words before the first batch, or the pruning keeps its promises.

``DYNPRUNE_FUZZ=5000`` draws so many examples a test, at random; otherwise a few, always the same.
"""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from lightning_dynprune import DynamicPruning
from lightning_dynprune.coupling import CouplingError
from lightning_dynprune.engine import Pruner
from tests.fuzzing.settings import examples, good, spoilt
from tests.training import trainer

TOTAL = 8
WORDS = (
    "sparsity",
    "strategy",
    "threshold",
    "schedule",
    "pattern",
    "targets",
    "exclude",
    "min_kept",
    "reconstruct",
    "heads",
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
            if self.pruner.needs_layer_inputs and self.pruner.updates_next(ends):
                self.pruner.start_capture()
            self.optimizer.zero_grad()
            torch.manual_seed(step)
            self.model(torch.randn(self.shape)).square().mean().backward()
            self.optimizer.step()
            self.pruner.tick()
            if ends:
                self.pruner.end_epoch()
            self.pruner.stop_capture()
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
        if pruner.threshold.exact and pruner.updates and not pruner._run.min_kept_warnings.names:
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


@examples(100)
@given(st.sampled_from(sorted(MODELS)), good)
def test_settings_that_look_right_are_refused_in_words_or_keep_the_promises(kind, given):
    message = check(kind, given)
    assert message is None or any(word in message for word in WORDS), message


@examples(500)
@given(spoilt())
def test_a_setting_of_any_value_is_refused_by_its_name_or_keeps_the_promises(drawn):
    given, name = drawn
    message = check("mlp", given)
    # Without heads nobody can say which setting would give some.
    assert message is None or name in message or "pattern head: no" in message, f"{name} is not named: {message}"


class Module(L.LightningModule):
    """Trains a network on noise, and counts the batches."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        build, shape = MODELS[kind]
        torch.manual_seed(0)
        self.network, self.batches = build(), 0
        self.data = torch.randn(16, *shape[1:])

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        return self.network(batch).square().mean()

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(self.data, batch_size=4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


@examples(25)
@given(st.sampled_from(sorted(MODELS)), good)
def test_the_same_settings_in_a_trainer_are_refused_before_the_first_batch_or_keep_the_promises(kind, given):
    # Globs of a module are behind the name that the LightningModule has for it.
    given = {key: value for key, value in given.items() if key != "exclude" and not isinstance(value, list)}
    module = Module(kind)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        refusal, pruning = None, None
        try:
            pruning = DynamicPruning(**given)
            trainer([pruning], Path(folder), max_epochs=2).fit(module)
        except (TypeError, ValueError) as error:
            refusal = error
    if refusal is not None:
        # Which units reach over several targets shows in the first batch.
        assert not module.batches or isinstance(refusal, CouplingError)
        return
    assert pruning is not None
    assert module.batches == TOTAL
    for name, mask in pruning.masks.items():
        assert not module.get_parameter(name).detach().view(torch.int32)[~mask].any(), name
    pruner = pruning.pruner
    assert pruner is not None
    assert (pruner.sparsity - pruner.scheduled_sparsity) * pruner.masks.total <= pruner.unit * 9
