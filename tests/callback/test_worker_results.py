"""The result of worker processes, on its way to the callback that started them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_dynprune import DynamicPruning
from lightning_dynprune.callback.worker_results import WorkerMessage, WorkerResult, listener_id
from lightning_dynprune.engine import Pruner, sealed


@pytest.fixture
def pruner() -> Pruner:
    once = {"name": "one_shot", "begin": 1}
    pruner = Pruner(nn.Linear(4, 4), sparsity=0.5, strategy="magnitude", schedule=once)
    pruner.tick()
    return pruner


def test_the_result_of_workers_reaches_the_callback_that_they_are_a_copy_of_and_no_other(pruner):
    ours = DynamicPruning(sparsity=0.5, strategy="magnitude")
    beside = copy.deepcopy(ours)
    message = WorkerMessage(ours._listener_id, pruner.state_dict(), 0.5)
    assert copy.deepcopy(message) is message
    sent = pickle.dumps(message)
    assert ours.sparsity == 0.0
    pickle.loads(sent)
    assert (ours.sparsity, beside.sparsity) == (0.5, 0.0)
    assert not message._file.parent.exists()


def test_a_result_shows_what_the_pruner_showed(pruner):
    result = WorkerResult(pruner.state_dict(), pruner.target_sparsity)
    assert (result.sparsity, result.target_sparsity, result.scheduled_sparsity) == (0.5, 0.5, 0.5)
    assert result.layer_sparsity == pruner.layer_sparsity == {"weight": 0.5}
    assert result.connections == {"weight": 16}
    assert torch.equal(result.masks["weight"], pruner.masks.tensors[0])


class Store:
    """A listener that stores results."""

    def __init__(self) -> None:
        self.results: list[WorkerResult] = []

    def on_worker_result(self, result: WorkerResult) -> None:
        self.results.append(result)


def test_a_message_to_a_listener_that_is_gone_is_dropped_with_its_file(pruner):
    listener = Store()
    message = WorkerMessage(listener_id(listener), pruner.state_dict(), 0.5)
    del listener
    pickle.loads(pickle.dumps(message))
    assert not message._file.parent.exists()


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ([1], "holds a list, not a mapping"),
        ({"target_sparsity": 0.5}, "pruning state of version None cannot be read"),
        ({"state": {"version": 5}, "target_sparsity": 0.5}, "does not match its checksum"),
        ({"state": sealed({"version": 5}), "target_sparsity": 0.5}, "'clock' is missing in the pruning state"),
        ({"state": {"masks": torch.zeros(1).expand(2**40)}}, "more entries than its storage"),
        ({"state": "its own", "target_sparsity": "half"}, "target_sparsity='half' is no number"),
    ],
    ids=["no mapping", "no state", "no checksum", "no entries", "more than is stored", "a text"],
)
def test_a_file_that_is_no_result_is_refused_like_any_checkpoint(pruner, sent, message):
    listener = Store()
    note = WorkerMessage(listener_id(listener), pruner.state_dict(), 0.5)
    if isinstance(sent, dict) and sent.get("state") == "its own":
        sent["state"] = pruner.state_dict()
    torch.save(sent, note._file)
    with pytest.raises(
        ValueError, match=f"that a worker process returned in .*pruning.pt is not accepted: .*{message}"
    ):
        pickle.loads(pickle.dumps(note))
    assert listener.results == []
    assert not note._file.parent.exists()


def test_a_copy_in_another_process_keeps_the_id_and_a_copy_beside_it_gets_another():
    listener, beside = Store(), Store()
    key = listener_id(listener)
    assert listener_id(beside, key) != key
    assert listener_id(Store(), "of another process") == "of another process"
