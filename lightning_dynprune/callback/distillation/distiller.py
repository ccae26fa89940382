"""Run a teacher beside the forward of a LightningModule, and add the distance of their outputs to its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial, wraps
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

from lightning_dynprune.base import name_some, state_checksum
from lightning_dynprune.callback.distillation.losses import divergence, relative_difference, tensor_of
from lightning_dynprune.callback.distillation.settings import DENSE, Distillation

_KEY = "teacher"
_STEP = "training_step"


class Distiller:
    """Distils during the fits of one callback; without settings it does nothing.

    For the length of a fit the module's ``training_step`` is wrapped, so that scaling, accumulation, clipping and DDP
    see one loss and one gradient.

    Args:
        settings: of the distillation; None: there is none.
    """

    def __init__(self, settings: Distillation | None) -> None:
        if settings is not None and not isinstance(settings, Distillation):
            raise TypeError(f"distill={settings!r} is not accepted; give a Distillation or None")
        self.settings = settings
        self._teacher: nn.Module | None = None
        self._checksum: int | None = None
        self._fit: _Fit | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_fit": None}

    def setup(self, module: LightningModule) -> None:
        """Copy the teacher before a checkpoint is loaded into the module.

        Args:
            module: in ``setup`` of a fit.
        """
        if self.settings is None or self._teacher is not None:
            return
        teacher = module if self.settings.teacher == DENSE else self.settings.teacher
        assert isinstance(teacher, nn.Module)
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self._checksum = state_checksum(dict(self._teacher.state_dict()))

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Wrap the module's ``training_step`` until :meth:`end`.

        Args:
            trainer: in ``on_fit_start``.
            module: is about to be trained.

        Raises:
            ValueError: the module steps its optimizers itself, or no module matches ``on``.
        """
        self.end()
        if self.settings is None or self._teacher is None:
            return
        if not module.automatic_optimization:
            raise ValueError(
                "distill does not go with automatic_optimization=False: it adds to the loss that training_step "
                "returns, and yours calls the backward pass itself; compare with a teacher in training_step"
            )
        teacher = trainer.precision_plugin.convert_module(self._teacher).to(module.device)
        self._fit = _Fit(self.settings, module, teacher, is_logged=not trainer.barebones)

    def end(self) -> None:
        """Give the module its own ``training_step`` back and remove all hooks."""
        if self._fit is not None:
            self._fit.remove()
            self._fit = None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: a checksum of the teacher."""
        return {} if self._checksum is None else {_KEY: self._checksum}

    def validate(self, state: Mapping[str, Any]) -> None:
        """Raise where a run continues with another teacher than it was begun with.

        Args:
            state: of the checkpoint.

        Raises:
            ValueError: the checkpoint names another teacher, or none.
        """
        saved = state.get(_KEY)
        if saved != self._checksum:
            had = "no teacher" if saved is None else "another teacher"
            raise ValueError(
                f"distill: the run of the checkpoint had {had}; resume with the same one, for teacher='dense' with a "
                "module that holds the weights that the run began with"
                if self.settings is not None
                else "checkpoint: its run was distilled, so it cannot be resumed without distill; give the same teacher"
            )


class _Fit:
    """The wrapped ``training_step`` of one fit, and the outputs captured in a step.

    Args:
        settings: of the distillation.
        module: is trained.
        teacher: on the module's device.
        is_logged: whether the distance is logged.
    """

    def __init__(self, settings: Distillation, module: LightningModule, teacher: nn.Module, is_logged: bool) -> None:
        self.settings, self.module, self.teacher, self.is_logged = settings, module, teacher, is_logged
        self._is_in_step, self._depth = False, 0
        self._root: str | None = None  # the network that the step calls, once it is known
        self._wanted: dict[str, list[Tensor]] = {}  # the teacher's outputs in the running call, by module
        self._distances: list[Tensor] = []
        self._names = self._captured_names()
        self._handles: list[RemovableHandle] = []
        for name, each in module.named_modules():
            has_parameters = next(each.parameters(), None) is not None
            if has_parameters and not isinstance(each, Metric):
                self._hook(name, each)
        self._own = vars(module).get(_STEP)
        self._step: Callable[..., Any] = module.training_step

        @wraps(self._step)
        def distilled_step(*args: Any, **kwargs: Any) -> Any:
            return self._distilled_step(*args, **kwargs)

        module.training_step = distilled_step  # type: ignore[method-assign]

    def remove(self) -> None:
        """Give the module its own method back, and remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._own is None:
            vars(self.module).pop(_STEP, None)
        else:
            self.module.training_step = self._own  # type: ignore[method-assign]

    def _captured_names(self) -> list[str]:
        names = [name for name, _ in self.module.named_modules() if name]
        for glob in self.settings.globs:
            if not any(fnmatchcase(name, glob) for name in names):
                raise ValueError(
                    f"distill: on={glob!r} matches none of the modules {name_some(names)}; give globs on these, or "
                    "'logits'"
                )
        return [name for name in names if any(fnmatchcase(name, glob) for glob in self.settings.globs)]

    def _hook(self, name: str, module: nn.Module) -> None:
        self._handles += [
            module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True),
            module.register_forward_hook(partial(self._leave, name), always_call=True),
        ]

    def _distilled_step(self, *args: Any, **kwargs: Any) -> Any:
        self._is_in_step, self._depth, self._distances = True, 0, []
        try:
            result = self._step(*args, **kwargs)
        finally:
            self._is_in_step = False
            distances, self._distances = self._distances, []
            self._wanted = {}
        if result is None:  # the step is skipped
            return None
        if not distances:
            what = name_some(self._names) if self._names else "a module with parameters"
            raise ValueError(
                f"distill: training_step has not run {what} with gradients, so there is no output to compare; call the "
                "network inside training_step"
            )
        distance = torch.stack(distances).mean()
        if self.is_logged:
            self.module.log("dynprune/distillation", distance.detach(), on_step=False, on_epoch=True)
        loss = result["loss"] if isinstance(result, Mapping) else result
        total = (1 - self.settings.alpha) * loss + self.settings.alpha * distance
        return {**result, "loss": total} if isinstance(result, Mapping) else total

    def _enter(self, name: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self._is_in_step or not torch.is_grad_enabled():
            return
        if self._depth == 0:
            self._begin_call(name, args, kwargs)
        self._depth += 1

    def _leave(self, name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if not self._is_in_step or not torch.is_grad_enabled() or not self._depth:
            return
        self._depth -= 1
        is_whole = self._depth == 0 and not self.settings.globs
        if output is None or not (is_whole or name in self._names):
            return
        wanted = self._wanted.get(name)
        if wanted:
            self._distances.append(self._distance(name, tensor_of(output, _shown(name)), wanted.pop(0)))

    def _begin_call(self, name: str, args: Any, kwargs: Any) -> None:
        """Run the teacher on the inputs of a call that no other module makes."""
        if not self.settings.globs and self._root not in (None, name):
            raise ValueError(
                f"distill: training_step calls {_shown(self._root)} and {_shown(name)} one after the other, so it is "
                "not known which output are the logits; call self(inputs), or name modules with on="
            )
        self._root = name
        counterpart = self._counterpart(name)
        names = {inner: inner.removeprefix(f"{name}.") if name else inner for inner in self._names}
        self._wanted = {}
        handles = []
        for inner, local in names.items():
            if inner == name or not inner.startswith(f"{name}." if name else ""):
                continue
            try:
                module = counterpart.get_submodule(local)
            except AttributeError:
                raise ValueError(f"distill: the teacher has no module {local!r}, which on= names") from None
            handles.append(module.register_forward_hook(partial(self._keep, inner)))
        try:
            with torch.no_grad():
                output = counterpart(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        self._keep(name, counterpart, args, output)

    def _keep(self, name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if name in self._names or not self.settings.globs:
            self._wanted.setdefault(name, []).append(tensor_of(output, f"the teacher's {_shown(name)}"))

    def _counterpart(self, name: str) -> nn.Module:
        """Return the teacher's part that does what a module of the student does."""
        if not name or not isinstance(self.teacher, LightningModule):
            return self.teacher
        try:
            return self.teacher.get_submodule(name)
        except AttributeError:
            raise ValueError(
                f"distill: the teacher has no module {name!r}, which training_step calls; give a teacher of the same "
                "structure, or the network itself"
            ) from None

    def _distance(self, name: str, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            raise ValueError(
                f"distill: {_shown(name)} returns the shape {tuple(student.shape)}, and the teacher's "
                f"{tuple(teacher.shape)}; give a teacher with the same outputs"
            )
        if self.settings.globs:
            return relative_difference(student, teacher)
        return divergence(student, teacher, self.settings.temperature)


def _shown(name: str | None) -> str:
    return f"module {name!r}" if name else "the module's forward"
