"""The summary of a journal in plain text."""

from __future__ import annotations

from itertools import pairwise

import torch

from lightning_dynprune.journal import Journal
from tests.journal.runs import mask_set, random_run, update_to


def test_the_table_of_two_updates_word_for_word():
    journal = Journal(mask_set(torch.ones(1000), torch.ones(3, 8)))
    first = torch.arange(1000) >= 500
    update_to(journal, 100, [first, torch.ones(3, 8, dtype=torch.bool)])
    update_to(journal, 1200, [first | (torch.arange(1000) < 50), torch.arange(24).view(3, 8) % 2 == 0])
    journal.note(700, "accuracy fell, the schedule waits")
    assert journal.summary().splitlines() == [
        "2 updates",
        "",
        "step   asked  reached  dropped  grown   churn",
        " 100  48.83%   48.83%      500      0  48.83%",
        "1200  45.12%   45.12%       12     50   6.05%",
        "",
        "target  density",
        "a        55.00%  550 of 1,000 kept",
        "b        50.00%      12 of 24 kept",
        "",
        "kept connections that had once been pruned: 8.90%",
        "",
        "step 700: accuracy fell, the schedule waits",
    ]


def test_many_updates_are_thinned_evenly_with_both_ends():
    journal = Journal(mask_set(torch.ones(16)), cap=None)
    random_run(journal, list(range(1, 118)), 0.1)
    lines = journal.summary().splitlines()
    assert lines[0] == "117 updates, 40 of them shown"
    steps = [int(line.split()[0]) for line in lines[3:43]]
    assert (steps[0], steps[-1]) == (1, 117)
    assert {later - earlier for earlier, later in pairwise(steps)} <= {2, 3}


def test_a_capped_journal_says_since_when_it_tells():
    journal = Journal(mask_set(torch.ones(4096)), cap=2)
    random_run(journal, [3, 6, 9], 0.5)
    assert "that had once been pruned since step 3, where the recorded positions begin: " in journal.summary()
    journal.cap = 0.0
    random_run(journal, [12], 0.5)
    assert "that had once been pruned: not known, since no positions are recorded any more" in journal.summary()


def test_a_journal_without_updates_says_so():
    lines = Journal(mask_set(torch.ones(4))).summary().splitlines()
    assert lines[0] == "0 updates"
    assert lines[-1] == "kept connections that had once been pruned: 0.00%"
