"""Export to torch's own archive of a traced program."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from lightning_dynprune.base import nested_tensors, open_archive, parse_json
from lightning_dynprune.deploy.compat import without_example_inputs
from lightning_dynprune.deploy.exporting.base import FORMATS, ExportError, Format, Runner

# Parts of an archive that holds only tensors and graphs; pickles, compiled code and unknown parts do not match.
_HARMLESS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|models/\w+\.json|data/weights/weight_\d+"
    r"|data/constants/tensor_\d+|data/(weights|constants)/\w+_config\.json)"
)
_SAMPLES = re.compile(r"[^/]+/data/sample_inputs/\w+\.pt")


@FORMATS.register("pt2")
@dataclass(frozen=True)
class Pt2(Format):
    """``.pt2`` files, written by ``torch.export.save`` and run by torch itself.

    ``torch.export.load`` unpickles parts of an archive (sample inputs, with ``weights_only=False`` as a last resort,
    tensor subclasses and custom objects) and loads compiled code. Therefore no such part is written, and an archive
    that has one is rejected. Older releases of torch write pickles only, so this format raises an error there.
    """

    name = "pt2"
    suffix = ".pt2"

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write a program without its sample inputs, which would be pickled."""
        # torch's own file writer ends the process where a disk is full, so the archive is made in memory.
        archive = io.BytesIO()
        with without_example_inputs(program):
            torch.export.save(program, archive)
        path.write_bytes(archive.getbuffer())
        validate_no_pickles(path)

    def runner(self, path: Path) -> Runner:
        """Return the program as a function."""
        validate_no_pickles(path)
        program = torch.export.load(path)
        spec, module = program.call_spec.in_spec, program.module()

        def run(*inputs: Tensor) -> list[Tensor]:
            args, kwargs = spec.unflatten(list(inputs))
            with torch.no_grad():
                return nested_tensors(module(*args, **kwargs))

        return run


def validate_no_pickles(path: Path) -> None:
    """Check that reading an archive unpickles and executes nothing.

    Raises:
        ExportError: the archive has a part that ``torch.export.load`` would unpickle or execute, or that is compressed
            or larger than the file, or torch and Python read different parts in it.
    """
    try:
        archive = open_archive(path)
    except zipfile.BadZipFile as error:
        raise ExportError(f"{path} is no archive that torch writes: {error}") from None
    with archive:
        for part in archive.infolist():
            if _SAMPLES.fullmatch(part.filename) and part.file_size == 0:
                continue
            if not _HARMLESS.fullmatch(part.filename):
                raise ExportError(
                    f"{path} has the part {part.filename!r}, which may be a pickle or code; it is not read"
                )
            if part.compress_type != zipfile.ZIP_STORED or part.file_size > path.stat().st_size:
                raise ExportError(f"{path} has the part {part.filename!r}, which is compressed or larger than the file")
            if part.filename.endswith("_config.json"):
                _validate_config(path, archive.read(part))


def _validate_config(path: Path, text: bytes) -> None:
    """Raise unless the list of an archive's tensors says of each that it is no pickle."""
    try:
        pickled = [name for name, tensor in parse_json(text)["config"].items() if tensor["use_pickle"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path} has a damaged list of tensors: {error}") from None
    if pickled:
        raise ExportError(f"{path} holds {pickled[0]!r} as a pickle; it is not read")
