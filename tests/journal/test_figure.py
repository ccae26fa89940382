"""The figure of a journal."""

from __future__ import annotations

import subprocess
import sys

import torch

from lightning_dynprune.journal import Journal
from tests.journal.runs import mask_set, random_run, update_to


def test_the_figure_shows_density_after_every_update_and_churn():
    journal = Journal(mask_set(torch.ones(4), torch.ones(4)))
    update_to(journal, 10, [torch.tensor([True, False, False, False]), torch.ones(4, dtype=torch.bool)])
    update_to(journal, 30, [torch.tensor([True, True, False, False]), torch.tensor([True, True, True, False])])
    journal.note(20, "waits")
    above, below = journal.plot().axes
    lines = {line.get_label(): line for line in above.lines}
    a, b, overall = (lines[label] for label in ("50.0%  a", "75.0%  b", "62.5%  all targets"))
    assert [*a.get_xdata()][:3] == [0, 10, 30]
    assert [*a.get_ydata()] == [1.0, 0.25, 0.5, 0.5]
    assert [*b.get_ydata()] == [1.0, 1.0, 0.75, 0.75]
    assert [*overall.get_ydata()] == [1.0, 0.625, 0.625, 0.625]
    assert [bar.get_height() for bar in below.patches] == [3 / 8, 1 / 8, 0.0, 1 / 8]
    assert any([*line.get_xdata()] == [20, 20] for line in below.lines)


def test_a_capped_journal_still_draws_every_update():
    journal = Journal(mask_set(torch.ones(64)), cap=0)
    history = random_run(journal, [1, 2, 3], 0.4)
    densities = [*journal.plot().axes[0].lines[0].get_ydata()]
    assert densities[:4] == [1.0, *(float(history[step][0].float().mean()) for step in (1, 2, 3))]


def test_a_file_is_written_for_names_and_notes_of_any_kind(tmp_path):
    masks = mask_set(*(torch.ones(6) for _ in range(12)))
    masks.targets[0].name = "_orig_mod.$x_1$.weight"
    journal = Journal(masks)
    random_run(journal, [1, 2], 0.4)
    for number in range(9):
        journal.note(number, "costs $5 and $6_" + "long " * 60)
    path = tmp_path / "journal.png"
    journal.plot(path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_journal_without_updates_is_drawn_too(tmp_path):
    figure = Journal(mask_set(torch.ones(4))).plot(tmp_path / "empty.svg")
    assert [text.get_text() for text in figure.axes[1].texts] == ["no update yet"]
    assert (tmp_path / "empty.svg").stat().st_size > 0


def test_the_journal_loads_matplotlib_only_to_draw():
    script = "import sys, lightning_dynprune.journal; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "False", done.stderr
