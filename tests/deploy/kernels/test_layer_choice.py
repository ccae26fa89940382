"""A choice is JSON that is applied without measuring, and refused where it does not fit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from lightning_dynprune.deploy.kernels import CSR, Block, LayerChoice, Slim
from lightning_dynprune.deploy.kernels.layer_choice import apply_choice, restore, write_choice

HEAD = {"format": "lightning-dynprune kernel choice", "version": 1}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Sequential(nn.Linear(64, 10), nn.Linear(10, 4)))
    model[0].weight.data[:, 3:] = 0.0
    model[2][0].weight.data[:, 30:] = 0.0
    return model


def row(kernel: object, shape: object, **settings: object) -> dict[str, object]:
    return {"kernel": kernel, "settings": settings, "shape": shape}


def choice(**changed: object) -> dict[str, object]:
    rows = {"0": row("block", [64, 12], height=32), "2.0": row("csr", [10, 64]), "2.1": row("dense", [4, 10])}
    return HEAD | {"layers": rows | {name.replace("_", "."): value for name, value in changed.items()}}


def test_a_choice_is_applied_to_a_copy_in_eval_mode():
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    made = apply_choice(model, choice())
    assert [type(made[0]), type(made[2][0]), type(made[2][1])] == [Block, CSR, nn.Linear]
    assert made[0].height == 32
    assert not made.training
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    x = torch.randn(5, 12)
    torch.testing.assert_close(made(x), model(x))


def test_a_written_choice_is_plain_json_and_read_back_as_it_was(tmp_path):
    layers = [
        LayerChoice("0", (64, 12), "block", {"height": 32}, "because"),
        LayerChoice("2.0", (10, 64), "csr"),
        LayerChoice("2.1", (4, 10)),
    ]
    write_choice(tmp_path / "choice.json", layers)
    assert json.loads((tmp_path / "choice.json").read_text()) == choice()
    x = torch.randn(5, 12)
    model = network()
    assert torch.equal(apply_choice(model, tmp_path / "choice.json")(x), apply_choice(model, choice())(x))


def test_restoring_gives_the_layers_back_bit_for_bit():
    model = network().eval()
    model[0].bias.requires_grad_(False)
    back = restore(apply_choice(model, choice()))
    assert repr(back) == repr(model)
    for (name, ours), (other, theirs) in zip(back.named_parameters(), model.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs)
        assert ours.requires_grad == theirs.requires_grad


def test_a_model_that_is_one_layer_is_replaced_whole():
    layer = nn.Linear(8, 4)
    layer.weight.data[:, :5] = 0.0
    made = apply_choice(layer, HEAD | {"layers": {"": row("slim", [4, 8])}})
    assert type(made) is Slim
    assert torch.equal(restore(made).weight, layer.weight)


def test_a_choice_fits_later_weights_of_the_same_model():
    model = network()
    model[0].weight.data *= 2
    model[0].weight.data[:, 0] = 0.0
    x = torch.randn(5, 12)
    torch.testing.assert_close(apply_choice(model, choice())(x), model(x))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": row("dense", [1, 1])}, "layer 'x' is not a Linear of this model"),
        ({"1": row("dense", [1, 1])}, "layer '1' is not a Linear"),  # a ReLU
        ({"__class__": row("dense", [1, 1])}, "layer '..class..' is not a Linear"),
        ({"0": row("evil", [64, 12])}, "layer '0': kernel='evil' is unknown; known: block"),
        (
            {"0": row("dense", [64, 13])},
            r"layer '0': the choice was made for the shape \[64, 13\], and the layer has \[64, 12\]",
        ),
        ({"0": row("dense", [64.0, 12])}, "layer '0': the choice was made for the shape"),
        ({"0": row("dense", "64x12")}, "layer '0': the choice was made for the shape"),
        ({"0": row(["block"], [64, 12])}, "layer '0': kernel is a list"),
        ({"0": row("block", [64, 12])}, "layer '0': kernel 'block' has the settings: height; the file gives others"),
        ({"0": row("csr", [64, 12], height=8)}, "layer '0': kernel 'csr' has the settings: none"),
        ({"0": row("block", [64, 12], height=2**60)}, "layer '0' cannot run on its kernel: height=1152921504606846976"),
        ({"0": row("block", [64, 12], height=-8)}, "layer '0' cannot run on its kernel: height=-8 is not accepted"),
        ({"0": row("block", [64, 12], height="8")}, "layer '0' cannot run on its kernel: height='8' is not accepted"),
        ({"0": row("block", [64, 12], height=[8])}, r"layer '0' cannot run on its kernel: height=\[8\] is not"),
        ({"0": {"kernel": "dense"}}, "layer '0': expected kernel, settings and shape"),
        ({"0": row("dense", [64, 12]) | {"run": "rm"}}, "layer '0': expected kernel, settings and shape"),
        ({"0": 7}, "layer '0': expected kernel, settings and shape"),
        ({"2_1": row("csr", [4, 10])}, r"layer '2\.1' cannot run on its kernel: 100 % of the connections are kept"),
        ({"0": row("semi_structured", [64, 12])}, "layer '0' cannot run on its kernel: 2:4 runs on CUDA only"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_naming_the_layer(changed, message):
    with pytest.raises(ValueError, match=message):
        apply_choice(network(), choice(**changed))


def test_a_choice_that_leaves_a_layer_out_is_refused():
    content = choice()
    del content["layers"]["2.0"]
    with pytest.raises(ValueError, match=r"layer '2\.0' of this model is not in it"):
        apply_choice(network(), content)


def test_a_layer_that_has_to_stay_dense_refuses_a_kernel():
    model = network()
    model[0].register_forward_hook(lambda *args: None)
    with pytest.raises(ValueError, match="layer '0' must stay dense: it has hooks"):
        apply_choice(model, choice())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[]", "holds a list; expected an object"),
        ("{}", "expected format 'lightning-dynprune kernel choice', version 1"),
        ("[" * 100_000, "cannot be read"),
        ('{"format": 1, "format": 2}', "'format' appears twice"),
        (json.dumps(choice() | {"version": 2}), "version 1"),
        (json.dumps(choice() | {"more": 1}), "nothing else"),
        (json.dumps(HEAD | {"layers": []}), "layers is a list"),
        (json.dumps(choice())[:-9], "cannot be read"),
        ("\x80\x04K\x07.", "cannot be read"),  # a pickle
    ],
)
def test_a_file_that_is_no_choice_is_refused(text, message, tmp_path):
    path = tmp_path / "choice.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        apply_choice(network(), path)


def test_a_file_too_large_to_be_a_choice_is_not_read(tmp_path):
    path = tmp_path / "choice.json"
    with path.open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(ValueError, match="it has 16777217 bytes; at most 16777216 are read"):
        apply_choice(network(), path)


def test_a_refused_choice_leaves_the_model_as_it_was():
    model = network()
    with pytest.raises(ValueError, match="100 %"):
        apply_choice(model, choice(**{"2_1": row("csr", [4, 10])}))
    assert [type(model[0]), type(model[2][0])] == [nn.Linear, nn.Linear]
