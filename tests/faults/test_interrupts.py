"""Ctrl-C at any moment: what is left is whole, and a checkpoint of it resumes exactly."""

from __future__ import annotations

import copy
import os
import random
import signal
import threading
import time

import pytest
import torch

from tests.conformance.loop import STEPS, Run, same

SCHEDULE = {"name": "cubic", "begin": 1, "end": 18, "every": 1}
SETTINGS = {
    "hard": {"strategy": {"name": "taylor"}, "schedule": SCHEDULE},
    "grown": {"strategy": {"name": "rigl"}, "schedule": SCHEDULE},
    "latent": {"strategy": {"name": "surgery"}, "schedule": SCHEDULE},
    "channels": {"strategy": {"name": "magnitude"}, "schedule": SCHEDULE, "pattern": {"name": "channel"}},
    "refitted": {"strategy": {"name": "wanda"}, "schedule": SCHEDULE, "reconstruct": True},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is down to min_kept"),
    pytest.mark.skipif(os.name == "nt", reason="signals to a process of its own are those of POSIX"),
]


def interrupted(run: Run, after: float) -> bool:
    """Train to the end, and interrupt that after some seconds; return whether it was interrupted."""
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        run.finish()
        timer.cancel()
        timer.join()
    except KeyboardInterrupt:
        return True
    return False


def check_whole(run: Run) -> None:
    """Check that masks, counts and weights agree with each other."""
    masks = run.pruner.masks
    for target, mask, kept in zip(run.pruner.targets, masks.tensors, masks.kept, strict=True):
        assert mask.view(torch.uint8).max() <= 1
        assert int(mask.sum()) == kept
        assert torch.isfinite(target.parameter).all()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_run_stopped_by_ctrl_c_resumes_exactly(settings):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        Run(settings).finish()  # the first one imports and compiles
        start = time.monotonic()
        Run(settings).finish()
        length = time.monotonic() - start
        moments = random.Random(0)
        stopped = 0
        for _ in range(12):
            run, moment = Run(settings), moments.uniform(0.0, length)
            stopped += (was_stopped := interrupted(run, moment))
            if not was_stopped:
                length = moment  # the run that was timed was held up by something else on the machine
            run.pruner.stop_capture()
            check_whole(run)
            if not was_stopped or run.done == STEPS:
                continue
            resumed = Run(settings)
            resumed.load(copy.deepcopy(run.state()))
            # Inputs of layers that were captured are no part of a checkpoint: the step that reads them is done anew.
            for each in (resumed,) if run.pruner.needs_layer_inputs else (run, resumed):
                each.optimizer.zero_grad()
                each.finish()
            check_whole(resumed)
            assert run.pruner.needs_layer_inputs or same(run.state(), resumed.state())
        assert stopped
    finally:
        signal.signal(signal.SIGINT, before)
