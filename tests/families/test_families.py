"""Public families of networks: slimmed to equal outputs, or refused in words that help; the documented table agrees."""

from __future__ import annotations

import pytest
from torch import nn

from tests.families.table import FAMILIES, outcomes, row, rows_of_page
from tests.families.trial import Outcome

SETTINGS = ("exclude", "heads", "targets", "pattern", "example_input")

# The families live in another package, which warns of its own old names.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def assert_helpful(outcome: Outcome, network: nn.Module) -> None:
    """Assert that a refusal names a module of the network and a setting that helps."""
    names = [name for name, _ in network.named_modules() if name]
    assert any(f"'{name}" in outcome.refusal or f".{name}" in outcome.refusal for name in names), outcome.refusal
    assert any(setting in outcome.refusal for setting in SETTINGS), outcome.refusal


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_is_slimmed_to_equal_outputs_or_refused_as_the_documentation_says(family, tmp_path):
    found = outcomes(family, tmp_path)
    for outcome in (outcome for pair in found.values() for outcome in pair if outcome.refusal):
        assert_helpful(outcome, family.build())
    documented = {line.split("|")[1].strip(): line for line in rows_of_page()}
    assert documented.get(family.name) == row(family, found), "python -m tests.families.table writes the table anew"


def test_the_documentation_has_a_row_for_every_family_and_no_other():
    assert [line.split("|")[1].strip() for line in rows_of_page()] == [family.name for family in FAMILIES]
