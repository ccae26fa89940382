"""Models as files for other runtimes, each compared with the model it was made from."""

from lightning_dynprune.deploy.export.base import FORMATS, ExportError, Format, Runner
from lightning_dynprune.deploy.export.executorch import ExecuTorch
from lightning_dynprune.deploy.export.exported import Exported
from lightning_dynprune.deploy.export.litert import LiteRT
from lightning_dynprune.deploy.export.onnx import Onnx
from lightning_dynprune.deploy.export.openvino import OpenVINO
from lightning_dynprune.deploy.export.pt2 import Pt2
from lightning_dynprune.deploy.export.quantize import quantize
from lightning_dynprune.deploy.export.write import export

__all__ = [
    "FORMATS",
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
