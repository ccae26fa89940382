"""A clock that modules advance by a fixed cost, so that a measured time does not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from lightning_dynprune.deploy.kernels import CSR, Kernel
from lightning_dynprune.deploy.timing import latency

Cost = Callable[[nn.Module, int], float]
SECONDS_PER_ELEMENT = 1e-8
KERNEL_OVERHEAD = 1e-4
READING = 1e-6  # seconds that one reading of the clocks takes, so that time always passes


class FakeClock:
    """Wall and CPU clocks in nanoseconds, which stand still unless advanced."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0

    def advance(self, wall: float, cpu: float | None = None) -> None:
        """Advance the clocks by seconds; ``cpu=None`` takes as much CPU time as wall time."""
        self.wall += round(1e9 * wall)
        self.cpu += round(1e9 * (wall if cpu is None else cpu))

    def read(self) -> tuple[int, int]:
        self.advance(READING)
        return self.wall, self.cpu

    @property
    def seconds(self) -> float:
        return self.wall / 1e9


def proportional(module: nn.Module, rows: int) -> float:
    """Return a cost proportional to the stored weights; kernels have an overhead and cost more for each weight."""
    stored = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    cost = rows * sum(t.numel() for t in stored) * SECONDS_PER_ELEMENT
    if isinstance(module, Kernel):
        return KERNEL_OVERHEAD + (3.0 if isinstance(module, CSR) else 1.5) * cost
    return cost


def _rows(value: Any) -> int:
    if isinstance(value, Tensor):
        return max(value.numel() // value.shape[-1], 1) if value.dim() else 1
    return 1


@contextmanager
def modules_take(cost: Cost = proportional) -> Iterator[FakeClock]:
    """Replace the clocks of the timing room by one that each module without children advances by its cost."""
    clock = FakeClock()

    def advance(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if next(module.children(), None) is None:
            clock.advance(cost(module, _rows(args[0] if args else None)))

    hook = register_module_forward_hook(advance)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "read_clocks", clock.read)
        try:
            yield clock
        finally:
            hook.remove()
