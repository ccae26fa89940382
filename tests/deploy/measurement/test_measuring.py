"""The report of one model in all its forms."""

from __future__ import annotations

import builtins
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_dynprune.coupling import CouplingError
from lightning_dynprune.deploy.compact import load_compact
from lightning_dynprune.deploy.measurement import measure
from lightning_dynprune.deploy.measurement.report import DeployReport, Row
from lightning_dynprune.engine import Pruner
from tests.deploy.fake_clock import modules_take

FIGURES = ("parameters", "nonzero", "macs", "accuracy")


def convnet() -> nn.Module:
    """8 and 16 filters, of which the last 4 and 8 are zero in all that makes, carries and reads them."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 5),
    )
    with torch.no_grad():
        for tensor in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
            tensor[4:] = 0
        net[3].weight[:, 4:] = net[3].weight[8:] = net[3].bias[8:] = net[6].weight[:, 128:] = 0
    return net


def assert_every_figure_is_there_or_has_a_reason(report: DeployReport) -> None:
    for row in report.rows:
        missing = {figure for figure in FIGURES if getattr(row, figure) is None}
        missing |= {f"latency {batch}" for batch in report.batches if batch not in row.latency}
        missing |= {f"memory {batch}" for batch in report.batches if batch not in row.memory}
        missing |= set() if row.files else {"files"}
        for figure in missing:
            reasons = {"everything", figure, figure.split()[0]} & set(row.not_measured)
            assert reasons, f"{row.name}: {figure} is missing without a reason"


@pytest.fixture(scope="module")
def report() -> DeployReport:
    net = convnet()
    dense = copy.deepcopy(net)
    for layer in (0, 1, 3, 6):
        torch.nn.init.uniform_(dense[layer].weight, 0.1, 1.0)

    def evaluate(run: Any) -> float:
        scores = run(torch.ones(32, 1, 8, 8))
        assert scores.shape == (32, 5)
        return float(scores.sum())

    return measure(
        net,
        torch.randn(2, 1, 8, 8),
        dense=dense,
        batches=[1, 32],
        formats=["pt2"],
        evaluate=evaluate,
        calibration=[torch.randn(16, 1, 8, 8)],
        seconds=0.3,
    )


def test_all_forms_are_there_and_each_figure_or_its_reason(report: DeployReport) -> None:
    assert [row.name for row in report.rows] == [
        "dense",
        "pruned",
        "pruned, recalibrated",
        "slim",
        "pruned, accelerated",
        "slim, accelerated",
        "slim, pt2",
        "dense, pt2",
        "dense, onnx",
        "dense, onnx int8",
        "dense, torch int8",
    ]
    assert_every_figure_is_there_or_has_a_reason(report)


def test_counts_are_those_of_the_tensors(report: DeployReport) -> None:
    parameters = 8 * 9 + 8 + 8 + 8 + 16 * 8 * 9 + 16 + 5 * 256 + 5
    narrow = 4 * 9 + 4 + 4 + 4 + 8 * 4 * 9 + 8 + 5 * 128 + 5
    assert report["dense"].parameters == report["dense, onnx"].parameters == parameters
    assert report["pruned"].parameters == parameters
    assert report["slim"].parameters == report["slim, pt2"].parameters == narrow
    # The shift of a norm starts at zero.
    assert report["pruned"].nonzero == report["slim"].nonzero == narrow - 4


def test_multiply_adds_are_those_of_one_sample(report: DeployReport) -> None:
    assert report["dense"].macs == report["pruned"].macs == 36 * 8 * 9 + 16 * 16 * 8 * 9 + 5 * 256
    assert report["slim"].macs == 36 * 4 * 9 + 16 * 8 * 4 * 9 + 5 * 128


def test_dense_is_once_as_fast_as_itself_and_each_ratio_is_its_own_rounds(report: DeployReport) -> None:
    for batch in (1, 32):
        assert report["dense"].ratio[batch].median == 1
        for row in report.rows:
            if batch in row.latency:
                took = row.latency[batch]
                assert 0 < took.low <= took.median <= took.high
                assert row.ratio[batch].rounds == took.rounds


def test_slim_takes_less_memory_and_smaller_files(report: DeployReport) -> None:
    for batch in (1, 32):
        assert report["slim"].memory[batch] < report["pruned"].memory[batch]
    assert report["slim"].files["plain"] < report["pruned"].files["plain"]
    assert report["pruned"].files["compact"] < report["pruned"].files["plain"]
    assert report["dense"].files["plain"] == report["pruned"].files["plain"]


def test_accuracy_is_asked_of_what_runs(report: DeployReport) -> None:
    assert report["slim"].accuracy == pytest.approx(report["pruned"].accuracy, rel=1e-4)
    assert report["slim, pt2"].accuracy == report["slim"].accuracy
    assert report["dense, onnx"].accuracy == pytest.approx(report["dense"].accuracy, rel=1e-4)
    assert report["dense"].accuracy != pytest.approx(report["pruned"].accuracy, rel=1e-2)
    assert report["pruned, recalibrated"].accuracy != report["pruned"].accuracy


def test_the_report_is_plain_values_and_prints_what_was_not_measured(report: DeployReport) -> None:
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["rows"][0]["latency"]["32"]["median"] == report["dense"].latency[32].median
    assert content["rows"][8]["not_measured"]["macs"] == "it runs outside torch"
    assert content["threads"] == torch.get_num_threads()
    printed = str(report)
    assert "memory 1, memory 32" not in printed
    assert "it runs outside torch (slim, pt2; dense, pt2; dense, onnx; dense, onnx int8)" in printed
    with pytest.raises(KeyError, match="'narrow' is not a row; rows: dense, pruned"):
        report["narrow"]


def test_kernels_are_measured_where_they_win_and_said_to_lose_elsewhere() -> None:
    net = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 10))
    schedule = {"name": "one_shot", "begin": 1}
    block = {"name": "block", "pad": True}
    Pruner(net, sparsity=0.9, strategy="magnitude", pattern=block, schedule=schedule, targets="0.weight").tick()
    with modules_take():
        found = measure(net, torch.randn(1, 512), batches=[1], rivals=False, seconds=0.5)
    row = found["pruned, accelerated"]
    assert row.ratio[1].median > 1
    assert row.macs < found["pruned"].macs
    assert row.memory[1] < found["pruned"].memory[1]
    assert "block" in found.remarks["pruned, accelerated"]

    tiny = measure(nn.Linear(4, 4), torch.randn(1, 4), batches=[1], rivals=False, seconds=0.1)
    assert tiny["pruned, accelerated"].not_measured["everything"].startswith("no kernel is faster than dense")
    assert tiny["slim"].not_measured["everything"] == "no channel and no head can be removed"


def test_without_a_dense_network_it_stands_for_the_model_without_its_zeros() -> None:
    net = nn.Linear(8, 4, bias=False)
    net.weight.data[:, 4:] = 0
    found = measure(net, torch.randn(1, 8), batches=[1], seconds=0.1, evaluate=lambda run: 1.0)
    assert found["dense"].nonzero == 32
    assert found["pruned"].nonzero == 16
    assert found["dense"].accuracy is None
    assert found["dense, torch int8"].not_measured["accuracy"] == "dense was not given"
    assert found["pruned"].accuracy == 1.0
    assert int(net.weight.count_nonzero()) == 16


def test_the_model_and_its_modes_are_as_before() -> None:
    net = convnet().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    measure(net, torch.randn(1, 1, 8, 8), batches=[1], rivals=False, seconds=0.1)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("model", [nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))], ids=["the layer", "inside"])
def test_the_8_bit_rival_is_quantised_where_the_layer_is_the_whole_model_too(model: nn.Module) -> None:
    outputs = []

    def evaluate(run: Any) -> float:
        outputs.append(run(torch.linspace(0.1, 0.9, 4)[None]))
        return 0.0

    measure(model, torch.randn(1, 4), dense=model, batches=[1], seconds=0.1, evaluate=evaluate)
    assert len(outputs) == 5  # dense, pruned, and the three rivals
    gaps = [float((output - outputs[0]).abs().max()) for output in outputs]
    assert gaps[1] == 0
    assert gaps[2] < 1e-6
    assert 1e-6 < gaps[3] < 0.1
    assert 1e-6 < gaps[4] < 0.1


def test_exports_stay_where_they_were_asked_for(tmp_path: Path) -> None:
    net = convnet()
    measure(net, torch.randn(1, 1, 8, 8), batches=[1], formats=["pt2"], rivals=False, seconds=0.1, exports=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense.pt2", "slim.pt2"]


def test_inputs_by_name_reach_the_model() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(a - b)

    example = {"b": torch.randn(2, 3), "a": torch.randn(2, 3)}
    found = measure(Sum(), example, batches=[4], rivals=False, seconds=0.1)
    assert found["dense"].macs == 6
    assert found["dense"].latency[4].median > 0


def test_a_missing_package_is_a_reason_and_not_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] in ("onnx", "onnxruntime", "onnxscript"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    import importlib

    imported = importlib.import_module
    monkeypatch.setattr(
        importlib,
        "import_module",
        lambda name, package=None: without(name) if name.startswith("onnx") else imported(name, package),
    )
    found = measure(nn.Linear(4, 4), torch.randn(1, 4), batches=[1], seconds=0.1)
    assert "pip install 'lightning-dynprune[export]'" in found["dense, onnx"].not_measured["everything"]
    assert found["dense, onnx int8"].not_measured["everything"] == "there is no ONNX file of dense to quantize"
    assert found["dense, torch int8"].latency[1].median > 0
    assert_every_figure_is_there_or_has_a_reason(found)


def test_files_that_were_weighed_held_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_dynprune.deploy.measurement import variants as forms

    net, seen = convnet(), {}
    real_dense, real_compact = forms.write_dense, forms.save_compact

    def dense(weights: Any, path: Path) -> int:
        size = real_dense(weights, path)
        seen[path.name] = load_file(path), size
        return size

    def compact(model: nn.Module, path: Path, **settings: Any) -> int:
        size = real_compact(model, path, **settings)
        seen[path.name, settings.get("zstd", False)] = load_compact(path), size
        return size

    monkeypatch.setattr(forms, "write_dense", dense)
    monkeypatch.setattr(forms, "save_compact", compact)
    found = measure(net, torch.randn(1, 1, 8, 8), batches=[1], rivals=False, seconds=0.1)
    for key, kind in (
        ("pruned.safetensors", "plain"),
        (("pruned.compact.safetensors", False), "compact"),
        (("pruned.compact.safetensors", True), "compact zstd"),
    ):
        weights, size = seen[key]
        assert size == found["pruned"].files[kind]
        assert all(torch.equal(weights[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("example", "settings", "error", "message"),
    [
        (torch.randn(1, 4), {"batches": [0]}, ValueError, "batches=0 is not accepted"),
        (torch.randn(1, 4), {"formats": ["caffe"]}, ValueError, "format='caffe' is unknown"),
        (torch.randn(1, 4), {"seconds": -1.0}, ValueError, "seconds=-1.0 is not accepted"),
        (torch.randn(1, 4), {"rivals": "no"}, TypeError, "rivals='no' is not accepted"),
        ((torch.randn(1, 4), torch.randn(2, 4)), {}, ValueError, "the first dimension of all its tensors"),
        (torch.randn(1, 5), {}, CouplingError, "shapes cannot be multiplied"),
        ("text", {}, TypeError, "give only tensors"),
    ],
)
def test_what_cannot_be_measured_is_refused(example: Any, settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        measure(nn.Linear(4, 4), example, **{"rivals": False, "seconds": 0.1, **settings})


def test_a_row_without_figures_counts_as_not_measured() -> None:
    report = DeployReport([Row("slim", not_measured={"everything": "no channel"})], (1,), "cpu", 1, "cpu")
    assert str(report).count("not measured") == 3
