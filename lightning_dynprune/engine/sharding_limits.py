"""Checks for parameters that several processes hold in parts."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch import nn

from lightning_dynprune.patterns import Pattern, TargetPattern
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Target


def check_no_flat_parameters(model: nn.Module) -> None:
    """Raise where FSDP1 has flattened the parameters of a model.

    Raises:
        ValueError: naming the module.
    """
    # If it has not been imported nothing is wrapped in it, and importing it takes time.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return
    for name, module in model.named_modules():
        if isinstance(module, fsdp.FullyShardedDataParallel):
            raise ValueError(
                f"{name or type(model).__name__} is wrapped in FullyShardedDataParallel (FSDP1), which flattens "
                "parameters and splits them anywhere, so that no target is left to prune; use FSDP2: "
                "torch.distributed.fsdp.fully_shard, in Lightning ModelParallelStrategy with fully_shard in "
                "configure_model"
            )


def check_supports_sharding(
    targets: Sequence[Target],
    pattern: Pattern,
    strategy: Strategy,
    reconstruct: bool,
    rewind: int | None,
    remember_values: bool,
) -> None:
    """Raise where targets are sharded and a setting needs them whole.

    Raises:
        ValueError: naming the setting, a target, and what would be accepted.
    """
    parts = next((target for target in targets if target.shard is not None), None)
    if parts is None:
        return
    settings = (
        (
            not (isinstance(pattern, TargetPattern) and pattern.elementwise),
            f"pattern {pattern.label}",
            "pattern='element'",
        ),
        (not strategy.elementwise, f"strategy={type(strategy).__name__}", "one that scores connection by connection"),
        (reconstruct, "reconstruct=True", "reconstruct=False"),
        (rewind is not None, f"rewind={rewind}", "rewind=None"),
        (remember_values, "a journal that remembers values, as a guard needs it,", "remember_values=False"),
    )
    for is_given, setting, accepted in settings:
        if is_given:
            raise ValueError(
                f"{setting} needs whole targets, and several processes hold parts of {parts.name} (FSDP2 or tensor "
                f"parallelism); give {accepted}, or train by DDP"
            )
