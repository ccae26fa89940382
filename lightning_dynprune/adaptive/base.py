"""The base classes of methods that compute less for some inputs than for others, and of what they add to a model."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_dynprune.base import Registry, convert_settings, map_tensors, parse_json, stores_entries
from lightning_dynprune.distributed import Ranks

# The name under which a method's module hangs on the model, and so the prefix of its keys in the state dict.
PREFIX = "adaptive"

Batches = Iterable[Any]


@dataclass(frozen=True)
class Outcome:
    """The scores of a batch, and the path and the cost of each input.

    Args:
        scores: class scores, ``(n, classes)``.
        path: number of the way that each input takes through the network, int64 ``(n,)``; of early exits the number of
            the exit, from 0, and the end is last.
        compute: multiply-adds of each input as a share of the dense network's, float64 ``(n,)``, on the CPU.
        dense: class scores of the dense network, ``(n, classes)``.
        densities: share of the inputs, channels or the like of a layer that were computed with, by the layer's name,
            each ``(n,)``; empty for methods that use whole layers.
    """

    scores: Tensor
    path: Tensor
    compute: Tensor
    dense: Tensor
    densities: Mapping[str, Tensor] = field(default_factory=dict)


class AdaptiveModule(nn.Module, ABC):
    """Base class of the module that a method adds to a model under the name ``adaptive``.

    It holds the parameters of the method, such as heads, and its thresholds as buffers. The model's own forward does
    not use it: called inside an ``nn.Sequential`` it returns its input. Its buffer ``description`` holds the settings
    as JSON in bytes, so that :func:`~lightning_dynprune.adaptive.attach` can build it again from a state dict alone.

    Attributes:
        method: name of the method that made it.
        holds_targets: False, so that no pruner takes its parameters for targets.
    """

    method: ClassVar[str]
    holds_targets: ClassVar[bool] = False
    description: Tensor

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.register_buffer("description", _packed({"method": self.method, **description}))

    def forward(self, inputs: Any) -> Any:
        """Return the input, as the model's own forward does not use this module."""
        return inputs

    @abstractmethod
    def outcome(self, model: nn.Module, inputs: Any) -> Outcome:
        """Return what the adaptive network does with inputs, computed by one dense forward; it saves no time."""

    @abstractmethod
    def runner(self, model: nn.Module, example: Any) -> nn.Module:
        """Return a module that computes only what each input needs; its parameters are those of the model.

        Args:
            model: the network, in eval mode.
            example: inputs of at least one sample, on which the runner is checked.
        """

    def for_inference(self, example: Any) -> AdaptiveModule:
        """Return a form of this module that is faster at inference, such as with batch norms folded; by default itself.

        Args:
            example: inputs of at least one sample.
        """
        return self

    def fast_runner(self, model: nn.Module, example: Any, seconds: float) -> nn.Module:
        """Return the runner that is fastest on this machine; by default :meth:`runner`, without measuring.

        Args:
            model: the network in its fastest dense form, in eval mode.
            example: many inputs like those in use.
            seconds: approximate duration, where something is measured.
        """
        return self.runner(model, map_tensors(lambda tensor: tensor[:3], example))

    def dense_rival(self, dense: nn.Module, example: Any, seconds: float) -> nn.Module:
        """Return the dense network that the runner has to beat; by default the one given.

        Args:
            dense: the network in its fastest dense form.
            example: many inputs like those in use.
            seconds: approximate duration, where something is measured.
        """
        return dense

    # Empty by default, so that a method that changes nothing else in the model need not say so.
    def added_to(self, model: nn.Module) -> None:
        """Change what the method needs changed in a model that this module was added to; by default nothing."""

    def removed_from(self, model: nn.Module) -> None:
        """Undo :meth:`added_to`."""

    @abstractmethod
    def budget(self, share: float) -> None:
        """Set thresholds so that inputs like the held-out ones take a mean share of the dense multiply-adds."""

    @property
    @abstractmethod
    def path_names(self) -> tuple[str, ...]:
        """Names of the ways through the network, in the order of ``Outcome.path``."""

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers in ``Outcome.densities``; empty for methods that use whole layers."""
        return ()

    @property
    def summary(self) -> str:
        """One line about the module: what it was fitted to, and what that gives on the held-out inputs."""
        return self.method

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in ``description``."""
        return read_description(self.description)

    def joint_step(self, model: nn.Module, inputs: Any, labels: Tensor) -> AbstractContextManager[Callable[[], Tensor]]:
        """Return a context for one training step of the model, in which this module trains with it.

        The model runs inside the ``with`` block. The function that the block receives returns the loss to add to the
        model's own; it is called before the block ends. Only modules of :meth:`AdaptiveMethod.begin_joint` have it.

        Args:
            model: the network, in training mode.
            inputs: of the step's batch.
            labels: class indices.
        """
        raise NotImplementedError(f"{type(self).__name__} does not train with the model")


