"""A file is kept only if it computes what the model does, and the model comes back as it was."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_dynprune.deploy.exporting import FORMATS, ExportError, Pt2, export
from lightning_dynprune.deploy.exporting.pt2 import validate_no_pickles
from tests.deploy.exporting.models import made


@dataclass(frozen=True)
class Crooked(Pt2):
    """A runtime whose outputs are changed by a function."""

    bend: object = None

    def runner(self, path):
        run = super().runner(path)
        return lambda *inputs: self.bend(run(*inputs), *inputs)


def bent(bend) -> Crooked:
    return Crooked(bend=bend)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt2"


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (lambda outputs, _: [outputs[0] + 1e-3], "differ from the model's by 0.001, more than tolerance=0.0001"),
        (lambda outputs, _: [outputs[0] * float("nan")], "differ from the model's by inf"),
        (lambda outputs, _: [outputs[0].clone().fill_(float("inf"))], "differ from the model's by inf"),
        (lambda outputs, _: [], r"outputs have the shapes \[\]; the model's have \[\(1, 5\)\]"),
        (
            lambda outputs, _: [outputs[0][:, :4]],
            r"outputs have the shapes \[\(1, 4\)\]; the model's have \[\(1, 5\)\]",
        ),
        (lambda outputs, x: [outputs[0] + (x.shape[0] == 3)], "differ from the model's by 1,"),
        (lambda outputs, _: 1 / 0, r"running model\.pt2 failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_computes_something_else_is_refused_and_the_old_one_stays(path, bend, message):
    model, example = made("mlp")
    path.write_bytes(b"the old file")
    with pytest.raises(ExportError, match=message):
        export(model, example, bent(bend), path)
    assert path.read_bytes() == b"the old file"
    assert list(path.parent.iterdir()) == [path]


def test_the_tolerance_is_the_users(path):
    model, example = made("mlp")
    file = export(model, example, bent(lambda outputs, _: [outputs[0] + 1e-3]), path, tolerance=0.01)
    assert file.max_difference == pytest.approx(1e-3, rel=1e-3)
    assert "differs from the model by 0.001 at most, compared at batch 1, 3, 2" in str(file)


def test_further_inputs_are_compared_as_well(path):
    model, example = made("mlp")
    far = bent(lambda outputs, x: [outputs[0] + (x > 100).any()])
    assert export(model, example, far, path).max_difference == 0
    with pytest.raises(ExportError, match="differ from the model's by 1,"):
        export(model, example, far, path, inputs=[torch.full((5, 20), 101.0)])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_unchanged(path, training):
    model, example = made("convnet")
    model.train(training)
    model.norm2.eval()
    model.conv1.weight.requires_grad_(False)
    model(example).sum().backward()
    assert not model.conv2.weight.is_contiguous()

    def state():
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {
            "modes": [module.training for module in model.modules()],
            "tensors": [
                (name, id(t), t.data_ptr(), t.stride(), t.requires_grad, t._version) for name, t in tensors.items()
            ],
            "values": [t.detach().clone().contiguous().view(-1).view(torch.uint8).tolist() for t in tensors.values()],
            "grads": [(id(p.grad), None if p.grad is None else p.grad.flatten().tolist()) for p in model.parameters()],
            "random": torch.get_rng_state().tolist(),
            "grad enabled": torch.is_grad_enabled(),
        }

    before = state()
    export(model, example, "pt2", path)
    assert state() == before
    with pytest.raises(ExportError):
        export(model, example, bent(lambda outputs, _: []), path)
    assert state() == before


def test_dropout_and_norms_are_exported_in_eval_mode(path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.9)).train()
    x = torch.randn(8, 6)
    (found,) = export(model, x, "pt2", path).runner()(x)
    assert torch.equal(found, model.eval()(x))


class OneSize(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1) * 2


def test_a_model_of_one_batch_size_is_refused_as_dynamic_and_written_as_fixed(path):
    with pytest.raises(ExportError, match=r"the model cannot be traced: .*; give dynamic_batch=False"):
        export(OneSize(), torch.randn(2, 3), "pt2", path)
    assert not path.exists()
    assert export(OneSize(), torch.randn(2, 3), "pt2", path, dynamic_batch=False).batches == (2,)


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_a_model_that_cannot_be_traced_is_refused_in_words(path):
    with pytest.raises(ExportError, match="the model cannot be traced: "):
        export(Branching(), torch.ones(2, 3), "pt2", path, dynamic_batch=False)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"format": "tensorrt"},
            ValueError,
            "format='tensorrt' is unknown; known: executorch, litert, onnx, openvino, pt2",
        ),
        ({"format": 3}, TypeError, "format=3 is not accepted"),
        ({"tolerance": -1.0}, ValueError, "tolerance=-1.0 is not accepted"),
        ({"tolerance": float("nan")}, TypeError, "tolerance=nan is not a finite number"),
        ({"dynamic_batch": 1}, TypeError, "dynamic_batch=1 is not accepted; give true or false"),
        ({"path": "model.onnx"}, ValueError, r"path='.*model.onnx' is not accepted for format='pt2'; end it in .pt2"),
        ({"path": "missing/model.pt2"}, ValueError, "there is no folder .*missing"),
        ({"example_input": ()}, ValueError, "example_input is empty"),
        (
            {"example_input": (torch.zeros(2, 20), 3)},
            TypeError,
            "example_input: argument 1 is a int; give only tensors",
        ),
        (
            {"example_input": torch.zeros(0, 20)},
            ValueError,
            r"one batch of at least 1; the shapes of example_input are",
        ),
        (
            {"example_input": torch.tensor(1.0)},
            ValueError,
            r"the shapes of example_input are \[\(\)\]; give dynamic_batch",
        ),
        (
            {"example_input": (torch.zeros(2, 20), torch.zeros(3, 20))},
            ValueError,
            r"the shapes of example_input are \[\(2, 20\), \(3, 20\)\]; give dynamic_batch=False",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, changed, error, message):
    model, example = made("mlp")
    settings = {"example_input": example, "format": "pt2", "path": "model.pt2"} | changed
    with pytest.raises(error, match=message):
        export(model, **settings | {"path": tmp_path / settings["path"]})
    assert not list(tmp_path.iterdir())


def test_a_model_on_another_device_is_refused_by_name(path):
    with pytest.raises(ValueError, match=r"weight is on meta; exports are checked on the CPU, so give model.cpu\(\)"):
        export(nn.Linear(2, 2, device="meta"), torch.zeros(2, 2), "pt2", path)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("onnx", "onnxruntime", "export"),
        ("executorch", "executorch.exir", "export"),
        ("openvino", "openvino", "openvino"),
        ("litert", "litert_torch", "litert"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    model, example = made("mlp")
    with pytest.raises(ImportError, match=rf"format='{name}' needs {package}, .* 'lightning-dynprune\[{extra}\]'"):
        export(model, example, name, tmp_path / f"m{FORMATS[name].suffix}")
    assert not list(tmp_path.iterdir())


class Trap:
    """An object that would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def rewritten(path: Path, change) -> Path:
    """Write an archive anew with its parts as ``change`` returns them."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(parts).items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("config", "method", "message"),
    [
        (b"[" + b"[]," * 1_000_000 + b"0]", zipfile.ZIP_STORED, "a damaged list of tensors: it holds more values"),
        (b"[]", zipfile.ZIP_STORED, "a damaged list of tensors"),
        (bytes(2**20), zipfile.ZIP_DEFLATED, "which is compressed or larger than the file"),
    ],
)
def test_a_pt2_file_that_would_take_any_amount_of_memory_is_refused(config, method, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt2", "w", method) as archive:
        archive.writestr("x/data/weights/model_weights_config.json", config)
    with pytest.raises(ExportError, match=message):
        validate_no_pickles(tmp_path / "x.pt2")
    with (tmp_path / "x.pt2").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ExportError, match="is no archive that torch writes"):
        validate_no_pickles(tmp_path / "x.pt2")


def test_a_pickle_in_a_pt2_file_is_refused_and_not_run(path, tmp_path):
    model, example = made("mlp")
    file = export(model, example, "pt2", path)
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    whole = path.read_bytes()

    rewritten(path, lambda parts: parts | {name: trap for name in parts if "sample_inputs" in name})
    with pytest.raises(ExportError, match=r"has the part 'archive/data/sample_inputs/model.pt', which may be a pickle"):
        file.runner()

    path.write_bytes(whole)
    rewritten(path, lambda parts: parts | {"model/data/constants/opaque_obj_0": trap})
    with pytest.raises(
        ExportError, match="has the part 'model/data/constants/opaque_obj_0', which may be a pickle or code"
    ):
        file.runner()

    path.write_bytes(whole)

    def pickled(parts):
        (name,) = (name for name in parts if name.endswith("weights_config.json"))
        config = json.loads(parts[name])
        config["config"]["0.bias"]["use_pickle"] = True
        return parts | {name: json.dumps(config), "model/data/weights/weight_1": trap}

    rewritten(path, pickled)
    with pytest.raises(ExportError, match=r"holds '0\.bias' as a pickle; it is not read"):
        file.runner()
    assert not sprung.exists()


def test_the_trap_would_have_sprung(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_torch_would_write_sample_inputs_as_a_pickle(path):
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    with pytest.raises(ExportError, match="sample_inputs"):
        validate_no_pickles(path)
