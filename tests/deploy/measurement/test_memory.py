"""Peak memory against sums written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_dynprune.deploy.kernels import accelerate
from lightning_dynprune.deploy.measurement.memory import peak_memory
from tests.deploy.fake_clock import modules_take


class Widening(nn.Module):
    """Holds one tensor of ``wide`` floats and then two of ten, in this order."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.wide = wide

    def forward(self, x: Tensor) -> Tensor:
        torch.zeros(self.wide)
        return torch.zeros(10) + torch.zeros(10)


def test_the_peak_is_what_is_held_at_once_and_not_the_sum() -> None:
    # 1,000 floats that go before the others come; and three tensors of 10 floats where that is more.
    assert peak_memory(Widening(1000), torch.zeros(1)) == 4000
    assert peak_memory(Widening(1), torch.zeros(1)) == 3 * 40


def test_weights_buffers_and_outputs_count_and_a_tied_weight_counts_once() -> None:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    model[1].weight = model[0].weight
    model.register_buffer("table", torch.zeros(100, dtype=torch.int8))
    # weight, two biases, the table; and the outputs of both layers, of which the second is made from the first
    assert peak_memory(model, torch.zeros(5, 20)) == 4 * (400 + 20 + 20) + 100 + 2 * 4 * 5 * 20


def test_two_measurements_agree_to_the_byte() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    example = torch.randn(2, 3, 8, 8)
    assert peak_memory(model, example) == peak_memory(copy.deepcopy(model), example)


def test_a_larger_batch_takes_more_and_a_narrower_model_less() -> None:
    wide, narrow = nn.Linear(64, 64), nn.Linear(64, 32)
    assert peak_memory(wide, torch.zeros(8, 64)) - peak_memory(wide, torch.zeros(1, 64)) == 7 * 64 * 4
    assert peak_memory(narrow, torch.zeros(8, 64)) < peak_memory(wide, torch.zeros(8, 64))


def test_kernels_count_what_they_store_instead_of_the_weight() -> None:
    model = nn.Sequential(nn.Linear(256, 512, bias=False))
    model[0].weight.data[:, 8:] = 0
    with modules_take():
        found = accelerate(model, torch.randn(1, 256), seconds=0.2)
    assert found.layers[0].kernel != "dense"
    assert peak_memory(found.model, torch.randn(1, 256)) < 0.2 * peak_memory(model, torch.randn(1, 256))


def test_the_profilers_remarks_are_kept_off_and_the_models_own_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    class Talking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            print("heard")
            return x + 1

    peak_memory(Talking(), torch.zeros(1))
    out, err = capfd.readouterr()
    assert out == "heard\n" * 2
    assert err == ""


def test_a_failing_forward_leaves_no_profiler_running() -> None:
    class Failing(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 1:
                raise ValueError("the second call")
            return x

    with pytest.raises(ValueError, match="the second call"):
        peak_memory(Failing(), torch.zeros(1))
    assert peak_memory(nn.Linear(2, 2, bias=False), torch.zeros(1, 2)) == 16 + 8
