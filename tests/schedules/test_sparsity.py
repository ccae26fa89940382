"""The schedule of the sparsity: schedules of one's own with and without a ``final``."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from lightning_dynprune.schedules import Schedule, sparsity_schedule


@dataclass(frozen=True)
class Half(Schedule):
    """Ends at a half where nothing else is asked for."""

    final: float = 0.5

    def curve(self, progress: float) -> float:
        return self.final * progress


@dataclass(frozen=True)
class Fixed(Schedule):
    """Always ends at a half."""

    final: float = field(default=0.5, init=False)

    def curve(self, progress: float) -> float:
        return self.final


class Handwritten(Schedule):
    """Has a constructor of its own, without final."""

    def __init__(self, top: float = 0.5) -> None:
        object.__setattr__(self, "final", top)

    def curve(self, progress: float) -> float:
        return self.final


class Endless(Schedule):
    """Never says where it ends."""

    def __init__(self) -> None:
        object.__setattr__(self, "final", None)

    def curve(self, progress: float) -> float:
        return 0.0


@pytest.mark.parametrize("kind", [Half, Fixed, Handwritten])
def test_a_schedule_whose_class_says_where_it_ends_needs_no_other_setting(kind):
    assert sparsity_schedule({"name": kind}, None).final == 0.5
    assert sparsity_schedule({"name": kind, "final": None} if kind is Half else {"name": kind}, 0.5).final == 0.5


def test_a_default_final_gives_way_to_the_sparsity():
    assert sparsity_schedule({"name": Half}, 0.8).final == 0.8


@pytest.mark.parametrize("kind", [Fixed, Handwritten])
def test_a_sparsity_that_the_class_does_not_take_is_refused(kind):
    with pytest.raises(ValueError, match=r"sparsity=0\.8 contradicts the schedule's final=0\.5"):
        sparsity_schedule({"name": kind}, 0.8)


@pytest.mark.parametrize("given", [{"name": Endless}, Endless()], ids=["mapping", "instance"])
def test_a_schedule_without_any_final_is_refused_in_words(given):
    with pytest.raises(ValueError, match="schedule Endless has no final, the sparsity to end at; set it in the class"):
        sparsity_schedule(given, 0.8)


def test_settings_of_a_constructor_of_its_own_are_accepted():
    assert sparsity_schedule({"name": Handwritten, "top": 0.7}, None).final == 0.7
    with pytest.raises(ValueError, match="has no setting 'final'; it has: top"):
        sparsity_schedule({"name": Handwritten, "final": 0.7}, 0.7)