@dataclass
class AdaptiveMethod(ABC):
    """Base class of methods: a dataclass whose fields are the settings.

    A new method is one class with ``check``, ``adapt`` and ``build``, one :class:`AdaptiveModule`, and one file in
    ``conf/adaptive``.

    Attributes:
        label: the registered name.
    """

    label: ClassVar[str]

    def __post_init__(self) -> None:
        """Convert NumPy scalars among the settings to Python numbers.

        A subclass that checks its settings in ``__post_init__`` calls this first.
        """
        convert_settings(self)

    @property
    def is_joint(self) -> bool:
        """Whether the method's module trains with the model, from :meth:`begin_joint` on."""
        return False

    def begin_joint(self, model: nn.Module, example: Any) -> AdaptiveModule:
        """Return an untrained module that will train with the model; :meth:`adapt` calibrates it afterwards.

        Args:
            model: the network, in eval mode, with the module of an earlier training if there was one.
            example: inputs of at least one sample.
        """
        raise NotImplementedError(f"{type(self).__name__} does not train with the model")

    @abstractmethod
    def check(self, model: nn.Module, example: Any) -> None:
        """Raise if the method cannot work with this model; nothing is changed.

        Args:
            model: the network, in eval mode.
            example: inputs of at least one sample.

        Raises:
            ValueError: naming the setting or the module, and what is accepted.
        """

    @abstractmethod
    def adapt(self, model: nn.Module, train: Batches, held_out: Batches, ranks: Ranks) -> AdaptiveModule:
        """Return the method's module, fitted and calibrated; the model is not changed.

        Args:
            model: the network, in eval mode.
            train: pairs of inputs and labels to fit on.
            held_out: pairs of inputs and labels that the network was not trained on, to calibrate on.
            ranks: the processes, each of which passes its own part of the batches.
        """

    @classmethod
    @abstractmethod
    def build(cls, description: Mapping[str, Any], state: Mapping[str, Tensor], model: nn.Module) -> AdaptiveModule:
        """Return the module that a state dict describes, with its values.

        Args:
            description: the settings of the module.
            state: its tensors, by name.
            model: the network that the module is added to; it is not changed.
        """


METHODS: Registry[AdaptiveMethod] = Registry("method", AdaptiveMethod)


def _packed(description: Mapping[str, Any]) -> Tensor:
    """Return settings as JSON in bytes."""
    return torch.tensor(list(json.dumps(description, sort_keys=True).encode()), dtype=torch.uint8)


def read_description(packed: Tensor) -> dict[str, Any]:
    """Return the settings that a buffer ``description`` holds.

    Args:
        packed: JSON in bytes, uint8.

    Raises:
        ValueError: the bytes are no settings.
    """
    try:
        if packed.dtype != torch.uint8 or packed.dim() != 1 or not stores_entries(packed):
            raise ValueError(f"{packed.dtype} of shape {tuple(packed.shape)} holds no bytes")
        settings = parse_json(packed.cpu().contiguous().numpy().tobytes())
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{PREFIX}.description holds no settings of a method: {error}") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("method"), str):
        raise ValueError(f"{PREFIX}.description names no method; the state dict is damaged")
    return settings
