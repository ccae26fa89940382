"""Magnitudes are counted, densities shared out over layers, and thresholds set for them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dynprune.adaptive.activations import output_errors, share_out, thresholds_at
from lightning_dynprune.adaptive.activations.input_statistics import (
    RowSample,
    magnitude_bins,
    magnitude_quantiles,
    nonzero_shares,
)


def histogram(values: torch.Tensor) -> torch.Tensor:
    return torch.bincount(magnitude_bins(values), minlength=2**15)[None]


@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.75])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.2, 0.25])
def test_a_threshold_leaves_the_share_of_inputs_live_that_was_asked_for(zeros, density):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50_000, generator=generator) * (torch.rand(50_000, generator=generator) >= zeros)
    counts = histogram(values)
    natural = nonzero_shares(counts)
    assert float(natural) == pytest.approx(1 - zeros, abs=0.01)
    threshold = thresholds_at(magnitude_quantiles(counts), natural, torch.tensor([density]))
    assert float((values.abs() > threshold).double().mean()) == pytest.approx(density, rel=0.02)


def test_from_the_natural_density_on_only_zeros_are_skipped():
    counts = histogram(torch.cat([torch.zeros(501), torch.linspace(0.5, 1, 499)]))
    natural = nonzero_shares(counts)
    assert natural.tolist() == [0.499]
    for density in (0.499, 0.5, 1.0):
        assert thresholds_at(magnitude_quantiles(counts), natural, torch.tensor([density])).tolist() == [0.0]
    assert 0.5 < float(thresholds_at(magnitude_quantiles(counts), natural, torch.tensor([0.4]))) < 0.65


def test_output_errors_are_those_of_a_plain_reference():
    generator = torch.Generator().manual_seed(0)
    rows, table = torch.randn(20, 6, generator=generator), torch.randn(6, 5, generator=generator)
    expected = []
    for threshold in (0.0, 0.7, 5.0):
        lost = whole = 0.0
        for row, column in itertools.product(rows.tolist(), table.t().tolist()):
            lost += sum(x * w for x, w in zip(row, column, strict=True) if abs(x) <= threshold) ** 2
            whole += sum(x * w for x, w in zip(row, column, strict=True)) ** 2
        expected.append(lost / whole)
    assert output_errors(rows, table, (0.0, 0.7, 5.0)).tolist() == pytest.approx(expected)
    assert output_errors(torch.zeros(3, 6), table, (0.0, 1.0)).tolist() == [0.0, 0.0]


@settings(max_examples=50, deadline=None)
@given(layers=st.integers(1, 4), share=st.floats(0.05, 1.0), seed=st.integers(0, 999))
def test_the_target_is_met_and_no_other_densities_of_convex_errors_have_a_smaller_sum(layers, share, seed):
    generator = torch.Generator().manual_seed(seed)
    skipped = 1 - torch.arange(1, 33, dtype=torch.float64) / 32
    steepness = 0.1 + torch.rand(layers, generator=generator, dtype=torch.float64)
    natural = 0.2 + 0.8 * torch.rand(layers, generator=generator, dtype=torch.float64)
    macs = (1 + 9 * torch.rand(layers, generator=generator)).tolist()
    errors = steepness[:, None] * skipped**2
    target = share * sum(n * m for n, m in zip(natural.tolist(), macs, strict=True))
    found = share_out(errors, natural, macs, target)
    assert float((found * torch.tensor(macs, dtype=torch.float64)).sum()) == pytest.approx(target)
    assert ((found > 0) & (found <= natural + 1e-12)).all()
    # The optimum by Lagrange's condition: skipped_l = rate * work_l / steepness_l, at most 31/32.
    work = natural * torch.tensor(macs, dtype=torch.float64)
    low, high = 0.0, 1e6
    for _ in range(100):
        rate = (low + high) / 2
        optimum = (rate * work / steepness).clamp(max=31 / 32)
        low, high = (rate, high) if float((work * (1 - optimum)).sum()) > target else (low, rate)
    best = float((steepness * optimum.square()).sum())
    own = float((steepness * (1 - found / natural).square()).sum())
    # A step of 1/32 either way.
    assert own <= best + float((steepness * (2 / 32) ** 2).sum()) + 1e-9


def test_a_layer_of_zeros_alone_costs_nothing_and_is_left_alone():
    errors = torch.zeros(2, 32, dtype=torch.float64)
    natural = torch.tensor([0.0, 0.5], dtype=torch.float64)
    assert share_out(errors, natural, [1.0, 1.0], 0.25).tolist() == [0.0, 0.25]


@settings(max_examples=50, deadline=None)
@given(most=st.integers(1, 9), sizes=st.lists(st.integers(0, 40), max_size=8))
def test_a_sample_holds_evenly_spaced_rows(most, sizes):
    sample, start = RowSample(most), 0
    for size in sizes:
        sample.add(torch.arange(start, start + size, dtype=torch.float32)[:, None])
        start += size
    kept = sample.rows.flatten().tolist()
    assert kept == [float(row) for row in range(0, start, sample.stride)]
    assert len(kept) >= min(most, start)
    assert len(kept) < 2 * most


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_magnitudes_that_are_not_finite_have_bins_of_their_own(value):
    assert int(magnitude_bins(torch.tensor(value))) >= 255 * 2**7
    assert int(magnitude_bins(torch.tensor(torch.finfo(torch.float32).max))) < 255 * 2**7
