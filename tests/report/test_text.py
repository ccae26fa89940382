"""Figures as a reader wants them."""

from __future__ import annotations

import pytest

from lightning_dynprune.report.text import duration, file_size, percent


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0.9, 2, "90.00 %"), (1, 0, "100 %"), (0.98765, 1, "98.8 %"), (0, 2, "0.00 %"), (None, 2, "-")],
)
def test_a_share_in_percent(share, digits, text):
    assert percent(share, digits) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (1_000_000, "1.0 MB"),
        (1_066_440, "1.1 MB"),
        (2_500_000_000, "2.5 GB"),
        (None, "-"),
    ],
)
def test_bytes_in_the_largest_unit_that_fits(count, text):
    assert file_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (99.9, "99.9 s"), (119.6, "2 min 00 s"), (125.4, "2 min 05 s"), (3_661, "61 min 01 s")],
)
def test_seconds_as_minutes_where_that_reads_better(seconds, text):
    assert duration(seconds) == text
