"""Models as files for other runtimes, each compared with the model it was made from."""

from lightning_dynprune.deploy.exporting.base import FORMATS, ExportError, Format, Runner
from lightning_dynprune.deploy.exporting.example import Example
from lightning_dynprune.deploy.exporting.executorch import ExecuTorch
from lightning_dynprune.deploy.exporting.exported import Exported
from lightning_dynprune.deploy.exporting.exporter import export
from lightning_dynprune.deploy.exporting.litert import LiteRT
from lightning_dynprune.deploy.exporting.onnx import Onnx
from lightning_dynprune.deploy.exporting.openvino import OpenVINO
from lightning_dynprune.deploy.exporting.pt2 import Pt2
from lightning_dynprune.deploy.exporting.quantization import quantize

__all__ = [
    "FORMATS",
    "Example",
    "ExecuTorch",
    "ExportError",
    "Exported",
    "Format",
    "LiteRT",
    "Onnx",
    "OpenVINO",
    "Pt2",
    "Runner",
    "export",
    "quantize",
]
