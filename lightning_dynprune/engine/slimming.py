"""Removal of pruned units from a model while it trains, and loading of a checkpoint of a slimmed model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_dynprune.engine.coupled import CoupledMasks
from lightning_dynprune.masks import KeptEntries, narrow_slots, select_along
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Target

if TYPE_CHECKING:
    from lightning_dynprune.engine.run import PruningRun


def slim_run(run: PruningRun) -> dict[str, tuple[int, int]]:
    """Remove the pruned units of a run from its model and optimizers, and let masks and state follow.

    Args:
        run: what is pruned.

    Returns:
        Group name -> its units before and after.

    Raises:
        ValueError: the pattern has no units to remove, weights are to be rewound, or an optimizer keeps something that
            cannot be narrowed; the model is as before.
    """
    units = run.units
    if not isinstance(units, CoupledMasks) or run.rewind is not None:
        raise ValueError(
            f"pattern {run.plan.pattern.label} with rewind={None if run.rewind is None else run.rewind.step} has "
            "nothing to slim; give pattern channel or head, after couple(), and rewind=None. What other patterns "
            "left whole channels of zeros in, lightning_dynprune.deploy.slimming.removal makes smaller"
        )
    widths = {g.name: (g.units, kept) for g, kept in zip(units.groups, units.counts, strict=True)}
    run.apply()
    stayed = _narrow_model(run, units)
    for position, target in enumerate(run.masks.targets):
        if dims := stayed.get(target.name):
            run.masks.narrow(position, dims)
            target.state.update(_narrowed_state(run.plan.strategy, target, dims))
    units.narrow(stayed)
    run.calibrator.forget()
    if stayed and run.journal is not None:
        run.journal.discard_positions(run.progress.clock.step, "pruned units are taken out of the model")
    return widths


def _narrow_model(run: PruningRun, units: CoupledMasks) -> dict[str, dict[int, Tensor]]:
    """Remove the pruned units from all tensors of the model and from the optimizers' slots, or from none.

    Returns:
        Tensor name -> dimension -> the positions that stayed, int64.
    """
    from lightning_dynprune.coupling import Narrowing

    parameters = dict(run.plan.model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    change = Narrowing(run.plan.model)
    try:
        stayed = change.narrow(units.groups, units.alive)
        narrowed = {parameters[n]: KeptEntries(shapes[n], dims) for n, dims in stayed.items() if n in parameters}
        narrow_slots(run.plan.optimizers, narrowed)
    except BaseException:
        change.undo()
        raise
    return stayed


def _narrowed_state(strategy: Strategy, target: Target, stayed: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Return the strategy's state of a target that was slimmed; state that is not elementwise starts anew."""
    if not strategy.elementwise:
        return strategy.init_state(target)
    state = dict(target.state)
    for dim, positions in stayed.items():
        state = {key: select_along(value, dim, positions) for key, value in state.items()}
    return state


def fit_to(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a newly built model the shapes of a slimmed one, so that its weights can be loaded.

    Args:
        model: the network as it was built; only its tensors that are larger than in ``state`` change.
        state: a state dict of the slimmed model.
    """
    from lightning_dynprune.coupling import Narrowing

    change = Narrowing(model)
    for name, tensor in change.tensors.items():
        smaller = state.get(name)
        if smaller is None or smaller.dim() != tensor.dim() or smaller.shape == tensor.shape:
            continue
        if all(there <= here for there, here in zip(smaller.shape, tensor.shape, strict=True)):
            change.set(name, smaller.detach().to(tensor.device, tensor.dtype, copy=True))
    change.update_widths()
