"""The private names of torch do what deploy needs: a failure here names what a new torch took away."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from lightning_dynprune.deploy import compat


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_batch_norm_has_the_common_base(kind):
    assert issubclass(kind, compat.BatchNorm)


@pytest.mark.parametrize("kind", [nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d])
def test_every_instance_norm_has_the_common_base(kind):
    assert issubclass(kind, compat.InstanceNorm)


def test_hooks_of_a_module_are_seen():
    plain, before, after = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
    before.register_forward_pre_hook(lambda *_: None)
    after.register_forward_hook(lambda *_: None)
    assert [compat.has_forward_hooks(layer) for layer in (plain, before, after)] == [False, True, True]


def test_the_flop_counter_hands_tensors_to_a_marked_function():
    seen = []

    @compat.wants_tensors
    def count(*args, **kwargs):
        seen.append(type(args[0]))
        return 4

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mm: count}) as counter:
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert seen == [torch.Tensor]
    assert counter.get_total_flops() == 4


@pytest.mark.parametrize(
    ("operators", "run"),
    [
        (
            compat.EMBEDDING_BAG_OPERATORS,
            lambda: torch.embedding_bag(torch.ones(3, 2), torch.tensor([0, 1]), torch.tensor([0])),
        ),
        (
            compat.ATTENTION_OPERATORS,
            lambda: nn.functional.scaled_dot_product_attention(*torch.ones(3, 1, 2, 4, 8).unbind()),
        ),
        ((compat.TRILINEAR_OPERATOR,), lambda: nn.Bilinear(2, 3, 4)(torch.ones(5, 2), torch.ones(5, 3))),
    ],
)
def test_public_functions_run_the_operators_that_are_counted(operators, run):
    called = []

    def count(*args, out_val=None, **kwargs):
        called.append(True)
        return 0

    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=dict.fromkeys(operators, count)):
        run()
    assert called


def test_example_inputs_are_gone_from_a_program_and_back():
    program = torch.export.export(nn.Linear(2, 1), (torch.ones(1, 2),))
    before = program.example_inputs
    with compat.without_example_inputs(program):
        assert program.example_inputs is None
    assert program.example_inputs is before


def test_the_profiler_records_every_allocation_and_release():
    with profile(use_cpu=True, profile_memory=True) as recorder:
        tensor = torch.empty(1000, dtype=torch.uint8)
        del tensor
    sizes = compat.recorded_allocations(recorder)
    assert max(sizes) >= 1000
    assert sum(sizes) == 0
