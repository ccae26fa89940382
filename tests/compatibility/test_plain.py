import pytest

from tests.compatibility.runs import BATCHES, EPOCHS, STRATEGIES, holds


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plain_run_is_exact_and_resumes_to_the_bit(strategy, tmp_path):
    _, ours, run = holds(tmp_path, strategy)
    assert ours.pruner is not None
    assert ours.pruner.clock.step == run.global_step == EPOCHS * BATCHES
