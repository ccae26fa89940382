"""A journal in a checkpoint: comes back whole, and is refused whole."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch

from lightning_dynprune.journal import Journal
from tests.journal.runs import mask_set, random_run


def recorded(**settings) -> Journal:
    journal = Journal(
        mask_set(torch.ones(40, 30), torch.ones(77)), **{"cap": None, "remember_values": True, **settings}
    )
    random_run(journal, [2, 4, 4, 6], 0.1)
    journal.note(5, "accuracy fell by 2 %, the next update waits")
    return journal


def loaded(journal: Journal, **settings) -> Journal:
    """Return another journal that read the first one's checkpoint from a file, its masks too."""
    file = io.BytesIO()
    torch.save({"journal": journal.state_dict(), "masks": journal.masks.pack()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = Journal(mask_set(torch.ones(40, 30), torch.ones(77)), **{"cap": None, "remember_values": True, **settings})
    other.masks.load(other.masks.unpack(state["masks"]))
    other.load_state_dict(state["journal"])
    return other


def same_figures(one, other) -> bool:
    columns, others = one["updates"], other["updates"]
    return list(columns) == list(others) and all(map(torch.equal, columns.values(), others.values()))


def as_version_2(journal: Journal) -> dict:
    """Return a state as it was written when the figures of updates were a list of mappings."""
    updates = [dataclasses.asdict(update) for update in journal.updates]
    return {**journal.state_dict(), "version": 2, "updates": updates}


def test_a_record_of_version_2_comes_back_and_is_written_as_version_3():
    first = recorded()
    second = Journal(first.masks, cap=None, remember_values=True)
    second.load_state_dict(as_version_2(first))
    assert second.updates == first.updates
    assert second.state_dict()["version"] == 3
    assert same_figures(second.state_dict(), first.state_dict())
    assert all(map(torch.equal, second.mask_at(2).values(), first.mask_at(2).values()))


def test_all_comes_back_from_a_file():
    first = recorded()
    second = loaded(first)
    assert second.updates == first.updates
    assert second.notes == first.notes == [(5, "accuracy fell by 2 %, the next update waits")]
    assert second.bits == first.bits
    for step in range(8):
        assert all(map(torch.equal, second.mask_at(step).values(), first.mask_at(step).values()))
        for mine, other in zip(second.values_at(step).values(), first.values_at(step).values(), strict=True):
            assert all(map(torch.equal, mine, other))


def test_a_resumed_record_goes_on_like_one_never_stopped():
    straight, resumed = recorded(), loaded(recorded())
    histories = [random_run(journal, [8, 9], 0.05, seed=1) for journal in (straight, resumed)]
    assert all(map(torch.equal, histories[0][9], histories[1][9]))
    assert all(map(torch.equal, straight.mask_at(2).values(), resumed.mask_at(2).values()))
    one, other = straight.state_dict(), resumed.state_dict()
    assert torch.equal(one["positions"], other["positions"])
    assert torch.equal(one["values"]["a"], other["values"]["a"])


@pytest.mark.parametrize("longest", [1, 2, 3, 4])
def test_a_resumed_record_discards_its_oldest_updates_like_one_never_stopped(longest):
    straight, resumed = recorded(longest=longest), loaded(recorded(longest=longest), longest=longest)
    for journal in (straight, resumed):
        random_run(journal, [8, 9, 10], 0.05, seed=1)
    assert resumed.earliest_step == straight.earliest_step
    assert resumed.bits == straight.bits
    for step in range(straight.earliest_step, 11):
        assert all(map(torch.equal, resumed.mask_at(step).values(), straight.mask_at(step).values()))
    one, other = straight.state_dict(), resumed.state_dict()
    assert torch.equal(one["recorded"], other["recorded"])
    assert torch.equal(one["values"]["b"], other["values"]["b"])


def test_an_empty_journal_comes_back_empty():
    journal = Journal(mask_set(torch.ones(40, 30), torch.ones(77)))
    other = loaded(journal)
    assert (other.updates, other.notes, other.bits) == ([], [], 0)
    assert other.mask_at(3)["a"].all()


def test_a_capped_record_comes_back_with_its_reach():
    first = recorded(cap=1.4)
    assert first.earliest_step > 0
    second = loaded(first, cap=1.4)
    assert (second.earliest_step, len(second.updates)) == (first.earliest_step, 4)
    assert torch.equal(second.mask_at(first.earliest_step)["a"], first.mask_at(first.earliest_step)["a"])


def test_the_settings_stay_the_readers_own():
    journal = loaded(recorded(), cap=0.6, remember_values=False)
    assert journal.bits <= 0.6
    assert "a" not in journal.state_dict()["values"]


def test_values_from_before_they_were_remembered_are_refused_in_words():
    journal = loaded(recorded(remember_values=False))
    random_run(journal, [8], 0.1, seed=3)
    assert journal.values_at(6)["a"][0].numel() > 0
    with pytest.raises(ValueError, match="dropped after step 5 were not all remembered"):
        journal.values_at(5)
    again = loaded(journal)
    assert torch.equal(again.values_at(6)["a"][1], journal.values_at(6)["a"][1])


def test_a_state_is_not_tied_to_the_journal_it_came_from_or_went_to():
    first = recorded()
    state = first.state_dict()
    kept = copy.deepcopy(state)
    second = Journal(first.masks, remember_values=True, cap=None)
    second.load_state_dict(state)
    state["positions"].fill_(7)
    state["values"]["a"].zero_()
    state["updates"]["dropped"][0, 0] = 0
    for journal in (first, second):
        now = journal.state_dict()
        assert torch.equal(now["positions"], kept["positions"])
        assert torch.equal(now["values"]["a"], kept["values"]["a"])
        assert same_figures(now, kept)


def changed(key, value):
    def change(state):
        state[key] = value(state[key]) if callable(value) else value

    return change


def at(*path, value):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


def flips_of_second_target(state):
    state["recorded"][1, 1] += 2


def expanded(_):
    return torch.zeros(1, dtype=torch.uint8).expand(10**12)


DAMAGES = {
    "another version": (changed("version", 9), "a record of version 9 cannot be read; expected 3 or 2"),
    "a count that is none": (at("gone", "updates", value=-1), "'gone' does not hold counts"),
    "a key missing": (lambda state: state.pop("recorded"), "'recorded' is missing"),
    "another size": (at("targets", "b", value=78), "b differs .78 connections in the state, 77 in the model"),
    "another target": (at("targets", "c", value=5), "c differs .5 connections in the state, None in the model"),
    "another order": (changed("targets", {"b": 77, "a": 1200}), "their order differs"),
    "no figures": (changed("updates", {}), "'updates' does not hold the figures"),
    "figures of another type": (at("updates", "step", value=torch.ones(4)), "step of the updates is no torch.int64"),
    "figures of too few": (
        lambda state: state["updates"].update(churn=torch.zeros(3).double()),
        "churn of the updates",
    ),
    "figures that hold nothing": (
        at("updates", "cuts", value=torch.zeros(1).double().expand(4, 2)),
        r"cuts of the updates is no torch.float64 of shape \(4, 2\)",
    ),
    "steps out of order": (at("updates", "step", 0, value=5), "an update at step 4 follows one at step 5"),
    "a sparsity not finite": (
        at("updates", "sparsity", 0, value=float("nan")),
        "update 0: sparsity=nan is not a number",
    ),
    "a churn below 0": (at("updates", "churn", 1, value=-0.5), "update 1: churn=-0.5 is not a number of at least 0"),
    "too many dropped": (at("updates", "dropped", (0, 1), value=78), "dropped of b is 78; it has 77 connections"),
    "fewer than none grown": (at("updates", "grown", (2, 0), value=-1), "update 2: grown of a is -1; it has 1200"),
    "counts that do not fit": (
        at("updates", "dropped", (0, 1), value=0),
        "of b: .* flips at step 2 do not fit 0",
    ),
    "a note without text": (changed("notes", [[1, 2]]), r"the note \[1, 2\] is not a step and a text"),
    "positions cut short": (changed("positions", lambda t: t[:-1].clone()), "bytes of positions where"),
    "positions of another type": (changed("positions", lambda t: t.int()), "'positions' is torch.int32"),
    "positions that hold nothing": (changed("positions", expanded), "'positions' is torch.uint8"),
    "positions sparse": (changed("positions", lambda t: t.to_sparse()), "'positions' is torch.uint8"),
    "positions rewritten": (changed("positions", lambda t: t ^ 1), "of a: "),
    "other flips": (flips_of_second_target, "of b: .* flips where .* are expected"),
    "an encoding unknown": (changed("recorded", lambda t: t + torch.tensor([0, 0, 7, 0])), "of a: encoding 8, 1"),
    "negative lengths": (changed("recorded", lambda t: t - torch.tensor([999, 0, 0, 0])), "are expected"),
    "a target too few": (changed("recorded", lambda t: t[:-1].clone()), "does not hold 4 figures per target"),
    "an update too few": (
        changed("updates", lambda u: {k: v[:-1] for k, v in u.items()}),
        "positions of 4 updates, but figures of 3",
    ),
    "values of too many": (changed("valued", 5), "values of 5 updates, but positions of 4"),
    "values of too few": (changed("valued", 3), "of a: its values are torch.float32 .* where floats of shape"),
    "values missing": (lambda state: state["values"].pop("b"), "of b: its values are missing"),
    "values whole numbers": (at("values", "b", value=torch.ones(3, dtype=torch.int64)), "of b: .*are torch.int64"),
}


DAMAGES_OF_VERSION_2 = {
    "updates no list": (changed("updates", {}), "'updates' is not a list"),
    "an update no mapping": (at("updates", 0, value=3), "update 0: expected the figures"),
    "a step as float": (at("updates", 1, "step", value=4.0), "update 1: step=4.0 is not a whole number"),
    "steps out of order": (at("updates", 0, "step", value=5), "an update at step 4 follows one at step 5"),
    "a sparsity not finite": (at("updates", 0, "sparsity", value=float("nan")), "update 0: sparsity=nan"),
    "too many dropped": (at("updates", 0, "dropped", "b", value=78), "dropped of b is 78; it has 77 connections"),
    "a target not counted": (at("updates", 0, "grown", value={"a": 0}), "grown does not hold one count per target"),
    "a cut in words": (at("updates", 0, "cuts", value={"a": "x"}), "cuts=.* does not hold a number per target"),
}


@pytest.mark.parametrize("damage", DAMAGES_OF_VERSION_2)
def test_a_damaged_record_of_version_2_is_refused_and_nothing_changes(damage):
    change, message = DAMAGES_OF_VERSION_2[damage]
    journal = recorded()
    state, before = as_version_2(journal), journal.state_dict()
    change(state)
    with pytest.raises(ValueError, match=rf"journal.*{message}"):
        journal.load_state_dict(state)
    assert same_figures(journal.state_dict(), before)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_refused_and_nothing_changes(damage):
    change, message = DAMAGES[damage]
    journal = recorded()
    state = journal.state_dict()
    change(state)
    before = journal.state_dict()
    with pytest.raises(ValueError, match=rf"journal.*{message}"):
        journal.load_state_dict(state)
    after = journal.state_dict()
    assert same_figures(after, before)
    assert torch.equal(after["positions"], before["positions"])


def test_what_is_no_state_is_refused():
    with pytest.raises(ValueError, match="a list is not accepted; give a state_dict of a journal"):
        recorded().load_state_dict([])


def test_what_was_let_go_is_counted_on_after_a_resume():
    straight, resumed = recorded(longest=2), loaded(recorded(longest=2), longest=2)
    assert resumed.totals == straight.totals
    assert resumed.totals["updates"] == 4
    assert resumed.earliest_step == straight.earliest_step == 4
    for journal in (straight, resumed):
        random_run(journal, [8, 9], 0.05, seed=1)
    assert resumed.totals == straight.totals
    assert loaded(recorded(), longest=1).totals == recorded().totals
