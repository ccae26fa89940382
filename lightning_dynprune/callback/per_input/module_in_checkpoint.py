"""The module of a method when weights with or without it are loaded into the network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_dynprune.adaptive import PREFIX, AdaptiveModule, attach, strip
from lightning_dynprune.callback.clipping import Handle

State = dict[str, Tensor]


class ModuleInCheckpoint:
    """Lets a network load state dicts that hold a method's module and state dicts that do not.

    In an evaluation the module comes with the weights that it was fitted to. In a fit it is left out, as it is fitted
    anew at the end, unless it trains with the network.
    """

    def __init__(self) -> None:
        self._handle: Handle | None = None

    def begin(self, network: nn.Module, *, is_fit: bool, is_joint: bool) -> None:
        """Watch a network for state dicts, in ``setup``.

        Args:
            network: with or without the module.
            is_fit: whether a fit begins, and no evaluation.
            is_joint: whether the module trains with the network.
        """
        self.end()
        load = _load_for_evaluation if not is_fit else _load_to_train if is_joint else _load_without
        hook: Callable[..., None] = lambda module, state, prefix, *_: load(module, state, prefix)  # noqa: E731
        self._handle = network.register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Watch it no longer."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _holds_module(state: State, prefix: str) -> bool:
    return f"{prefix}{PREFIX}.description" in state


def _load_for_evaluation(network: nn.Module, state: State, prefix: str) -> None:
    """Add the module that a state dict describes; take one out that was fitted to other weights."""
    if _holds_module(state, prefix):
        attach(network, state, prefix)
    elif isinstance(getattr(network, PREFIX, None), AdaptiveModule):
        strip(network)
        rank_zero_warn(
            f"the loaded weights hold no module {PREFIX!r}, and that of {type(network).__name__} was fitted to other "
            "weights, so it was taken out and the network runs dense. Checkpoints of a fit are saved before its heads "
            "are fitted: evaluate the weights that it ended with, save them by trainer.save_checkpoint after fit, or "
            "call lightning_dynprune.adaptive.adapt on the loaded network"
        )


def _load_without(network: nn.Module, state: State, prefix: str) -> None:
    """Leave a module out of the weights that a fit begins with."""
    if _holds_module(state, prefix):
        rank_zero_info(f"dynprune: the checkpoint holds a module {PREFIX!r}; it is fitted anew when this fit ends")
        for name in [name for name in state if name.startswith(f"{prefix}{PREFIX}.")]:
            del state[name]


def _load_to_train(network: nn.Module, state: State, prefix: str) -> None:
    """Let a module that trains with the network take buffers of another length, such as held-out confidences."""
    module = getattr(network, PREFIX)
    if not _holds_module(state, prefix):
        raise ValueError(
            f"the checkpoint holds no module {PREFIX!r}: it was not trained with fit='joint', so its training cannot "
            "be resumed with it. Load its weights alone (load_state_dict, strict=False) and fit without ckpt_path"
        )
    packed = state[f"{prefix}{PREFIX}.description"]
    if not torch.equal(packed.cpu(), module.description.cpu()):
        raise ValueError(
            f"the checkpoint holds a module {PREFIX!r} with other settings: {bytes(packed.tolist()).decode()}; the "
            f"callback's are {bytes(module.description.tolist()).decode()}. Give the settings that it was trained with"
        )
    for name, buffer in module.named_buffers():
        found = state.get(f"{prefix}{PREFIX}.{name}")
        if found is not None and found.shape != buffer.shape:
            owner, _, own = name.rpartition(".")
            setattr(module.get_submodule(owner), own, buffer.new_empty(found.shape))
