"""A Hydra program of one's own that prunes: python train.py dynprune/strategy=rigl dynprune.sparsity=0.8."""

import hydra
import lightning as L
import torch
from omegaconf import DictConfig
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Digits(L.LightningModule):
    """A small network for the digits of scikit-learn."""

    def __init__(self, hidden: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), self.lr)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Train, and prune while training if the settings say so."""
    L.seed_everything(cfg.seed, verbose=False)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    callbacks = [hydra.utils.instantiate(cfg.dynprune)] if "dynprune" in cfg else []
    trainer = hydra.utils.instantiate(cfg.trainer, callbacks=callbacks)
    module = Digits(**cfg.model)
    trainer.fit(module, DataLoader(data, batch_size=64, shuffle=True))
    weights = [layer.weight for layer in module.layers if isinstance(layer, nn.Linear)]
    pruned = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    print(f"{100 * pruned:.1f} % of the weights are zero")


if __name__ == "__main__":
    main()
