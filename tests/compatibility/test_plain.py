import pytest

from tests.compatibility.runs import STRATEGIES, holds


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plain_run_is_exact_and_resumes_to_the_bit(strategy, tmp_path):
    holds(tmp_path, strategy)
