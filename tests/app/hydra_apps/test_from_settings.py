"""From the configuration to the settings of the pruning."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from lightning_dynprune.app.hydra_apps.from_settings import _schedule
from lightning_dynprune.schedules import Linear, sparsity_schedule


@pytest.mark.parametrize("own", [{}, {"final": None}], ids=["left out", "null"])
def test_the_yaml_of_a_schedule_may_leave_final_out(own):
    schedule = {"_target_": "lightning_dynprune.schedules.Linear", "begin": 0.1, **own}
    cfg = OmegaConf.create({"sparsity": 0.7, "schedule": schedule})
    OmegaConf.set_struct(cfg, True)
    assert sparsity_schedule(_schedule(cfg), cfg.sparsity) == Linear(0.7, begin=0.1)
