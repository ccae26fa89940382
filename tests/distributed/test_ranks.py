"""What ranks make of the tensors that they exchange."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.distributed as dist

from lightning_dynprune.distributed import Ranks
from lightning_dynprune.distributed.ranks import RankError
from tests.distributed.threads import ThreadRanks, in_threads
from tests.processes.group import together


def _summed_and_gathered(rank: int) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor, int, int]:
    ranks, own = Ranks(), torch.tensor([[1, rank], [2, 10 * rank]])
    summed = ranks.sum(own)
    return summed, ranks.gather(own.t()), own, ranks.size, ranks.rank


def test_two_processes_sum_and_gather_in_rank_order_and_keep_their_own(tmp_path):
    for rank, (summed, gathered, own, *place) in enumerate(together(2, _summed_and_gathered, tmp_path)):
        assert place == [2, rank]
        assert summed.tolist() == [[2, 1], [4, 10]]
        assert [other.tolist() for other in gathered] == [[[1, 2], [0, 0]], [[1, 2], [1, 10]]]
        assert own.tolist() == [[1, rank], [2, 10 * rank]]


@pytest.mark.parametrize("make", [Ranks, Ranks.single], ids=["Ranks", "single"])
def test_one_process_needs_no_message(make):
    ranks, tensor = make(), torch.tensor([3.0])
    assert (ranks.size, ranks.rank, ranks.group, ranks.device) == (1, 0, None, torch.device("cpu"))
    assert ranks.sum(tensor) is tensor
    assert ranks.gather(tensor) == [tensor]
    assert ranks.concat_each([tensor, tensor]) == [tensor, tensor]
    ranks.check_equal(["w"], [1])
    with pytest.raises(KeyError, match="mine"), ranks.raise_together():
        raise KeyError("mine")


def test_single_is_one_process_even_where_a_group_is_initialized():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert Ranks(device="meta").device == torch.device("meta")
        assert (Ranks.single().size, Ranks.single().rank) == (1, 0)
    finally:
        dist.destroy_process_group()


def test_tensors_of_other_lengths_are_joined_in_rank_order_each_in_its_dtype():
    def joined(ranks: ThreadRanks):
        own = [torch.arange(ranks.rank), torch.full((2 - ranks.rank,), 0.5 + ranks.rank, dtype=torch.float64)]
        return ranks.concat_each(own), ranks.messages

    for (first, second), messages in in_threads(3, joined):
        assert (first.tolist(), first.dtype) == ([0, 0, 1], torch.int64)
        assert (second.tolist(), second.dtype) == ([0.5, 0.5, 1.5], torch.float64)
        assert messages == 2


def test_an_error_of_one_rank_is_raised_in_all_with_its_message():
    def failing(ranks: ThreadRanks) -> str:
        with ranks.raise_together():
            if ranks.rank in (1, 2):
                raise ValueError(f"no {ranks.rank}é")
        return "went on"

    first, second, third = in_threads(3, failing)
    assert (type(second), str(second)) == (ValueError, "no 1é")
    assert (type(third), str(third)) == (ValueError, "no 2é")
    assert (type(first), str(first)) == (RankError, "rank 1 failed: ValueError: no 1é")


def test_a_long_message_is_cut_to_what_is_sent():
    def failing(ranks: ThreadRanks) -> None:
        with ranks.raise_together():
            if ranks.rank == 1:
                raise ValueError("x" * 5000)

    error, _ = in_threads(2, failing)
    assert str(error) == "rank 1 failed: " + ("ValueError: " + "x" * 5000)[:1024]


def test_ranks_that_do_not_fail_send_one_message():
    def fine(ranks: ThreadRanks) -> int:
        with ranks.raise_together():
            pass
        return ranks.messages

    assert in_threads(2, fine) == [1, 1]


CHECKS = [
    # checksums and parts of three ranks, and the two ranks that differ
    ([[5, 7], [5, 7], [5, 7]], None, None),
    ([[5, 7], [5, 8], [5, 7]], None, "b differs between rank 0 and rank 1"),
    ([[5, 7], [5, 7], [6, 8]], None, "a differs between rank 0 and rank 2"),
    # Ranks that hold other parts are not compared, in whatever order they lie.
    ([[1, 7], [2, 7], [3, 7]], [[0, 0], [1, 0], [2, 0]], None),
    ([[1, 7], [2, 7], [4, 7]], [[9, 0], [1, 0], [9, 0]], "a differs between rank 0 and rank 2"),
    ([[1, 7], [2, 7], [3, 7]], [[0, 0], [9, 0], [9, 0]], "a differs between rank 1 and rank 2"),
    ([[1, 7], [2, 7], [2, 8]], [[0, 3], [9, 4], [9, 3]], "b differs between rank 0 and rank 2"),
]


@pytest.mark.parametrize(("checksums", "parts", "message"), CHECKS)
def test_checksums_of_equal_parts_are_compared(checksums, parts, message):
    def check(ranks: ThreadRanks) -> None:
        ranks.check_equal(["a", "b"], checksums[ranks.rank], None if parts is None else parts[ranks.rank])

    for found in in_threads(3, check):
        if message is None:
            assert found is None
        else:
            assert isinstance(found, RankError)
            assert str(found).startswith(f"{message}: ")


def test_the_threads_of_these_tests_are_gone():
    in_threads(2, lambda ranks: ranks.sum(torch.ones(1)))
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
