"""Per-input pruning of a run: the callback made from the configuration, its check, its figures and its picture."""

from __future__ import annotations

import math
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from lightning_dynprune import InputAdaptivePruning
from lightning_dynprune.adaptive import PREFIX, AdaptiveMethod
from lightning_dynprune.app.data import InMemoryImages
from lightning_dynprune.app.runs import RunFolder
from lightning_dynprune.app.tasks.training_phase import new_classifier
from lightning_dynprune.coupling import isolated
from lightning_dynprune.deploy.compact import write_dense
from lightning_dynprune.report import draw_compute_per_input

_NETWORK = "network"  # the attribute of the LightningModule
_EXAMPLES = 8  # training samples on which a method is checked
_SHOWN = 8  # images of the cheapest, and of the dearest
_BATCH = 500


def new_adaptive(cfg: DictConfig, data: InMemoryImages) -> InputAdaptivePruning | None:
    """Return the callback that ``adaptive=`` describes, after checking it on an untrained network; None for ``none``.

    Args:
        cfg: the settings.
        data: the image set.

    Raises:
        ValueError: a setting cannot work with this network; the message names it.
        TypeError: a setting has the wrong type.
    """
    method = instantiate(cfg.adaptive, _convert_="all") or None
    if method is None:
        return None
    if not isinstance(method, AdaptiveMethod):
        raise TypeError(f"adaptive: {type(method).__name__} is no AdaptiveMethod of lightning_dynprune.adaptive")
    example = data.train_dataloader().images[:_EXAMPLES]
    network = new_classifier(cfg).network
    with isolated(network):
        method.check(network, example)
    return InputAdaptivePruning(method, network=_NETWORK, example_input=example)


def adaptive_figures(
    adaptive: InputAdaptivePruning | None, data: InMemoryImages, folder: RunFolder
) -> dict[str, Any] | None:
    """Return what a run's inputs cost on the test set; write the method's tensors and a picture of it.

    Args:
        adaptive: of the run, after its test; None: there is none.
        data: the image set.
        folder: the run's folder, for ``adaptive.safetensors`` and ``per_input.png``.
    """
    if adaptive is None:
        return None
    network, evaluation = adaptive.adapted.model, adaptive.evaluation
    assert evaluation is not None
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(f"{PREFIX}.")}
    compute = _compute_of(network, data.test.images)
    order = compute.argsort(stable=True)
    cheapest, dearest = (data.test.images[chosen] for chosen in (order[:_SHOWN], order[-_SHOWN:].flip(0)))
    draw_compute_per_input(compute, cheapest, dearest, folder.path / "per_input.png")
    figures = {name: None if math.isnan(value) else value for name, value in evaluation.figures().items()}
    return {
        "method": adaptive.method.label,
        "summary": adaptive.adapted.module.summary,
        "paths": list(evaluation.path_names),
        "figures": figures,
        "bytes": write_dense(own, folder.path / "adaptive.safetensors"),
    }


@torch.no_grad()
def _compute_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return the multiply-adds of each image as a share of the network's, float64."""
    module = getattr(network, PREFIX)
    with isolated(network):
        return torch.cat([module.outcome(network, part).compute for part in torch.split(images, _BATCH)])
