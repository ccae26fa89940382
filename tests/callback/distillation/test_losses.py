"""The distances between outputs of student and teacher, on numbers worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lightning_dynprune.callback.distillation.losses import divergence, relative_difference, tensor_of


def test_the_divergence_is_that_of_the_probabilities_at_the_temperature_times_its_square():
    # At temperature 2 the scores (ln 9, 0) give the probabilities 3/4 and 1/4, equal scores 1/2 and 1/2.
    teacher = torch.tensor([[math.log(9.0), 0.0], [0.0, 0.0]])
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)) / 2
    assert float(divergence(torch.zeros(2, 2), teacher, 2.0)) == pytest.approx(expected, rel=1e-6)


def test_classes_are_the_last_dimension_and_the_second_of_images():
    s, t = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, 5)
    rows = F.kl_div(F.log_softmax(s, -1), F.softmax(t, -1), reduction="none").sum(-1).mean()
    assert torch.allclose(divergence(s, t, 1.0), rows)
    images = s.unsqueeze(-1).transpose(1, 2)  # (2, 5, 3, 1)
    assert torch.allclose(divergence(images, torch.zeros_like(images), 1.0), rows)


def test_half_precision_is_compared_in_float32():
    s = torch.randn(4, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert divergence(s, s.flip(0), 2.0).dtype == torch.float32
    assert relative_difference(s, s.flip(0)).dtype == torch.float32


def test_a_difference_is_relative_to_the_teacher():
    assert float(relative_difference(torch.tensor([3.0, 0.0]), torch.tensor([4.0, 2.0]))) == 0.25
    assert float(relative_difference(torch.tensor([30.0, 0.0]), torch.tensor([40.0, 20.0]))) == 0.25
    assert float(relative_difference(torch.zeros(2), torch.zeros(2))) == 0.0


def test_scores_are_found_in_mappings_objects_and_tuples():
    x = torch.ones(2)
    for output in (x, {"logits": x}, SimpleNamespace(logits=x), (x, 1)):
        assert tensor_of(output, "net") is x
    for output in (None, {"loss": x}, (), torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"distill: net returns a .*; accepted are a tensor of floating point"):
            tensor_of(output, "net")
