"""Adapt a trained network to its inputs, run it so, and take everything out again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.base import METHODS, PREFIX, AdaptiveMethod, AdaptiveModule, Batches, read_description
from lightning_dynprune.adaptive.deployment import Deployed, deploy
from lightning_dynprune.adaptive.evaluation import Evaluation, evaluate
from lightning_dynprune.adaptive.exits import export_exits
from lightning_dynprune.adaptive.forward_cut import batch_of
from lightning_dynprune.adaptive.labelled import device_of, first_inputs
from lightning_dynprune.base import map_tensors, stores_entries
from lightning_dynprune.coupling import isolated
from lightning_dynprune.distributed import Ranks

Model = TypeVar("Model", bound=nn.Module)
_EXAMPLES = 256  # held-out inputs that are kept for measuring; fewer, and rare late exits are missed


class Adapted:
    """A network with the module of a method: runs it per input, sets its budget, measures and evaluates it.

    Called with inputs it returns their class scores, ``(n, classes)``, and computes only what each input needs. The
    model's own forward still computes everything.

    Args:
        model: the network, with a method's module under the name ``adaptive``.
        example: inputs like those in use; None: the first call's are taken to check the stages.

    Attributes:
        model: as given.

    Raises:
        ValueError: the model has no such module.
    """

    def __init__(self, model: nn.Module, example: Any = None) -> None:
        self.model, self.example = model, example
        self._runner: nn.Module | None = None
        if not isinstance(getattr(model, PREFIX, None), AdaptiveModule):
            raise ValueError(f"{type(model).__name__} has no module {PREFIX!r} of a method; call adapt or attach first")

    @property
    def module(self) -> AdaptiveModule:
        """The module that the method added: its parameters and thresholds."""
        module = getattr(self.model, PREFIX, None)
        if not isinstance(module, AdaptiveModule):
            raise ValueError(f"the module {PREFIX!r} was taken out of {type(self.model).__name__}; adapt it again")
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores of inputs; each input costs only what it needs.

        Raises:
            ValueError: the model is in training mode.
        """
        inputs = kwargs or args
        runner = self.runner(inputs)
        scores: Tensor = runner(*args, **kwargs)
        return scores

    def runner(self, inputs: Any = None) -> nn.Module:
        """Return the module that runs the network per input, with ``exits`` of the last call.

        Args:
            inputs: to check it on, where no example is known.

        Raises:
            ValueError: the model is in training mode, or there is neither an example nor an input.
        """
        if self.model.training:
            raise ValueError("the model is in training mode, where batch norms and dropout mix inputs; call eval()")
        if self._runner is None:
            example = self.example if self.example is not None else inputs
            if example is None or not batch_of(example):
                raise ValueError("no example input is known; give one that is not empty")
            example = map_tensors(lambda tensor: tensor[:3].to(device_of(self.model)), example)
            with isolated(self.model), torch.no_grad():
                self._runner = self.module.runner(self.model, example)
        return self._runner

    def budget(self, share: float) -> Adapted:
        """Set the mean multiply-adds of inputs like the held-out ones, as a share of the dense network's.

        Args:
            share: in (0, 1]; it is met to 2 % on the held-out inputs, where their confidences allow it.

        Returns:
            This object.

        Raises:
            ValueError: the share is out of range or out of reach; the message says what is reachable.
        """
        self.module.budget(share)
        self._runner = None
        return self

    def evaluate(self, batches: Batches) -> Evaluation:
        """Return accuracy and compute over labelled inputs, beside those of the dense network.

        Args:
            batches: pairs of inputs and labels.

        Raises:
            ValueError: there are no inputs.
        """
        with isolated(self.model):
            return evaluate(self.model, self.module, batches)

    def deploy(self, example: Any = None, *, batches: tuple[int, ...] = (1, 32), seconds: float = 4.0) -> Deployed:
        """Return a copy for inference that runs per input at those batch sizes where that is measured to be faster.

        Args:
            example: many inputs like those in use, since the time depends on how many of them are easy; None: up to 256
                held-out ones.
            batches: batch sizes to measure.
            seconds: approximate duration of the measurement at each batch size.

        Raises:
            ValueError: there is no example, or a setting is out of range.
        """
        return deploy(self.model, self.module, self._inputs(example), batches, seconds)

    def export(
        self,
        folder: str | Path,
        example: Any = None,
        *,
        batches: tuple[int, ...] = (1, 32),
        seconds: float = 4.0,
        precision: str = "float32",
    ) -> Deployed:
        """Write a network with early exits for ONNX Runtime, one file a stage, and return it, running there.

        It runs by its exits at those batch sizes where that is measured to be faster than the whole network in ONNX
        Runtime. :func:`~lightning_dynprune.adaptive.read_exits` reads the folder in another program.

        Args:
            folder: that does not exist, or is empty.
            example: many inputs like those in use, positional arguments; None: up to 256 held-out ones.
            batches: batch sizes to measure.
            seconds: approximate duration of the measurement at each batch size.
            precision: ``float32``, or ``int8`` for weights of 8 bits, which changes scores and so some exits: evaluate
                what is returned.

        Raises:
            ExportError: the network cannot be split into stages, or a stage cannot be written.
            FileExistsError: the folder holds files.
            ValueError: there is no example, a setting is out of range, or the method is not early exits.
            ImportError: the packages of ``lightning-dynprune[export]`` are not installed.
        """
        return export_exits(self.model, self.module, self._inputs(example), Path(folder), batches, seconds, precision)

    def _inputs(self, example: Any) -> Any:
        """Return the inputs to measure on: those given, or the held-out ones that are known."""
        example = self.example if example is None else example
        if example is None or not batch_of(example):
            raise ValueError(
                "example: none was given and no held-out inputs are known; give many inputs like those in use"
            )
        return example

    def strip(self) -> nn.Module:
        """Take the method's module out of the model and return the model, as it was before."""
        return strip(self.model)


