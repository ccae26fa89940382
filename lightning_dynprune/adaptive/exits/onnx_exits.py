"""Write a network with early exits as one ONNX file a stage, and run the files with ONNX Runtime.

A single file cannot leave out a part of itself for some inputs of a batch, as ONNX's ``If`` takes one branch for all of
them. So each stage is a file, with the head of its exit inside, and a loop decides between two files who goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dynprune.adaptive.exits.running import Decision, ExitRunner, StagedRunner
from lightning_dynprune.adaptive.labelled import last_position
from lightning_dynprune.adaptive.stages import Kind, stage_inputs
from lightning_dynprune.deploy.exporting import Exported, ExportError, Onnx, export, quantize


class ExportedStage(nn.Module):
    """Computes what one file does: a stage from its tensors, and the answer at its exit where it has one.

    Args:
        stage: computes the values that cross the next cut, the features of its module first; the last stage computes
            the network's output.
        read: kinds of the values that the stage reads. A file passes on tensors alone, so the number of inputs is read
            from the shape of the first one.
        decision: of the exit; None for the last stage.
        passed: kinds of the values that cross the next cut.
    """

    def __init__(
        self, stage: nn.Module, read: Sequence[Kind], decision: Decision | None, passed: Sequence[Kind]
    ) -> None:
        super().__init__()
        self.stage, self.decision = stage, decision
        self.read, self.passed = tuple(read), tuple(passed)

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return class scores ``(n, classes)``; with an exit also confidences ``(n,)`` and the tensors that go on."""
        left = iter(tensors)
        values = self.stage(*(tensors[0].shape[0] if kind == "count" else next(left) for kind in self.read))
        if self.decision is None:
            scores: Tensor = last_position(values)
            return scores
        going = [value for value, kind in zip(values, self.passed, strict=True) if kind == "inputs"]
        return (*self.decision.judge(values[0]), *going)


@torch.no_grad()
def write_stages(runner: ExitRunner, example: Any, folder: Path, *, int8: bool) -> list[Exported]:
    """Write one ONNX file a stage, each compared with the stage in torch; return them in order.

    Args:
        runner: the network in stages, on the CPU.
        example: inputs of at least one sample.
        folder: that exists; the files are ``stage0.onnx`` and so on.
        int8: write weights of 8 bits too, as ``stage0.int8.onnx`` and so on, and return those.

    Raises:
        ExportError: a value that is the same for all inputs crosses a cut, or a stage cannot be written.
    """
    values, files = stage_inputs(example), []
    read: Sequence[Kind] = ["inputs"] * len(values)
    for number, stage in enumerate(runner.stages):
        is_last = number == len(runner.decisions)
        passed: Sequence[Kind] = () if is_last else runner.crossing[number]
        if "fixed" in passed:
            raise ExportError(
                f"exit {runner.numbers[number]}: a value that is the same for all inputs crosses the cut; files pass "
                "on tensors with a batch dimension alone; give after= other modules"
            )
        decision = None if is_last else runner.decisions[number]
        assert decision is None or isinstance(decision, Decision)
        module = ExportedStage(stage, read, decision, passed).eval()
        written = export(module, values, "onnx", folder / f"stage{number}.onnx")
        files.append(quantize(written) if int8 else written)
        if not is_last:
            values, read = tuple(module(*values)[2:]), passed
    return files


class OnnxExitRunner(StagedRunner):
    """Runs exported stages in ONNX Runtime, with as many threads as torch has when it is made.

    Args:
        paths: the files of the stages, in order.
        thresholds: least confidence that leaves, one a file except the last.
        numbers: number of each file's exit, and of the end.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """

    def __init__(self, paths: Sequence[Path], thresholds: Sequence[float], numbers: Sequence[int]) -> None:
        super().__init__([], thresholds, numbers)
        self._files = [Onnx().runner(path) for path in paths]

    def run_exit(self, number: int, values: Sequence[Any]) -> tuple[Tensor, Tensor, Sequence[Any]]:
        """Run a file on a batch."""
        scores, sure, *crossing = self._files[number](*values)
        return scores, sure, crossing

    def run_exit_alone(self, number: int, values: Sequence[Any]) -> tuple[Tensor, float, Sequence[Any]]:
        """Run a file on one input."""
        scores, sure, *crossing = self._files[number](*values)
        return scores, float(sure), crossing

    def run_end(self, values: Sequence[Any]) -> Tensor:
        """Run the last file."""
        return self._files[-1](*values)[0]

    def keep(self, number: int, values: Sequence[Any], kept: Tensor) -> Sequence[Any]:
        """Take inputs out of the values, which all have the batch as first dimension."""
        return [value.index_select(0, kept) for value in values]

    def run_none(self, inputs: Any) -> Tensor:
        """Return no scores, with the number of classes that one input of zeros has."""
        one = [value.new_zeros(1, *value.shape[1:]) for value in stage_inputs(inputs)]
        return (self.run_exit(0, one)[0] if self.thresholds else self.run_end(one))[:0]


class OnnxNetwork(nn.Module):
    """Runs one exported file in ONNX Runtime and returns its first output.

    Args:
        path: the file.

    Raises:
        ImportError: ONNX Runtime is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = Onnx().runner(path)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return class scores, ``(n, classes)``, or of a token model ``(n, positions, classes)``."""
        return self._file(*inputs)[0]
