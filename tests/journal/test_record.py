"""The journal: earlier masks, values, the cap."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dynprune.journal import Journal, Update
from tests.journal.runs import mask_set, random_run, update_to


def bools(text: str) -> torch.Tensor:
    return torch.tensor([letter == "1" for letter in text])


def four_updates(**settings) -> Journal:
    """Drop the first, then bring it back and drop the second, then drop both, twice at step 30."""
    masks = mask_set(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    journal = Journal(masks, **settings)
    for step, mask in [(10, "0111"), (20, "1011"), (30, "1001"), (30, "0001")]:
        with torch.no_grad():
            masks.targets[0].parameter.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]) + step)
        update_to(journal, step, [bools(mask)])
    return journal


@pytest.mark.parametrize(
    ("step", "mask"), [(0, "1111"), (9, "1111"), (10, "0111"), (19, "0111"), (20, "1011"), (30, "0001"), (99, "0001")]
)
def test_a_mask_is_that_after_the_last_update_up_to_the_step(step, mask):
    assert torch.equal(four_updates().mask_at(step)["a"], bools(mask))


def test_masks_in_use_stay_as_they_are():
    journal = four_updates(remember_values=True)
    before = journal.masks.tensors[0].clone()
    journal.mask_at(0)["a"].fill_(False)
    journal.values_at(0)
    assert torch.equal(journal.masks.tensors[0], before)
    assert torch.equal(journal.mask_at(30)["a"], before)


@settings(deadline=None, max_examples=40)
@given(
    numels=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    steps=st.lists(st.integers(1, 50), max_size=8).map(sorted),
    flips=st.sampled_from([0.0, 0.01, 0.1, 0.6]),
    seed=st.integers(0, 1000),
)
def test_every_earlier_mask_comes_back_exactly(numels, steps, flips, seed):
    journal = Journal(mask_set(*(torch.ones(n) for n in numels)), cap=None)
    history = {0: [torch.ones(n, dtype=torch.bool) for n in numels], **random_run(journal, steps, flips, seed)}
    for step in range(52):
        expected = history[max(s for s in history if s <= step)]
        assert all(map(torch.equal, journal.mask_at(step).values(), expected))


def test_masks_come_back_in_shape_from_any_layout():
    weight = torch.ones(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    journal = Journal(mask_set(weight, torch.ones(5, 7)), cap=None)
    history = random_run(journal, [1, 2, 3], 0.3)
    for step, masks in history.items():
        assert all(map(torch.equal, journal.mask_at(step).values(), masks))


def test_a_value_is_that_of_the_first_cut_after_the_step():
    journal = four_updates(remember_values=True)
    # The first was cut at 10 and again at 30, the second at 20, the third at 30.
    for step, index, values in [(9, [0, 1, 2], [11.0, 22.0, 33.0]), (10, [1, 2], [22.0, 33.0])]:
        found = journal.values_at(step)["a"]
        assert (found[0].tolist(), found[1].tolist()) == (index, values)
        assert found[0].dtype == torch.int64
    index, values = journal.values_at(20)["a"]
    assert (index.tolist(), values.tolist()) == ([0, 2], [31.0, 33.0])
    assert journal.values_at(30)["a"][0].numel() == 0


def test_values_agree_with_a_run_told_weight_by_weight():
    journal = Journal(mask_set(torch.ones(300), torch.ones(7)), remember_values=True, cap=None)
    masks, cut = [torch.ones(300, dtype=torch.bool), torch.ones(7, dtype=torch.bool)], []
    for step in range(1, 9):
        generator = torch.Generator().manual_seed(step)
        after = [mask ^ (torch.rand(mask.shape, generator=generator) < 0.2) for mask in masks]
        for position, target in enumerate(journal.masks.targets):
            with torch.no_grad():
                target.parameter.copy_(torch.randn(target.numel, generator=generator))
            for index in (masks[position] & ~after[position]).nonzero().view(-1).tolist():
                cut.append((step, position, index, target.parameter[index].item()))
        update_to(journal, step, after)
        masks = after
    for step in range(9):
        then = journal.mask_at(step)
        for position, (name, (index, values)) in enumerate(journal.values_at(step).items()):
            expected = {}
            for when, where, entry, value in cut:
                if when > step and where == position and then[name][entry] and not masks[position][entry]:
                    expected.setdefault(entry, value)
            assert dict(zip(index.tolist(), values.tolist(), strict=True)) == expected
            assert index.tolist() == sorted(expected)


def test_values_that_were_not_remembered_are_refused_in_words():
    with pytest.raises(ValueError, match="remember_values=False; set remember_values=True"):
        four_updates().values_at(10)


def test_values_are_refused_where_the_masks_are_of_another_run():
    journal = four_updates(remember_values=True)
    journal.masks.write(0, [bools("1110")])
    with pytest.raises(ValueError, match="journal of a: the masks are not those that were recorded"):
        journal.values_at(10)


def test_the_cap_lets_go_of_the_oldest_positions_and_keeps_their_figures():
    journal = Journal(mask_set(torch.ones(4096)), remember_values=True, cap=3.1)
    history = random_run(journal, [1, 2, 3, 4, 5], 0.5)
    assert journal.bits == 3.0
    assert journal.earliest_step == 2
    assert [update.step for update in journal.updates] == [1, 2, 3, 4, 5]
    for step in (2, 3, 4, 5):
        assert torch.equal(journal.mask_at(step)["a"], history[step][0])
        journal.values_at(step)
    message = r"does not reach back to step 1: cap=3.1 .* give step=2 or later, or raise cap"
    with pytest.raises(ValueError, match=message):
        journal.mask_at(1)
    with pytest.raises(ValueError, match=message):
        journal.values_at(1)


def test_no_cap_keeps_all_and_a_cap_of_nothing_none():
    for cap, reach in [(None, 0), (0, 9)]:
        journal = Journal(mask_set(torch.ones(64)), cap=cap)
        history = random_run(journal, list(range(1, 10)), 0.5)
        assert journal.earliest_step == reach
        assert torch.equal(journal.mask_at(9)["a"], history[9][0])


def test_the_record_stays_under_half_a_bit_a_connection_at_five_percent_churn():
    journal = Journal(mask_set(torch.ones(500, 800), torch.ones(20, 25)))
    random_run(journal, [1, 2, 3, 4], 0.05)
    assert 0.28 < journal.bits / 4 < 0.5
    assert journal.bits / 4 == pytest.approx(0.301, abs=0.005)


def test_the_returned_share_counts_what_lives_now_and_was_once_cut():
    journal = Journal(mask_set(torch.ones(4)))
    assert journal.returned_share == 0.0
    for step, mask in enumerate(["0111", "1011", "1101", "1101"]):
        update_to(journal, step, [bools(mask)])
    # Kept are the first, second and fourth; the first two had been cut.
    assert journal.returned_share == 2 / 3


def test_a_capped_record_tells_the_returned_share_since_its_reach():
    journal = Journal(mask_set(torch.ones(8)), cap=1)
    update_to(journal, 1, [bools("00001111")])
    update_to(journal, 2, [bools("11110000")])
    update_to(journal, 3, [bools("11000011")])
    # Only the last update is left: two of the four kept came back by it.
    assert journal.earliest_step == 2
    assert journal.returned_share == 0.5
    journal.cap = 0.0
    update_to(journal, 4, [bools("11000001")])
    assert journal.returned_share is None


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"cap": -1}, ValueError, r"cap=-1 is not accepted; give a number in \[0, inf\]"),
        ({"cap": "8"}, TypeError, "cap='8' is not a finite number"),
        ({"remember_values": 1}, TypeError, "remember_values=1 is not accepted; give true or false"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Journal(mask_set(torch.ones(2)), **settings)


def test_a_step_that_is_no_whole_number_is_refused():
    with pytest.raises(TypeError, match=r"step=1.5 is not a whole number"):
        four_updates().mask_at(1.5)


def test_an_update_that_does_not_fit_is_refused():
    journal = four_updates()
    short = journal.delta(bools("111"), bools("101"), torch.ones(3))
    fitting = journal.delta(bools("1111"), bools("1011"), torch.ones(4))
    late = Update(40, 0.5, 0.5, {"a": 1}, {"a": 0}, 0.25)
    with pytest.raises(ValueError, match=r"deltas of \[3\] connections do not fit targets of \[4\]"):
        journal.add(late, [short])
    early = Update(29, 0.5, 0.5, {"a": 1}, {"a": 0}, 0.25)
    with pytest.raises(ValueError, match="an update at step 29 cannot follow one at step 30"):
        journal.add(early, [fitting])
    assert len(journal.updates) == 4


def test_the_longest_record_lets_go_of_whole_updates_and_goes_on_counting_them():
    journal = Journal(mask_set(torch.ones(512)), cap=None, longest=3)
    unbounded = Journal(mask_set(torch.ones(512)), cap=None, longest=None)
    history = random_run(journal, list(range(1, 11)), 0.2)
    random_run(unbounded, list(range(1, 11)), 0.2)
    assert [update.step for update in journal.updates] == [8, 9, 10]
    assert journal.totals == unbounded.totals
    assert journal.totals["updates"] == len(unbounded.updates) == 10
    assert journal.bits == pytest.approx(unbounded.bits * 0.3, rel=0.1)
    assert journal.earliest_step == 7
    for step in (7, 8, 9, 10):
        assert torch.equal(journal.mask_at(step)["a"], history[step][0])
    with pytest.raises(
        ValueError, match=r"step 6: .*longest=3 updates.* give step=7 or later, or raise cap or longest"
    ):
        journal.mask_at(6)
    assert journal.summary().startswith("10 updates, the last 3 recorded")


def test_a_journal_of_updates_that_flip_nothing_does_not_grow():
    journal = Journal(mask_set(torch.ones(64)), longest=5)
    for step in range(1, 50):
        update_to(journal, step, [mask.clone() for mask in journal.masks.tensors])
    assert len(journal._deltas) == len(journal.updates) == 5


@pytest.mark.parametrize(("longest", "error"), [(0, ValueError), (2.5, TypeError)])
def test_what_is_no_number_of_updates_is_refused(longest, error):
    with pytest.raises(error, match=f"longest={longest}"):
        Journal(mask_set(torch.ones(4)), longest=longest)
