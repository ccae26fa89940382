"""Every format's file runs in its own runtime and computes what the pruned model does."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_dynprune.deploy.exporting import FORMATS, ExecuTorch, Exported, export
from lightning_dynprune.deploy.exporting.pt2 import validate_no_pickles
from lightning_dynprune.deploy.timing import latencies
from tests.deploy.exporting.models import MODELS, TwoInTwoOut, made

PACKAGES = {"onnx": "onnxruntime", "executorch": "executorch", "openvino": "openvino", "litert": "litert_torch"}
HEAVY = ("openvino", "litert")
ANY = [pytest.param(name, marks=pytest.mark.heavy if name in HEAVY else ()) for name in FORMATS.names()]
formats = pytest.mark.parametrize("name", ANY)
models = pytest.mark.parametrize("model_name", list(MODELS))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a model and its file, written once: (format, model) -> both."""

    @functools.cache
    def write(name: str, model_name: str) -> tuple[nn.Module, Exported]:
        if name in PACKAGES:
            pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]} is not installed")
        model, example = made(model_name)
        path = tmp_path_factory.mktemp("export") / f"{model_name}{FORMATS[name].suffix}"
        return model, export(model, example, name, path)

    return write


def batch_of(model_name: str, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(99)
    if model_name == "gpt":
        return torch.randint(11, 31, (size, 10), generator=generator)
    return torch.randn(size, *made(model_name)[1].shape[1:], generator=generator)


@formats
@models
def test_a_file_computes_what_the_pruned_model_does(exported, name, model_name):
    model, file = exported(name, model_name)
    inputs = batch_of(model_name, 7 if file.dynamic_batch else made(model_name)[1].shape[0])
    (found,) = file.runner()(inputs)
    with torch.no_grad():
        expected = model.eval()(inputs)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@formats
@models
def test_the_report_says_what_was_compared_and_how_large_the_file_is(exported, name, model_name):
    _, file = exported(name, model_name)
    batch = made(model_name)[1].shape[0]
    assert file.max_difference <= 1e-4
    assert file.dynamic_batch == (name != "litert")
    assert file.batches == (tuple(dict.fromkeys((1, 3, batch, 2))) if file.dynamic_batch else (batch,))
    files = [path for path in file.path.parent.iterdir() if path.stem == model_name]
    assert file.bytes == sum(path.stat().st_size for path in files) > 0
    assert len(files) == (2 if name == "openvino" else 1)
    assert f"{file.bytes:,} bytes" in str(file)
    takes = {"litert": f"a batch of {batch} alone", "executorch": "any batch up to 32"}.get(name, "any batch")
    assert f"takes {takes}; differs" in str(file)


@formats
@models
def test_a_file_names_no_path_of_the_machine(exported, name, model_name):
    _, file = exported(name, model_name)
    for path in file.path.parent.glob(f"{model_name}.*"):
        content = path.read_bytes()
        for place in (Path(__file__).parents[3], Path(torch.__file__).parent, Path.home(), file.path.parent):
            assert str(place).encode() not in content


@formats
def test_the_batch_can_be_fixed(tmp_path, name):
    pytest.importorskip(PACKAGES.get(name, "torch"))
    model, example = made("mlp")
    file = export(model, example, name, tmp_path / f"m{FORMATS[name].suffix}", dynamic_batch=False)
    assert not file.dynamic_batch
    assert file.batches == (2,)
    torch.testing.assert_close(file.runner()(example)[0], model(example), atol=1e-4, rtol=0)
    assert file.latency(2, seconds=0.01).rounds >= 7
    with pytest.raises(ValueError, match=r"batch=3 is not accepted by m\..*; it takes a batch of 2 alone"):
        file.caller(3)


@formats
def test_inputs_by_name_and_several_outputs_keep_their_order(tmp_path, name):
    pytest.importorskip(PACKAGES.get(name, "torch"))
    torch.manual_seed(0)
    model, example = TwoInTwoOut(), {"counts": torch.rand(4, 6) < 0.5, "values": torch.randn(4, 6)}
    file = export(model, example, name, tmp_path / f"m{FORMATS[name].suffix}")
    scores, best = file.runner()(*example.values())
    expected = model(**example)
    torch.testing.assert_close(scores, expected["scores"], atol=1e-4, rtol=0)
    assert best.tolist() == expected["best"].tolist()


@formats
def test_dense_and_pruned_are_measured_in_the_same_runtime(exported, name):
    _, file = exported(name, "mlp")
    batch = 1 if file.dynamic_batch else 2
    took = latencies({"one": file.caller(batch), "other": file.caller(batch)}, seconds=0.05)
    assert took["one"].rounds == took["other"].rounds >= 7
    assert min(took["one"].low, took["other"].low) > 0


@pytest.mark.parametrize("name", ["pt2", "onnx", "executorch"])
def test_a_file_of_any_batch_refuses_none_up_to_its_largest(exported, name):
    _, file = exported(name, "convnet")
    for batch in (1, 32):
        assert file.caller(batch)()[0].shape == (batch, 10)
    if name == "executorch":
        with pytest.raises(ValueError, match=r"batch=33 is not accepted by convnet.pte; it takes any batch up to 32"):
            file.caller(33)
    with pytest.raises(ValueError, match="batch=0 is not accepted"):
        file.caller(0)


def test_executorch_takes_the_largest_batch_as_a_setting(tmp_path):
    pytest.importorskip("executorch")
    model, example = made("mlp")
    file = export(model, example, {"name": "executorch", "max_batch": 3}, tmp_path / "m.pte")
    assert file.batches == (1, 3, 2)
    with pytest.raises(ValueError, match="it takes any batch up to 3"):
        file.caller(4)
    with pytest.raises(ValueError, match="batch of 4, and format='executorch' takes up to 3"):
        export(model, torch.randn(4, 20), ExecuTorch(max_batch=3), tmp_path / "m.pte")
    with pytest.raises(ValueError, match="max_batch=0 is not accepted"):
        ExecuTorch(max_batch=0)


def test_executorch_has_as_many_threads_as_torch_and_never_changes_them_under_a_runner(exported):
    portable = pytest.importorskip("executorch.extension.pybindings.portable_lib")
    _, file = exported("executorch", "mlp")
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            run = file.runner()
            assert portable._threadpool_get_thread_count() == threads
            torch.set_num_threads(3 - threads)
            with pytest.raises(RuntimeError, match=f"pool has {threads} threads and 1 runners that use it"):
                file.runner()
            assert run(torch.zeros(1, 20))[0].shape == (1, 5)
            del run
    finally:
        torch.set_num_threads(before)


def test_onnx_runtime_has_as_many_threads_as_torch(exported, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    _, file = exported("onnx", "mlp")
    seen = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, **rest: seen.append(options) or session(path, options, **rest),
    )
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            file.runner()
    finally:
        torch.set_num_threads(before)
    assert [options.intra_op_num_threads for options in seen] == [1, 2]


def test_a_pt2_file_holds_no_pickle(exported):
    validate_no_pickles(exported("pt2", "gpt")[1].path)