def adapt(
    model: nn.Module,
    method: str | Mapping[str, Any] | AdaptiveMethod,
    train: Batches,
    held_out: Batches,
    *,
    ranks: Ranks | None = None,
    **settings: Any,
) -> Adapted:
    """Fit a method to a trained network and add it as the module ``adaptive``.

    The parameters, buffers, modes and outputs of the network stay as they are.

    Args:
        model: the trained network; called with inputs, it returns class scores.
        method: name of the method, a mapping with its settings, or an instance.
        train: pairs of inputs and labels to fit on, as a data loader returns them; read once or twice.
        held_out: pairs that the network was not trained on, from which thresholds are chosen.
        ranks: processes that each hold a part of the batches; None: this process alone.
        **settings: of the method, with ``method`` as a name.

    Returns:
        The adapted network.

    Raises:
        ValueError: a setting cannot work with this model, or there are no inputs.
        TypeError: batches are no pairs of inputs and class indices.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(64, 8)
        >>> y = (x[:, 0] > 0).long()
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> adapted = adapt(net.eval(), "early_exit", [(x, y)], [(x, y)], after=["1"], hidden=4, max_drop=0.5)
        >>> adapted(x).shape
        torch.Size([64, 2])
        >>> [key for key in net.state_dict() if "adaptive" in key][-1]
        'adaptive.heads.0.output.bias'
        >>> any("adaptive" in key for key in strip(net).state_dict())
        False
    """
    built = METHODS.build({"name": method, **settings} if isinstance(method, str) else method)
    check_free(model)
    device = device_of(model)
    example = first_inputs(train, device, "train")
    kept = first_inputs(held_out, device, "held_out", _EXAMPLES)
    with isolated(model):
        built.check(model, example)
        module = built.adapt(model, train, held_out, ranks or Ranks.single())
    place(model, module)
    return Adapted(model, kept)


def place(model: nn.Module, module: AdaptiveModule) -> None:
    """Add a method's module to a model, in place of an earlier one; its parameters are not trained any more."""
    strip(model)
    module.requires_grad_(False)
    setattr(model, PREFIX, module)
    module.train(model.training)
    module.added_to(model)


def attach(model: nn.Module, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Add the module that a state dict describes to a model, so that the state dict can be loaded into it.

    Args:
        model: the network without the module, or with another one.
        state: a state dict that holds ``adaptive.*``, and may hold more.
        prefix: of the model's keys in the state dict.

    Raises:
        ValueError: the state dict holds no such module, or is damaged.

    Example:
        >>> x, y = torch.randn(8, 4), torch.randint(2, (8,))
        >>> def new():
        ...     return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> saved = adapt(new(), "early_exit", [(x, y)], [(x, y)], after=["1"], hidden=4).model.state_dict()
        >>> net = new()
        >>> attach(net, saved)
        >>> net.load_state_dict(saved)
        <All keys matched successfully>
    """
    start = f"{prefix}{PREFIX}."
    own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if "description" not in own:
        raise ValueError(f"the state dict holds no {start}description; it was saved before the model was adapted")
    for key, value in own.items():
        # An expanded or sparse tensor claims more entries than its file holds, and a copy of it would have them.
        if not isinstance(value, Tensor) or not stores_entries(value):
            raise ValueError(f"the state dict is damaged: {start + key!r} is no tensor that stores all its entries")
    description = read_description(own["description"])
    module = METHODS[description["method"]].build(description, own, model).to(device_of(model))
    place(model, module)


def strip(model: Model) -> Model:
    """Take a method's module out of a model, in place, and return the model as it was before.

    Args:
        model: with or without such a module.
    """
    module = getattr(model, PREFIX, None)
    if isinstance(module, AdaptiveModule):
        delattr(model, PREFIX)
        module.removed_from(model)
    return model


def check_free(model: nn.Module) -> None:
    """Raise if a model has something else of its own under the name of a method's module.

    Raises:
        ValueError: naming it.
    """
    found = getattr(model, PREFIX, None)
    if found is not None and not isinstance(found, AdaptiveModule):
        raise ValueError(
            f"{type(model).__name__}.{PREFIX} is a {type(found).__name__} of the model's own; rename it, as the "
            "method's module goes by that name"
        )
