"""State dicts with the module of an adaptive method: ``attach``, of any description and any tensors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive import adapt, attach
from lightning_dynprune.base import stores_entries
from tests.fuzzing.read_state import HOSTILE

ACCEPTED = (ValueError,)
DESCRIPTION = "adaptive.description"


def network() -> nn.Module:
    """Return a network that is not adapted."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def _state() -> dict[str, Tensor]:
    inputs = torch.randn(16, 4)
    pairs = [(inputs, (inputs[:, 0] > 0).long())]
    return adapt(network(), "early_exit", pairs, pairs, after=["1"], hidden=4, max_drop=0.5).model.state_dict()


STATE = _state()


def seeds(folder: Path) -> dict[str, bytes]:
    """Return a script that changes nothing, and the description behind its first byte."""
    return {"script": b"\0", "description": b"\1" + bytes(STATE[DESCRIPTION].tolist())}


def read(data: bytes, folder: Path) -> bool:
    """Attach the module of a changed state dict, and load it; a refusal leaves the model without one."""
    state: dict[str, Any] = copy.deepcopy(dict(STATE))
    if data[:1] == b"\1":
        state[DESCRIPTION] = torch.frombuffer(bytearray(data[1:] or b"\0"), dtype=torch.uint8)
    names = [name for name in state if name.startswith("adaptive")]
    for start in range(1, min(len(data), 10) - 2, 3) if data[:1] != b"\1" else ():
        where, what, how = data[start : start + 3]
        name = names[where % len(names)]
        if how % 4 == 0:
            state.pop(name, None)
        elif how % 4 == 1 and isinstance(state.get(name), Tensor) and stores_entries(state[name]):
            state[name] = state[name].flatten()[: what % 9].clone()
        else:
            state[name] = HOSTILE[what % len(HOSTILE)]
    model = network()
    try:
        attach(model, state)
    except ACCEPTED:
        assert not hasattr(model, "adaptive")
        return False
    model.load_state_dict(state)
    model.adaptive.outcome(model, torch.zeros(2, 4))
    return True
