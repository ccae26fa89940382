"""torch's own archive of a traced program."""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree

from lightning_dynprune.base import nested_tensors
from lightning_dynprune.deploy.exporting.base import FORMATS, ExportError, Format, Runner

# What an archive of plain tensors consists of; pickles, compiled code and whatever else may come are not among it.
_HARMLESS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|models/\w+\.json|data/weights/weight_\d+"
    r"|data/constants/tensor_\d+|data/(weights|constants)/\w+_config\.json)"
)
_SAMPLES = re.compile(r"[^/]+/data/sample_inputs/\w+\.pt")


@FORMATS.register("pt2")
@dataclass(frozen=True)
class Pt2(Format):
    """``.pt2``, written by ``torch.export.save`` and run by torch itself.

    ``torch.export.load`` unpickles parts of an archive: sample inputs (at last with ``weights_only=False``), tensor
    subclasses, custom objects; and it loads compiled code. So no such part is written, and an archive that has one is
    not read. Older releases of torch write pickles alone, and so this format is refused there.
    """

    name = "pt2"
    suffix = ".pt2"

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write a program without its sample inputs, which would be a pickle."""
        samples = program._example_inputs
        program._example_inputs = None
        # By way of memory: where a disk is full, torch's own writer of files ends the process instead of raising.
        archive = io.BytesIO()
        try:
            torch.export.save(program, archive)
        finally:
            program._example_inputs = samples
        path.write_bytes(archive.getbuffer())
        validate_no_pickles(path)

    def runner(self, path: Path) -> Runner:
        """Return the program as a function."""
        validate_no_pickles(path)
        program = torch.export.load(path)
        spec, module = program.call_spec.in_spec, program.module()

        def run(*inputs: Tensor) -> list[Tensor]:
            args, kwargs = _pytree.tree_unflatten(list(inputs), spec)
            with torch.no_grad():
                return nested_tensors(module(*args, **kwargs))

        return run


def validate_no_pickles(path: Path) -> None:
    """Raise ExportError where an archive has a part that reading it would unpickle or execute."""
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if _SAMPLES.fullmatch(part.filename) and part.file_size == 0:
                continue
            if not _HARMLESS.fullmatch(part.filename):
                raise ExportError(f"{path} has the part {part.filename}, which may be a pickle or code; it is not read")
            if part.filename.endswith("_config.json"):
                for name, tensor in json.loads(archive.read(part))["config"].items():
                    if tensor["use_pickle"]:
                        raise ExportError(f"{path} holds {name} as a pickle; it is not read")
