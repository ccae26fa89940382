"""Clock, pauses and due updates of a run."""

from __future__ import annotations

from lightning_dynprune.engine.progress import Progress
from lightning_dynprune.journal import Update
from lightning_dynprune.schedules import Clock, Horizon, Linear


def made(**moments) -> Progress:
    return Progress(Linear(0.8, **moments).resolve(Horizon(steps=100, steps_per_epoch=10)))


def test_steps_are_counted_and_updates_are_due_from_begin_to_end():
    progress = made(begin=2, end=6, every=2)
    assert [progress.count_step() for _ in range(8)] == [False, True, False, True, False, True, False, False]
    assert progress.clock == Clock(8, 0)
    assert progress.has_ended


def test_the_schedule_stands_still_while_paused_and_goes_on_where_it_stood():
    progress = made(begin=2, end=6, every=2)
    progress.count_step()
    progress.paused = True
    assert [progress.count_step() for _ in range(5)] == [False] * 5
    assert not progress.updates_next()
    progress.paused = False
    assert progress.updates_next()
    assert progress.count_step()
    assert (progress.clock.step, progress.schedule_clock.step, progress.paused_for.step) == (7, 2, 5)


def test_updates_on_epochs_are_due_at_the_end_of_one():
    progress = made(begin="1 epochs", end="3 epochs", every="1 epochs")
    assert not progress.count_step()
    assert not progress.updates_next()
    assert progress.updates_next(ending_epoch=True)
    assert [progress.count_epoch() for _ in range(4)] == [True, True, True, False]


def test_an_update_before_the_first_step_is_due_once():
    progress = Progress(Linear(0.8, initial=0.2, begin=0, end=4, every=4).resolve(Horizon()))
    assert progress.starts
    progress.has_started = True
    assert not progress.starts


def test_the_schedule_is_followed_from_what_an_earlier_training_reached():
    progress = made(begin=0, end=4, every=1)
    progress.previous_sparsity = 0.5
    due = []
    for _ in range(4):
        progress.count_step()
        due.append(round(progress.due_sparsity, 6))
    assert due == [0.5, 0.5, 0.6, 0.8]


def test_a_saved_progress_is_loaded_whole_and_the_clock_stays_the_same_object():
    progress, other = made(begin=2, end=6, every=2), made(begin=2, end=6, every=2)
    for _ in range(3):
        progress.count_step()
    progress.paused = True
    progress.count_step()
    progress.count_update(Update(2, 0.4, 0.4, {"w": 4}, {"w": 0}, 0.4, {"w": 0.1}))
    clock = other.clock
    other.load_state_dict(progress.state_dict())
    assert other.state_dict() == progress.state_dict()
    assert other.clock is clock
    assert other.has_started
    assert clock == Clock(4, 0)


def test_a_pause_of_epochs_moves_a_schedule_on_epochs_by_as_many():
    progress = made(begin="1 epochs", end="3 epochs", every="1 epochs")
    assert progress.count_epoch()
    progress.paused = True
    assert [progress.count_epoch() for _ in range(2)] == [False, False]
    progress.paused = False
    assert (progress.paused_for, progress.schedule_clock) == (Clock(0, 2), Clock(0, 1))
    assert not progress.has_ended
    assert [progress.count_epoch() for _ in range(3)] == [True, True, False]
    assert progress.has_ended


def test_what_was_counted_without_an_update_is_taken_back_whole():
    progress = made(begin=2, end=6, every=2)
    progress.count_step()
    position = progress.position()
    progress.paused = True
    progress.count_start()
    progress.count_step()
    progress.count_epoch()
    progress.go_back(position)
    assert progress.position() == position == (0, 1, 0, 0, 0, False)
    assert (progress.clock, progress.paused_for) == (Clock(1, 0), Clock(0, 0))


def test_what_was_counted_is_kept_once_an_update_was_made():
    progress = made(begin=2, end=6, every=2)
    position = progress.position()
    progress.count_step()
    progress.count_update(Update(1, 0.4, 0.4, {"w": 4}, {"w": 0}, 0.4, {"w": 0.1}))
    progress.go_back(position)
    assert (progress.clock.step, progress.updates) == (1, 1)
