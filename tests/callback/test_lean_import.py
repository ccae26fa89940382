"""The callback alone needs none of the libraries that only the program, tables and figures use."""

from __future__ import annotations

import subprocess
import sys

from tests.app.program import environment

WITHOUT = """
import sys
for name in ("sklearn", "pooch", "hydra", "omegaconf"):
    sys.modules[name] = None  # as if it were not installed
import lightning as L, torch
from torch.utils.data import DataLoader, TensorDataset
from lightning_dynprune import DynamicPruning

class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 4)
    def training_step(self, batch, index):
        return self.layer(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

pruning = DynamicPruning(sparsity=0.5)
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = L.Trainer(max_epochs=4, accelerator="cpu", callbacks=[pruning], **quiet)
trainer.fit(Net(), DataLoader(TensorDataset(torch.randn(64, 8)), batch_size=8))
# torchmetrics imports matplotlib where it is installed; this package does where a figure is drawn.
drawing = [name for name in sys.modules if name.startswith("lightning_dynprune.") and name.endswith("figure")]
print(pruning.sparsity, drawing)
"""


def test_a_network_is_pruned_without_them():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.stdout == "0.5 []\n", done.stderr
