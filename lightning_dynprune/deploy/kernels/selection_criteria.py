"""Define the conditions for choosing a kernel, and how they are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lightning_dynprune.base import check_real, convert_settings
from lightning_dynprune.deploy.timing import Ratio, Rounds, time_interleaved


@dataclass(frozen=True)
class SelectionCriteria:
    """Conditions that a kernel must meet to replace a layer.

    Args:
        tolerance: largest difference from dense, relative to the largest value of the output.
        margin: how much faster than dense a layer must be: 0.05 means 1.05 times as fast.
        device: device of the model.
        captured: time inside captured CUDA graphs.

    Raises:
        ValueError: a setting is out of range, or ``captured`` is set for a device other than CUDA.
    """

    tolerance: float
    margin: float
    device: torch.device
    captured: bool = False

    def __post_init__(self) -> None:
        convert_settings(self)
        check_real("tolerance", self.tolerance, low=0.0)
        check_real("margin", self.margin, low=0.0)
        if self.captured and self.device.type != "cuda":
            raise ValueError(f"captured=True needs example_input on a CUDA device; it is on {self.device}")

    def is_faster(self, ratio: Ratio) -> bool:
        """Return whether a layer is faster by the margin in the median, and faster at all in three of four rounds."""
        return ratio.median >= 1 + self.margin and ratio.low > 1

    def is_no_slower(self, ratio: Ratio) -> bool:
        """Return whether a whole model is as fast in the median, and within the margin in three of four rounds."""
        return ratio.median >= 1 and ratio.low >= 1 - self.margin

    def prepare(self, call: Callable[[], object]) -> Callable[[], object]:
        """Return the call to time: unchanged, or the replay of a CUDA graph that captured it.

        Raises:
            RuntimeError: the call cannot be captured.
        """
        return _replay_of(call, self.device) if self.captured else call

    def measure(
        self, contenders: Mapping[str, Callable[[], object]], seconds: float = 1.0, rounds: int | None = None
    ) -> Rounds:
        """Time calls that :meth:`prepare` returned, in interleaved rounds."""
        return time_interleaved(contenders, seconds=seconds, rounds=rounds, device=self.device)


def format_ratio(ratio: Ratio) -> str:
    """Return a ratio with its quartiles, as messages print it.

    Example:
        >>> format_ratio(Ratio(2.0, 1.9, 2.25, 7))
        '2.00x dense (1.90-2.25)'
    """
    return f"{ratio.median:.2f}x dense ({ratio.low:.2f}-{ratio.high:.2f})"


def _replay_of(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Warm up on a side stream, which CUDA graph capture requires, then capture."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    return graph.replay
