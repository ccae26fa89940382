"""Logged metrics of the pruning: sparsity, compression, churn and skipped steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_dynprune.callback.metric_inputs import compression_inputs, sparsity_inputs
from lightning_dynprune.engine import Pruner
from lightning_dynprune.metrics import CompressionRatio, LayerSparsity, Sparsity


class SparsityLogger:
    """Logs what an update did, through the LightningModule.

    Args:
        name: of the callback; None: it is the only one of its Trainer.
    """

    def __init__(self, name: str | None) -> None:
        self.prefix = "dynprune/" if name is None else f"dynprune/{name}/"
        self._logged_updates = -1
        self._sparsity, self._compression = Sparsity(), CompressionRatio()
        self._layer_sparsity: LayerSparsity | None = None

    def begin(self, pruner: Pruner, device: torch.device) -> None:
        """Start the metrics of a fit.

        Args:
            pruner: of the fit.
            device: of the module.
        """
        self._layer_sparsity = LayerSparsity([target.name for target in pruner.targets]).to(device)
        self._sparsity, self._compression = Sparsity().to(device), CompressionRatio().to(device)
        self.log_again()

    def log_again(self) -> None:
        """Log with the next batch even if there was no update, as Lightning drops logged values at an epoch's end."""
        self._logged_updates = -1

    def is_due(self, pruner: Pruner) -> bool:
        """Return whether the masks were updated since the last :meth:`log_update`."""
        return self._logged_updates != pruner.updates

    def log_update(
        self, module: LightningModule, pruner: Pruner, masks: Mapping[str, Tensor], removed: int = 0
    ) -> None:
        """Log sparsities and compression after an update.

        Lightning repeats a logged value until the epoch ends, so once an update is enough.

        Args:
            module: that is trained.
            pruner: of the fit.
            masks: by target, as they are in this process.
            removed: entries that slimming took out of the module's parameters.
        """
        self._logged_updates = pruner.updates
        sparsity, layers = self._sparsities(pruner, masks)
        shown = {"sparsity": sparsity, "target_sparsity": torch.tensor(pruner.scheduled_sparsity)}
        others = {f"layer/{name}": value for name, value in layers.items()}
        others["compression"] = self._compression_ratio(module, pruner, removed)
        others["churn"] = torch.tensor(0.0 if pruner.last_update is None else pruner.last_update.churn)
        with pruner.hold_errors():  # not before: the metrics above gather from all processes
            module.log_dict({self.prefix + k: v for k, v in shown.items()}, prog_bar=True, on_step=True, on_epoch=False)
            module.log_dict({self.prefix + k: v for k, v in others.items()}, on_step=True, on_epoch=False)

    def log_validation(self, module: LightningModule, sparsity: float) -> None:
        """Log the sparsity that the metrics of a validation were measured at."""
        # The same in all processes; sync_dist=True only avoids Lightning's warning that it might differ.
        module.log(f"{self.prefix}val_sparsity", sparsity, on_step=False, on_epoch=True, sync_dist=True)

    def log_skipped_steps(self, module: LightningModule, count: int) -> None:
        """Log how many optimizer steps a gradient scaler has skipped so far."""
        module.log(f"{self.prefix}skipped_steps", float(count), on_step=True, on_epoch=False)

    def _sparsities(self, pruner: Pruner, masks: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sparsity over all targets, and by target."""
        assert self._layer_sparsity is not None
        for metric in (self._sparsity, self._layer_sparsity):
            metric.reset()
            for counted in sparsity_inputs(pruner, masks):
                metric.update(counted)
        layers = {name: value.float() for name, value in self._layer_sparsity.compute().items()}
        return self._sparsity.compute().float(), layers

    def _compression_ratio(self, module: LightningModule, pruner: Pruner, removed: int) -> Tensor:
        self._compression.reset()
        for parameters in compression_inputs(module, pruner, removed):
            self._compression.update(parameters)
        ratio: Tensor = self._compression.compute()
        return ratio.float()
