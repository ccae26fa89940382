"""A network with exits runs as ONNX files, one a stage, with the exits and scores that it has in torch."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_dynprune.adaptive import Adapted, Deployed, adapt, read_exits
from lightning_dynprune.deploy.exporting import ExportError
from tests.adaptive.networks import Reshaping, Skipping, Untraceable, adapted, images, trained

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


@pytest.fixture(scope="module")
def found() -> Adapted:
    torch.manual_seed(0)
    net = adapted(trained(Skipping()))
    # Of the inputs 30 % are sure at the first exit and 60 % at the second.
    sure = net.module.held_out_confidences
    net.module.thresholds.copy_(torch.stack([sure[0].quantile(0.7), sure[1].quantile(0.4)]))
    return net


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "exits"
    found.export(path, batches=(1, 8), seconds=0.01)
    return path


@pytest.fixture(scope="module")
def deployed(folder) -> Deployed:
    return read_exits(folder)


def test_the_folder_holds_a_file_a_stage_and_the_whole_network_and_what_was_measured(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "dense.onnx",
        "exits.json",
        "stage0.onnx",
        "stage1.onnx",
        "stage2.onnx",
    ]
    assert sorted(json.loads((folder / "exits.json").read_text())["measured"]) == ["1", "8"]
    assert [path.name for path in folder.parent.iterdir()] == ["exits"]


def test_inputs_get_the_scores_and_exits_that_they_have_in_torch_together_and_alone(found, deployed):
    x = images(40, seed=21)[0]
    expected, exits = found(x), found.runner().exits
    assert len(set(exits.tolist())) == 3, "some inputs should leave at each exit, and some at the end"
    assert torch.allclose(deployed.adaptive(x), expected, atol=1e-4)
    assert torch.equal(deployed.adaptive.exits, exits)
    for number, each in enumerate(x.split(1)):
        assert torch.allclose(deployed.adaptive(each), expected[number : number + 1], atol=1e-4)
        assert deployed.adaptive.exits.tolist() == [exits[number]]
    assert torch.allclose(deployed.dense(x), found.model(x), atol=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_input_that_is_not_finite_runs_to_the_end(deployed, value):
    x = images(60, seed=14)[0]
    deployed.adaptive(x)
    easy = x[deployed.adaptive.exits == 0][:3].clone()
    easy[1, 0, 0, 0] = value
    deployed.adaptive(easy)
    assert deployed.adaptive.exits.tolist() == [0, 2, 0]
    deployed.adaptive(easy[1:2])
    assert deployed.adaptive.exits.tolist() == [2]


def test_an_empty_batch_gives_no_scores(deployed):
    assert deployed.adaptive(torch.zeros(0, 1, 8, 8)).shape == (0, 4)
    assert deployed.adaptive.exits.shape == (0,)


def test_an_exit_that_no_input_takes_has_no_file(tmp_path):
    torch.manual_seed(0)
    net = adapted(trained(Skipping(), steps=5), budget=1.0)
    net.module.thresholds.fill_(torch.inf)
    path = tmp_path / "exits"
    dense = net.export(path, batches=(2,), seconds=0.01)
    assert sorted(file.name for file in path.iterdir()) == ["dense.onnx", "exits.json", "stage0.onnx"]
    x = images(4)[0]
    assert torch.allclose(dense.adaptive(x), net.model(x), atol=1e-4)
    assert dense.adaptive(x[:0]).shape == (0, 4)


def test_a_network_that_reads_the_number_of_inputs_is_exported(tmp_path):
    torch.manual_seed(0)
    net = adapted(trained(Reshaping(), steps=5), after=["first"], budget=0.9)
    net.module.thresholds.copy_(net.module.held_out_confidences.quantile(0.5, dim=1))
    deployed = net.export(tmp_path / "exits", batches=(2,), seconds=0.01)
    x = images(20, seed=23)[0]
    assert torch.allclose(deployed.adaptive(x), net(x), atol=1e-4)
    assert torch.equal(deployed.adaptive.exits, net.runner().exits)
    assert set(deployed.adaptive.exits.tolist()) == {0, 1}


def test_eight_bits_are_written_when_they_are_asked_for(found, tmp_path):
    path = tmp_path / "exits"
    deployed = found.export(path, batches=(1,), seconds=0.01, precision="int8")
    names = sorted(file.name for file in path.iterdir())
    assert names == ["dense.int8.onnx", "exits.json", "stage0.int8.onnx", "stage1.int8.onnx", "stage2.int8.onnx"]
    x = images(200, seed=22)[0]
    scores = deployed.adaptive(x)
    assert (scores.argmax(1) == found(x).argmax(1)).double().mean() > 0.9
    assert not torch.allclose(scores, found(x), atol=1e-4)


def test_what_cannot_be_exported_is_refused_and_leaves_no_folder(found, tmp_path):
    path = tmp_path / "exits"
    torch.manual_seed(0)
    with pytest.raises(ExportError, match=r"cannot be split into stages: torch\.fx cannot trace"):
        adapted(trained(Untraceable(), steps=2)).export(path)
    x, labels = images(8)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    widths = adapt(net, "activation_threshold", [(x, labels)], [(x, labels)], density=0.5)
    with pytest.raises(ValueError, match=r"method='activation_threshold' has no form for ONNX Runtime"):
        widths.export(path)
    with pytest.raises(ValueError, match=r"precision='fp8' is not accepted; give one of float32, int8"):
        found.export(path, precision="fp8")
    with pytest.raises(ValueError, match="files take positional arguments"):
        found.export(path, {"x": x})
    assert list(tmp_path.iterdir()) == []
    (path / "more").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="holds files; give a folder that is empty"):
        found.export(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version=2 is not read by this release; 1 is"),
        ("stages", ["stage0.onnx", "../stage1.onnx", "stage2.onnx"], r"'\.\./stage1\.onnx' is no name of an ONNX file"),
        ("dense", "dense.pt2", "'dense.pt2' is no name of an ONNX file"),
        ("thresholds", [0.5], "stages, thresholds and numbers do not go together"),
        ("thresholds", ["a", 0.5], "a threshold is no number"),
        ("numbers", 3, "stages, thresholds and numbers do not go together"),
        ("measured", {"1": {}}, "'ratio'"),
        ("clock", "sun", "clock or device has another value"),
    ],
)
def test_a_damaged_manifest_is_refused_by_what_is_wrong(folder, tmp_path, key, value, message):
    content = json.loads((folder / "exits.json").read_text())
    (tmp_path / "exits.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(ValueError, match=rf"exits\.json is damaged: .*{message}"):
        read_exits(tmp_path)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no exits\.json; give a folder that Adapted\.export wrote"):
        read_exits(tmp_path)


def test_a_missing_file_of_the_network_is_named(folder, tmp_path):
    (tmp_path / "exits.json").write_bytes((folder / "exits.json").read_bytes())
    with pytest.raises(ValueError, match=r"dense\.onnx is missing"):
        read_exits(tmp_path)
