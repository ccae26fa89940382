"""Checks of settings: what is accepted, what is returned, what the message says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lightning_dynprune.base import (
    check_count,
    check_flag,
    check_real,
    check_share,
    check_whole,
    convert_settings,
    is_number,
    is_whole,
    to_python,
)

WHOLE = [3, np.int8(3), np.uint16(3), np.int32(3), np.int64(3), np.uint64(3)]
REAL = [0.5, np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5)]
NO_NUMBER = [None, "3", True, np.bool_(True), 1 + 0j, np.complex64(1), np.array(3), np.array([3]), [3]]


@pytest.mark.parametrize("value", WHOLE, ids=lambda value: type(value).__name__)
def test_an_integer_of_any_kind_comes_back_as_a_python_int(value):
    for found in (to_python(value), check_whole("seed", value), check_count("every", value)):
        assert found == 3
        assert type(found) is int
    assert is_whole(value)
    assert is_number(value)
    assert type(check_real("power", value)) is float


@pytest.mark.parametrize("value", REAL, ids=lambda value: type(value).__name__)
def test_a_real_number_of_any_kind_comes_back_as_a_python_float(value):
    for found in (to_python(value), check_share("sparsity", value), check_real("rate", value)):
        assert found == 0.5
        assert type(found) is float
    assert is_number(value)
    assert not is_whole(value)


@pytest.mark.parametrize("value", [False, np.bool_(False)], ids=lambda value: type(value).__name__)
def test_a_bool_of_any_kind_comes_back_as_a_python_bool_and_is_no_number(value):
    assert to_python(value) is False
    assert check_flag("pad", value) is False
    assert not is_number(value)
    assert not is_whole(value)


@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
def test_what_is_no_number_is_refused(value):
    for check in (check_share, check_count, check_whole, check_real):
        with pytest.raises(TypeError, match=r"sparsity=.* is not a .*number; give"):
            check("sparsity", value)
    assert not is_number(value)
    assert not is_whole(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan"), 10**400], ids=str)
def test_what_is_not_finite_is_refused(value):
    assert not is_number(value)
    with pytest.raises(TypeError, match=r"rate=.* is not a finite number"):
        check_real("rate", value)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (check_share, np.float64(1.5), r"s=1.5 is not accepted; give a number in \[0, 1\)"),
        (check_share, -0.1, r"s=-0.1 is not accepted; give a number in \[0, 1\)"),
        (check_count, np.int64(0), "s=0 is not accepted; give a whole number of at least 1"),
        (lambda name, value: check_real(name, value, 1, 2), np.int64(3), r"s=3 is not accepted; .* in \[1, 2\]"),
    ],
)
def test_what_is_out_of_range_is_refused_by_its_plain_value(check, value, message):
    with pytest.raises(ValueError, match=message):
        check("s", value)


def test_a_flag_is_a_bool():
    for value in (0, 1, "true", None, np.int64(1)):
        with pytest.raises(TypeError, match="is not accepted; give true or false"):
            check_flag("pad", value)


@dataclass
class Loose:
    number: Any
    shares: Any = field(default_factory=lambda: {"a": np.float32(0.5), "b": "c"})


@dataclass(frozen=True)
class Frozen:
    number: Any
    shares: Any = field(default_factory=lambda: {"a": np.float32(0.5), "b": "c"})


@pytest.mark.parametrize("kind", [Loose, Frozen])
def test_the_fields_of_a_dataclass_are_converted_in_place(kind):
    part = kind(np.int64(7))
    convert_settings(part)
    assert part == kind(7, {"a": 0.5, "b": "c"})
    assert type(part.number) is int
    assert type(part.shares["a"]) is float


def test_a_mapping_without_numpy_scalars_stays_the_same_object():
    given = {"a": 1.0}
    part = Loose(None, given)
    convert_settings(part)
    assert part.shares is given


def test_what_is_no_dataclass_is_left_alone():
    part = type("Plain", (), {"number": np.int64(7)})()
    convert_settings(part)
    assert type(part.number) is np.int64
