"""Removal of pruned units from a model while it trains, and loading of a checkpoint of a slimmed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_dynprune.base import nested_tensors
from lightning_dynprune.engine.coupled import CoupledMasks
from lightning_dynprune.engine.updates import finish
from lightning_dynprune.masks import KeptEntries, NarrowedSlots, select_along
from lightning_dynprune.strategies import Strategy
from lightning_dynprune.targets import Target

if TYPE_CHECKING:
    from lightning_dynprune.coupling import Group
    from lightning_dynprune.engine.run import PruningRun


def check_slim(run: PruningRun, example_input: Any) -> None:
    """Raise if an attention module of a run does not compute the same with fewer heads.

    Channels are verified when they are found; heads are found without running the model.

    Args:
        run: what is pruned.
        example_input: a tensor, a tuple of arguments or a mapping of keywords.

    Raises:
        CouplingError: naming the module, and the settings that leave it out; or the model does not run on the example.
    """
    from lightning_dynprune.coupling import CouplingError, explain_heads, failing_groups, isolated, run_example

    heads = [group for group in run.units.groups if group.modules] if isinstance(run.units, CoupledMasks) else []
    with isolated(run.plan.model), torch.no_grad():
        run_example(run.plan.model, example_input)
        failed = failing_groups(run.plan.model, example_input, heads)
    reasons = [explain_heads(run.plan.model, group, failed[group.name]) for group in heads if group.name in failed]
    if reasons:
        raise CouplingError(f"slim: {reasons[0]}" + (f" ({len(reasons)} modules in all)" if len(reasons) > 1 else ""))


def slim_run(run: PruningRun, example_input: Any = None) -> dict[str, tuple[int, int]]:
    """Remove the pruned units of a run from its model and optimizers, and let masks and state follow.

    Args:
        run: what is pruned.
        example_input: compare the outputs on it before and after, in eval mode; None: do not compare.

    Returns:
        Group name -> its units before and after.

    Raises:
        SlimError: the outputs would change in this process or another; all is as before.
        ValueError: the pattern has no units to remove, weights are to be rewound, or an optimizer keeps something that
            cannot be narrowed; the model is as before.
    """
    ranks = run.ranks
    with ranks.raise_together():
        run.held_errors.raise_own()
        run.check_attached()
    units = run.units
    if not isinstance(units, CoupledMasks) or run.rewind is not None:
        raise ValueError(
            f"pattern {run.plan.pattern.label} with rewind={None if run.rewind is None else run.rewind.step} has "
            "nothing to slim; give pattern channel or head, after couple(), and rewind=None. What other patterns "
            "left whole channels of zeros in, lightning_dynprune.deploy.slim makes smaller"
        )
    widths = {g.name: (g.units, kept) for g, kept in zip(units.groups, units.counts, strict=True)}
    from lightning_dynprune.coupling import Narrowing

    run.apply()
    parameters = dict(run.plan.model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    change, is_certain = Narrowing(run.plan.model), False
    compare = None if example_input is None else _OutputComparison(run, example_input)
    try:
        with ranks.raise_together():
            stayed = change.narrow(units.groups, units.alive)
        if compare is not None:
            compare.check_unchanged(units.groups, units.alive)
        with ranks.raise_together():
            moves = {parameters[n]: KeptEntries(shapes[n], dims) for n, dims in stayed.items() if n in parameters}
            slots = NarrowedSlots(run.plan.optimizers, moves)
            smaller = [(i, t, stayed[t.name]) for i, t in enumerate(run.masks.targets) if t.name in stayed]
            masks = {position: run.masks.narrowed(position, dims) for position, _, dims in smaller}
            states = [(target, _narrowed_state(run.plan.strategy, target, dims)) for _, target, dims in smaller]
            groups = units.narrowed(stayed)

        def follow() -> None:
            nonlocal is_certain
            is_certain = True
            slots.assign()
            run.masks.narrow(masks)
            for target, state in states:
                target.state.update(state)
            units.regroup(groups)
            run.calibrator.forget()
            if stayed and run.journal is not None:
                run.journal.discard_positions(run.progress.clock.step, "pruned units are taken out of the model")

        finish([follow])
    except BaseException:
        if not is_certain:
            change.undo()
        raise
    return widths


class _OutputComparison:
    """The outputs of a run's model on an example, to be compared once its units are removed.

    Args:
        run: what is pruned.
        example_input: a tensor, a tuple of arguments or a mapping of keywords.
    """

    def __init__(self, run: PruningRun, example_input: Any) -> None:
        self._run, self._example = run, example_input
        self._problem, self._expected = "", self._outputs()

    def check_unchanged(self, groups: Sequence[Group], alive: Sequence[Tensor]) -> None:
        """Raise if the outputs are other ones now, in this process or another.

        Raises:
            SlimError: they are.
        """
        from lightning_dynprune.coupling import SlimError, output_difference, rounding_tolerance

        found = self._outputs()
        difference = output_difference(self._expected, found, groups, alive)
        if not self._problem and not difference <= rounding_tolerance(self._expected):
            self._problem = f"the outputs on the example would change by {difference:.3g} of their largest value"
        if self._run.ranks.sum(torch.tensor([bool(self._problem)], dtype=torch.int64)).item():
            raise SlimError(
                f"{self._problem or 'the outputs would change in another process'}; model, optimizer and masks are as "
                "they were, with the pruned units at zero"
            )

    def _outputs(self) -> list[Tensor]:
        """Return the outputs now; none, and note the problem, if the model does not run."""
        from lightning_dynprune.coupling import CouplingError, isolated, run_example

        try:
            with isolated(self._run.plan.model):
                return [tensor.clone() for tensor in nested_tensors(run_example(self._run.plan.model, self._example))]
        except CouplingError as error:
            cause = error.__cause__ or error
            self._problem = (
                f"the model does not run ({type(cause).__name__}: {cause}); where a kernel needs certain widths, "
                "round_to=8 of the pattern keeps them"
            )
            return []


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
