"""The engine: targets, masks and a clock, and the one loop from scores to masks."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_dynprune.checks import check_share
from lightning_dynprune.journal import Update
from lightning_dynprune.masks import MaskSet
from lightning_dynprune.optimizer import slots
from lightning_dynprune.patterns import PATTERNS, Pattern
from lightning_dynprune.schedules import Clock, Horizon, Schedule
from lightning_dynprune.schedules.settings import resolved, settled
from lightning_dynprune.schedules.sparsity import sparsity_schedule
from lightning_dynprune.scores import Scores, require_finite
from lightning_dynprune.scoring import pieces_of, scores_of
from lightning_dynprune.selection import Cut
from lightning_dynprune.strategies import STRATEGIES, Strategy
from lightning_dynprune.targets import Selector, Target, Targets, find_targets
from lightning_dynprune.thresholds import THRESHOLDS, Threshold

_VERSION = 1

_active: weakref.WeakSet[Pruner] = weakref.WeakSet()


class Pruner:
    """Prunes a model while a plain PyTorch loop trains it.

    Call :meth:`tick` after every optimizer step, and :meth:`end_epoch` after the last step of an epoch where updates
    are placed on epochs. Parameters are never wrapped or renamed: after each tick pruned entries are exactly +0.0.

    Args:
        model: the network.
        optimizer: the optimizer or optimizers that train it, so that their slots are cleared at pruned entries; needed
            by strategies that watch gradients.
        sparsity: share of connections to end at, in [0, 1); None where the schedule or the targets give it.
        strategy: what a connection is worth: a registered name, a mapping (``name`` and settings) or an instance.
        threshold: where the cut falls, likewise.
        schedule: when to update and how sparse to be by then, likewise.
        pattern: what is kept or pruned together, likewise.
        targets: which parameters are pruned; see :func:`~lightning_dynprune.targets.find_targets`.
        exclude: globs and types never pruned.
        min_kept: connections that every target keeps, at least.
        seed: of random strategies.
        total_steps: optimizer steps of the whole training, for moments given as a share of it.
        steps_per_epoch: optimizer steps of an epoch, for moments given in epochs.
        epochs: epochs of the whole training.
        watch: call :meth:`observe` before every optimizer step, for strategies that accumulate; False where the caller
            does so itself.

    Raises:
        TypeError: a setting of the wrong kind.
        ValueError: a setting that cannot work; a parameter that another pruner prunes already.

    Attributes:
        targets: the parameters that are pruned.
        masks: their masks.
        clock: optimizer steps and epochs so far.
        updates: how often the masks were updated.
        scheduled_sparsity: what the schedule asked for at the last update.

    Example:
        >>> net = nn.Linear(10, 10)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> pruner = Pruner(net, optimizer, sparsity=0.9, total_steps=4)
        >>> for _ in range(4):
        ...     optimizer.zero_grad()
        ...     net(torch.randn(8, 10)).square().mean().backward()
        ...     optimizer.step()
        ...     _ = pruner.tick()
        >>> pruner.sparsity, int((net.weight == 0).sum())
        (0.9, 90)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        sparsity: float | None = None,
        strategy: str | Mapping[str, Any] | Strategy = "magnitude",
        threshold: str | Mapping[str, Any] | Threshold = "topk",
        schedule: str | Mapping[str, Any] | Schedule = "cubic",
        pattern: str | Mapping[str, Any] | Pattern = "element",
        targets: Targets = None,
        exclude: Selector | Sequence[Selector] = (),
        min_kept: int = 1,
        seed: int = 0,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
        watch: bool = True,
    ) -> None:
        horizon = Horizon(total_steps, steps_per_epoch, epochs)
        self.targets = find_targets(model, targets, exclude, min_kept)
        self._refuse_two_owners()
        self.strategy = resolved(STRATEGIES.build(strategy), horizon)
        self.threshold = resolved(THRESHOLDS.build(threshold), horizon)
        self.pattern = PATTERNS.build(pattern)
        self.schedule = sparsity_schedule(schedule, self.threshold.planned(self.targets, sparsity)).resolve(horizon)
        self.optimizers = _as_list(optimizer)
        if self.strategy.needs_gradients and not self.optimizers:
            raise ValueError(
                f"strategy={type(self.strategy).__name__} watches gradients, so it needs the optimizer; "
                "give it as Pruner(model, optimizer)"
            )
        self.seed = seed
        self.clock = Clock()
        self.updates = 0
        self.scheduled_sparsity = self.schedule.initial
        self.masks = MaskSet(self.targets)
        for target in self.targets:
            target.state = self.strategy.init_state(target)
        self._at_floor: set[str] = set()
        self._hooks = []
        if watch and self.strategy.accumulates:
            # The first optimizer stands for all of them, so that a step is observed once.
            self._hooks.append(self.optimizers[0].register_step_pre_hook(lambda *_: self.observe()))
        _active.add(self)

    @property
    def sparsity(self) -> float:
        """Share of connections pruned, over the targets."""
        return self.masks.sparsity

    @property
    def target_sparsity(self) -> float:
        """Share of connections to end at."""
        return self.schedule.final

    @property
    def layer_sparsity(self) -> dict[str, float]:
        """Share of connections pruned, by target."""
        return {
            t.name: (t.numel - kept) / t.numel if t.numel else 0.0
            for t, kept in zip(self.targets, self.masks.kept, strict=True)
        }

    def tick(self) -> Update | None:
        """Count one optimizer step; update the masks if that is due, and set pruned entries to zero.

        Returns:
            The update, or None where none was due.

        Raises:
            NonFiniteError: at an update, a score or weight is not finite; masks and weights are as they were.
        """
        self.clock.step += 1
        if self.schedule.is_due(self.clock, "steps"):
            return self.update()
        self.masks.apply()
        return None

    def end_epoch(self) -> Update | None:
        """Count one epoch, after its last step; update the masks if that is due.

        Returns:
            The update, or None where none was due.

        Raises:
            NonFiniteError: at an update, a score or weight is not finite; masks and weights are as they were.
        """
        self.clock.epoch += 1
        return self.update() if self.schedule.is_due(self.clock, "epochs") else None

    @torch.no_grad()
    def observe(self) -> None:
        """Let the strategy take note of the gradients; after the backward pass, before the optimizer steps."""
        for position, target in enumerate(self.targets):
            view = target.view(self.masks.tensors[position], self._seed(target))
            if not self.strategy.elementwise:
                self.strategy.observe(view)
                continue
            flat = view.flat()
            for start, stop in pieces_of(target):
                self.strategy.observe(flat.piece(start, stop))

    @torch.no_grad()
    def update(self, sparsity: float | None = None) -> Update:
        """Score, cut and apply, now.

        Args:
            sparsity: the share to have pruned; by default what the schedule asks for now.

        Raises:
            NonFiniteError: a score or weight is not finite; masks and weights are as they were.
        """
        asked = self.schedule.value(self.clock) if sparsity is None else check_share("sparsity", sparsity)
        strategy, threshold = settled(self.strategy, self.clock), settled(self.threshold, self.clock)
        for target in self.targets:
            require_finite(target.parameter, f"weights of {target.name}")
        scores = [self._scores(strategy, position) for position in range(len(self.targets))]
        try:
            cuts = threshold.cut(scores, asked)
        except BaseException:
            self.masks.discard_drafts()
            raise
        # Nothing can fail from here on, so masks and weights change together or not at all.
        before = list(self.masks.kept)
        changes = {}
        for position, target in enumerate(self.targets):
            keeps = self._keeps(position, cuts[position], scores[position])
            kept = cuts[position].kept if self.pattern.elementwise else None
            changes[target.name] = self.masks.write(position, keeps, kept)
            for slot in slots(self.optimizers, target.parameter):
                self.masks.clear(position, slot)
        self.masks.apply()
        self.updates += 1
        self.scheduled_sparsity = asked
        self._name_floors(before)
        dropped = {name: change[0] for name, change in changes.items()}
        grown = {name: change[1] for name, change in changes.items()}
        churn = (sum(dropped.values()) + sum(grown.values())) / self.masks.total
        return Update(self.clock.step, asked, self.sparsity, dropped, grown, churn)

    def close(self) -> None:
        """Let go of the model: another pruner may take over its parameters."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        _active.discard(self)

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to resume from: tensors and plain values; masks as bits."""
        return {
            "version": _VERSION,
            "clock": dataclasses.asdict(self.clock),
            "updates": self.updates,
            "scheduled_sparsity": self.scheduled_sparsity,
            "seed": self.seed,
            "shapes": {t.name: list(t.parameter.shape) for t in self.targets},
            "masks": self.masks.pack(),
            "state": {t.name: dict(t.state) for t in self.targets},
            "at_floor": sorted(self._at_floor),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`; everything is checked before anything is changed.

        Raises:
            ValueError: the state is of another version, of other targets or shapes, or of another strategy.
        """
        if state.get("version") != _VERSION:
            raise ValueError(
                f"checkpoint: pruning state of version {state.get('version')!r} cannot be read; expected {_VERSION}"
            )
        self._refuse_other_targets({name: tuple(shape) for name, shape in state["shapes"].items()})
        for target in self.targets:
            kept_keys, own_keys = set(state["state"][target.name]), set(target.state)
            if kept_keys != own_keys:
                raise ValueError(
                    f"checkpoint: strategy state of {target.name} is {sorted(kept_keys)}, but strategy "
                    f"{type(self.strategy).__name__} keeps {sorted(own_keys)}; resume with the strategy of that run"
                )
        self.masks.unpack(state["masks"])
        for target in self.targets:
            for key, value in state["state"][target.name].items():
                target.state[key].copy_(value)
        self.clock = Clock(**state["clock"])
        self.updates, self.seed = state["updates"], state["seed"]
        self.scheduled_sparsity = state["scheduled_sparsity"]
        self._at_floor = set(state["at_floor"])
        self.masks.apply()

    def _refuse_two_owners(self) -> None:
        mine = {target.parameter for target in self.targets}
        for other in _active:
            for target in other.targets:
                if target.parameter in mine:
                    raise ValueError(
                        f"{target.name} is pruned by another pruner already; give the two disjoint targets, or call "
                        "close() on the other one first"
                    )

    def _refuse_other_targets(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        own = {t.name: tuple(t.parameter.shape) for t in self.targets}
        if shapes == own:
            return
        differing = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
        name = differing[0]
        raise ValueError(
            f"checkpoint: it was made for other targets; {name} is {shapes.get(name, 'no target')} there and "
            f"{own.get(name, 'no target')} here ({len(differing)} differ). Resume with the targets of that run"
        )

    def _seed(self, target: Target) -> int:
        """Return a number of 62 bits for this run, update and target, the same on every rank and machine."""
        text = f"{self.seed}/{self.updates}/{target.name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 2

    def _scores(self, strategy: Strategy, position: int) -> Scores:
        target, masks = self.targets[position], self.masks
        mask, kept, draft = masks.tensors[position], masks.kept[position], masks.draft(position)
        return scores_of(target, strategy, self.pattern, mask, kept, draft, self._seed(target))

    def _keeps(self, position: int, cut: Cut, scores: Scores) -> Iterator[Tensor]:
        keeps = cut.keeps(scores)
        if self.pattern.elementwise:
            return keeps
        target = self.targets[position]
        return iter([self.pattern.expand(target, torch.cat(list(keeps))).reshape(-1)])

    def _name_floors(self, before: Sequence[int]) -> None:
        """Say once, by name, which targets came down to ``min_kept``."""
        for target, was, kept in zip(self.targets, before, self.masks.kept, strict=True):
            if was > kept <= min(target.min_kept, target.numel) and target.name not in self._at_floor:
                self._at_floor.add(target.name)
                warnings.warn(
                    f"{target.name} is down to min_kept={target.min_kept} of its {target.numel} connections and is "
                    "pruned no further",
                    stacklevel=3,
                )


def _as_list(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    if optimizer is None:
        return []
    return [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
