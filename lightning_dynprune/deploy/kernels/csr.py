"""Compute single kept connections with torch's compressed sparse rows."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from lightning_dynprune.deploy.kernels.base import KERNELS, Kernel, UnsuitableLayerError, format_share

_MAX_KEPT = 2 / 3  # share of connections; the measured break-even lies at 0.3 to 0.5


@KERNELS.register("csr")
class CSR(Kernel):
    """``csr @ vector`` for one row of inputs, ``csr @ inputs.T`` for more.

    Indices are int32, which halves the memory traffic besides the values. ``F.linear(x, csr)`` computes the same,
    several times slower.

    Args:
        layer: the layer to replace.

    Raises:
        UnsuitableLayerError: more than two thirds of the connections are kept.

    Example:
        >>> layer = nn.Linear(8, 4)
        >>> _ = layer.weight.data[:, 2:].zero_()
        >>> kernel, x = CSR(layer), torch.randn(3, 8)
        >>> torch.allclose(kernel(x), layer(x), atol=1e-6)
        True
    """

    row_starts: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        kept = _kept(layer)
        self.register_buffer(
            "row_starts", torch.cat([kept.new_zeros(1, dtype=torch.int32), kept.sum(1).cumsum(0)]).int()
        )
        self.register_buffer("columns", kept.nonzero()[:, 1].int())
        self.register_buffer("values", layer.weight.detach()[kept])
        self._cached_csr: tuple[Tensor, Tensor] | None = None

    @classmethod
    def settings(cls, layer: nn.Linear) -> list[dict[str, int]]:
        """Return one empty set of settings.

        Raises:
            UnsuitableLayerError: more than two thirds of the connections are kept.
        """
        _kept(layer)
        return [{}]

    @property
    def label(self) -> str:
        """Name of the kernel."""
        return "csr"

    def compute(self, rows: Tensor) -> Tensor:
        """Return the outputs of all rows."""
        csr = self._csr()
        if len(rows) == 1:
            return self.with_bias(torch.mv(csr, rows.view(-1)).view(1, self.out_features))
        return self.with_bias((csr @ rows.t()).t().contiguous())

    def stored_weight(self) -> Tensor:
        """Return the layer's weight."""
        weight = self.values.new_zeros(self.out_features, self.in_features)
        rows = torch.arange(self.out_features, device=weight.device).repeat_interleave(self.row_starts.diff())
        weight[rows, self.columns.long()] = self.values
        return weight

    def _csr(self) -> Tensor:
        """Return the sparse matrix, rebuilt after the module was moved, copied or converted."""
        if self._cached_csr is None or self._cached_csr[0] is not self.values:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns that CSR is in beta
                size = (self.out_features, self.in_features)
                csr = torch.sparse_csr_tensor(
                    self.row_starts, self.columns, self.values, size=size, check_invariants=True
                )
            self._cached_csr = self.values, csr
        return self._cached_csr[1]

    def __getstate__(self) -> dict[str, object]:
        """Leave the sparse matrix out, because torch cannot copy it."""
        return {**self.__dict__, "_cached_csr": None}


def _kept(layer: nn.Linear) -> Tensor:
    kept = layer.weight.detach() != 0
    if kept.sum() > _MAX_KEPT * kept.numel():
        raise UnsuitableLayerError(f"{format_share(kept.sum(), kept.numel())} of the connections are kept")
    return kept
