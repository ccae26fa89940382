"""torch.compile by inductor, inside the module and around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import exc
from torch._inductor.cpp_builder import get_cpp_compiler

from tests.compatibility.runs import STRATEGIES, Module, fit, holds, network


def compiles() -> bool:
    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return False
    return True


pytestmark = pytest.mark.skipif(not compiles(), reason="inductor needs a C++ compiler, and there is none")


class Unlogged(Module):
    """What torch.compile can take whole: it cannot trace Lightning's logging."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)


class Wrapped(Module):
    """A part that is wrapped, by which its parameters get other names."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net)


class Layers(nn.Module):
    """Compiled in place, which torch leaves out for a container of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class InPlace(Module):
    def __init__(self) -> None:
        super().__init__(Layers())
        self.net.compile()


def whole() -> Any:
    return torch.compile(Unlogged())


@pytest.fixture(autouse=True)
def once() -> Iterator[None]:
    """Let a second compilation of the same code be an error: an update must not bring one."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("make", "prefix"),
    [(Wrapped, "net._orig_mod."), (InPlace, "net.layers."), (whole, "net.")],
    ids=["part", "in place", "all"],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_compiled_module_is_exact_resumes_to_the_bit_and_is_compiled_once(strategy, make, prefix, tmp_path):
    # Compiled code is another in evaluation, so nothing is validated here.
    _, pruning, _ = holds(tmp_path, strategy, make, limit_val_batches=0)
    assert pruning.pruner.updates == 7
    assert list(pruning.masks) == [f"{prefix}0.weight", f"{prefix}3.weight"]


def test_a_compiled_module_is_pruned_as_one_that_is_not(tmp_path):
    compiled, theirs, _ = fit(tmp_path, "magnitude", InPlace, limit_val_batches=0)
    plain, ours, _ = fit(tmp_path, "magnitude", Module, limit_val_batches=0)
    for mine, other in zip(ours.masks.values(), theirs.masks.values(), strict=True):
        assert torch.equal(mine, other)
    for mine, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
