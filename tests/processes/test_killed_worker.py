"""A worker that is killed in the middle of a step, and the run that goes on."""

import re

import torch

from tests.compatibility.runs import SPARSITY
from tests.conformance.loop import same
from tests.processes.launching import TIMED_OUT, ends, launch


def test_a_killed_worker_ends_the_others_and_the_resumed_run_is_the_unbroken_one_to_the_bit(tmp_path):
    code, printed = launch("killed", tmp_path)

    assert (tmp_path / "killed_at").exists()
    assert code not in (0, TIMED_OUT), printed[-6000:]
    assert re.search("Connection (closed|reset) by peer|terminated with code", printed)
    assert not ends(tmp_path, "killed")
    files = sorted((tmp_path / "killed").iterdir())
    assert [file.name for file in files] == ["step=10.ckpt", "step=5.ckpt"]
    for file in files:
        assert torch.load(file, weights_only=True)["global_step"] == int(file.stem.split("=")[1])

    code, printed = launch("after", tmp_path)
    assert code == 0, printed[-6000:]
    for unbroken, resumed in zip(ends(tmp_path, "unbroken"), ends(tmp_path, "resumed"), strict=True):
        assert len(unbroken["sparsities"]) - len(resumed["sparsities"]) == 10
        assert same(resumed["state"], unbroken["state"])
        assert same(resumed["pruning"], unbroken["pruning"])
        assert resumed["sparsity"] == SPARSITY
