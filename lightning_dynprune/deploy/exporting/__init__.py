"""Export models to other runtimes, and compare every exported file's outputs with the model's.

May import deploy.timing, deploy.compat, coupling and base.
"""

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
