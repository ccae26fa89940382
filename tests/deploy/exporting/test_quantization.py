"""The int8 rival is smaller, runs, and says how far it is from the float file."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_dynprune.deploy.exporting import export, quantize
from tests.deploy.exporting.models import MODELS, made

pytest.importorskip("onnxruntime")


def test_int8_weights_take_a_quarter_and_differ_a_little(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
    file = export(model, torch.randn(2, 256), "onnx", tmp_path / "m.onnx")
    rival = quantize(file)
    assert rival.path == tmp_path / "m.int8.onnx"
    assert rival.bytes == rival.path.stat().st_size < 0.3 * file.bytes
    x = torch.randn(50, 256)
    apart = (rival.runner()(x)[0] - model(x)).abs().max().item()
    assert 1e-4 < apart < 0.1
    assert 1e-4 < rival.max_difference < 0.1
    assert str(rival).startswith("onnx int8: m.int8.onnx, ")
    assert rival.latency(seconds=0.01).rounds >= 7
    assert file.runner()(x)[0].allclose(model(x), atol=1e-4)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_runs_as_int8(tmp_path, name):
    model, example = made(name)
    rival = quantize(export(model, example, "onnx", tmp_path / "m.onnx"), tmp_path / "rival.onnx")
    outputs = model.eval()(example)
    (found,) = rival.runner()(example)
    assert 0 < (found - outputs).abs().max() < 0.3 * (outputs.max() - outputs.min())


def test_convolutions_have_unsigned_weights_and_products_signed_ones(tmp_path):
    onnx = pytest.importorskip("onnx")
    model, example = made("convnet")
    rival = quantize(export(model, example, "onnx", tmp_path / "m.onnx"))
    graph = onnx.load(rival.path).graph
    kinds = {weight.name: weight.data_type for weight in graph.initializer}
    found = {node.op_type: kinds[node.input[1]] for node in graph.node if node.op_type.endswith("Integer")}
    assert found == {"ConvInteger": onnx.TensorProto.UINT8, "MatMulInteger": onnx.TensorProto.INT8}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.int8.onnx", "m.onnx"]


def test_other_formats_are_refused(tmp_path):
    model, example = made("mlp")
    file = export(model, example, "pt2", tmp_path / "m.pt2")
    with pytest.raises(ValueError, match="format='pt2' is not accepted; export to format='onnx'"):
        quantize(file)
