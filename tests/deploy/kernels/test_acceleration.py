"""A model is accelerated layer by layer, stays right, and is never slower than dense."""

from __future__ import annotations

import copy
import importlib
import itertools
import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from lightning_dynprune.deploy.kernels import CSR, Block, BlockBatched, BlockRows, Kernel, accelerate, layer_benchmark
from lightning_dynprune.deploy.kernels.input_capture import relative_difference
from lightning_dynprune.deploy.kernels.layer_choice import apply_choice, restore
from lightning_dynprune.deploy.timing import Ratio
from lightning_dynprune.deploy.timing.latency import ratios
from tests.deploy.fake_clock import SECONDS_PER_ELEMENT, modules_take, proportional

# The package's name of the same spelling is the function.
file = importlib.import_module("lightning_dynprune.deploy.kernels.acceleration")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with modules_take():
        yield
    torch.set_num_threads(before)


def pruned(inputs: int, outputs: int, sparsity: float, height: int = 1, bias: bool = True) -> nn.Linear:
    """Return a layer in which that share of the blocks is zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    keep = torch.rand(-(-outputs // height), inputs) >= sparsity
    layer.weight.data *= keep.repeat_interleave(height, 0)[:outputs]
    return layer


def kernels_in(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Kernel)]


def test_a_sparse_layer_runs_on_a_kernel_and_a_dense_one_does_not():
    model = nn.Sequential(pruned(512, 4096, 0.9, 32), nn.ReLU(), nn.Linear(4096, 8))
    x = torch.randn(1, 512)
    found = accelerate(model, x, seconds=0.5)
    first, last = found.layers
    assert isinstance(found.model[0], (Block, BlockBatched, BlockRows))
    assert (first.kernel, first.settings["height"], first.shape) == (found.model[0].label.split()[0], 32, (4096, 512))
    assert first.latencies[first.label].median < first.latencies["dense"].median
    assert type(found.model[2]) is nn.Linear
    assert (last.kernel, last.why) == ("dense", "no kernel suits it")
    assert last.rejections["csr"] == "100 % of the connections are kept"
    assert last.rejections["semi_structured"] == "is faster only inside a captured CUDA graph"
    assert found.ratio is not None
    assert found.ratio.median > 1.5
    assert found.difference == relative_difference(found.model(x), model(x)) < 1e-5


def test_single_connections_run_on_csr():
    model = nn.Sequential(pruned(512, 1024, 0.97))
    for batch in (1, 32):
        assert isinstance(accelerate(model, torch.randn(batch, 512), seconds=0.3).model[0], CSR)


def test_the_model_is_not_changed_and_shares_nothing():
    model = nn.Sequential(pruned(256, 512, 0.9, 32), nn.BatchNorm1d(512), nn.Dropout(), nn.Linear(512, 64)).train()
    before = copy.deepcopy(model.state_dict())
    found = accelerate(model, torch.randn(4, 256), seconds=0.2)
    assert model.training
    assert not found.model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    assert not any((parameter == 7.0).any() for parameter in found.model.parameters())


def test_restoring_gives_the_model_back():
    model = nn.Sequential(pruned(256, 512, 0.9, 32), nn.ReLU(), pruned(512, 512, 0.95)).eval()
    found = accelerate(model, torch.randn(1, 256), seconds=0.3)
    assert kernels_in(found.model)
    back = restore(found.model)
    assert repr(back) == repr(model)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in back.state_dict().items())


def test_a_saved_choice_is_applied_without_measuring(tmp_path, monkeypatch):
    model = nn.Sequential(pruned(256, 512, 0.9, 32), nn.ReLU(), pruned(512, 512, 0.95))
    x = torch.randn(1, 256)
    found = accelerate(model, x, seconds=0.3)
    found.save_choice(tmp_path / "choice.json")
    monkeypatch.setattr(layer_benchmark, "benchmark_layer", None)
    made = apply_choice(model, tmp_path / "choice.json")
    assert repr(made) == repr(found.model)
    assert torch.equal(made(x), found.model(x))


def test_the_table_has_a_row_for_each_layer_and_says_why():
    model = nn.Sequential(pruned(512, 1024, 0.9, 32), nn.ReLU(), nn.Linear(1024, 8))
    found = accelerate(model, torch.randn(1, 512), seconds=0.3)
    lines = str(found).splitlines()
    assert lines[0].split()[:4] == ["layer", "shape", "kernel", "dense"]
    assert lines[1].startswith(f"0      512 -> 1024  {found.layers[0].label}")
    assert found.layers[0].why in lines[1]
    assert lines[2].startswith("2      1024 -> 8    dense")
    assert "microseconds a forward, CPU time, one thread" in lines
    assert "not measured: csr: 100 % of the connections are kept (2)" in lines
    assert lines[-1].startswith(f"whole model: {found.ratio.median:.2f}x dense")


class Sequence(nn.Module):
    """A model of keyword arguments that calls a layer with several sizes and returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = pruned(512, 512, 0.95, 32)

    def forward(self, *, first: Tensor, then: Tensor) -> dict[str, Tensor]:
        return {"first": self.layer(first), "then": self.layer(then)}


def test_a_layer_called_with_several_sizes_is_measured_over_all_of_them():
    example = {"first": torch.randn(2, 8, 512), "then": torch.randn(1, 512)}
    model = Sequence()
    found = accelerate(model, example, seconds=0.3)
    assert kernels_in(found.model) == ["layer"]
    output = found.model(**example)
    assert output["first"].shape == (2, 8, 512)
    assert relative_difference(output, model(**example)) < 1e-5


def test_attention_and_its_fast_path_work_as_before():
    layer = nn.TransformerEncoderLayer(64, 4, 512, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), pruned(64, 512, 0.95, 32))
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.linear1.weight.data[:, 4:] = 0.0
            module.linear2.weight.data[:, 20:] = 0.0
            module.self_attn.out_proj.weight.data[:, 4:] = 0.0
    x = torch.randn(2, 16, 64)
    found = accelerate(model, x, seconds=0.3)
    why = {layer.name: layer.why for layer in found.layers}
    assert "NonDynamicallyQuantizableLinear" in why["0.layers.0.self_attn.out_proj"]
    assert "not called" in why["0.layers.0.linear1"]  # the fast path reads its weight
    model.eval()
    with torch.no_grad():
        fast = found.model(x)
        torch.testing.assert_close(fast, model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.model(x), fast, rtol=1e-4, atol=1e-5)  # with gradients: the slow path


def test_a_fast_path_that_reads_the_weight_of_a_kernel_finds_it():
    layer = nn.TransformerEncoderLayer(64, 4, 512, batch_first=True, dropout=0.0).eval()
    layer.linear1.weight.data[:, 4:] = 0.0
    x = torch.randn(2, 16, 64)
    accelerated = copy.deepcopy(layer)
    accelerated.linear1 = CSR(layer.linear1)
    with torch.no_grad():
        torch.testing.assert_close(accelerated(x), layer(x), rtol=1e-4, atol=1e-5)


def test_a_tied_layer_stays_dense_and_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(512, 256)
            self.embed.weight.data[:, 8:] = 0.0
            self.body = pruned(256, 256, 0.95, 32)
            self.head = nn.Linear(256, 512, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.body(self.embed(tokens)))

    found = accelerate(Tied(), torch.zeros(1, 4, dtype=torch.long), seconds=0.3)
    assert found.model.head.weight is found.model.embed.weight
    assert {layer.name: layer.kernel for layer in found.layers}["head"] == "dense"


def test_a_model_that_is_one_layer():
    layer = pruned(512, 1024, 0.95, 32)
    found = accelerate(layer, torch.randn(512), seconds=0.2)
    assert isinstance(found.model, Kernel)
    assert found.model(torch.randn(512)).shape == (1024,)


def test_a_model_without_zeros_or_without_layers_stays_as_it_is():
    for model in (nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Conv1d(4, 4, 1))):
        found = accelerate(model, torch.randn(2, 4, 8), seconds=0.1)
        assert found.ratio is None
        assert found.difference == 0.0
        assert not kernels_in(found.model)
        assert str(found).endswith("whole model: all layers stay dense, nothing to compare")


def test_layers_go_back_to_dense_one_by_one_while_the_whole_model_is_slower(monkeypatch):
    seen = []

    def measured(dense, accelerated, *args):
        seen.append(kernels_in(accelerated))
        return Ratio(*((0.97, 0.96, 0.98, 9) if len(seen) < 2 else (1.2, 1.1, 1.3, 9)))

    monkeypatch.setattr(file, "_whole_ratio", measured)
    model = nn.Sequential(pruned(512, 1024, 0.95, 32), pruned(1024, 4096, 0.95, 32))
    found = accelerate(model, torch.randn(1, 512), seconds=0.3)
    assert seen == [["0", "1"], ["1"]]  # what saves least goes first
    assert found.layers[0].kernel == "dense"
    assert found.layers[0].why.endswith("but with it the whole model was 0.97x dense (0.96-0.98)")
    assert torch.equal(found.model[0].weight, model[0].weight)
    assert found.ratio == Ratio(1.2, 1.1, 1.3, 9)


def test_all_layers_are_dense_where_nothing_makes_the_whole_model_faster(monkeypatch):
    monkeypatch.setattr(file, "_whole_ratio", lambda *args: Ratio(0.99, 0.9, 1.1, 9))
    model = nn.Sequential(pruned(512, 512, 0.95, 32), pruned(512, 512, 0.95, 32))
    found = accelerate(model, torch.randn(1, 512), seconds=0.2)
    assert not kernels_in(found.model)
    assert found.ratio is None


def test_a_layer_that_differs_too_much_goes_back_to_dense():
    class Amplified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = pruned(512, 512, 0.95, 32)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return (y - y.double().round(decimals=5).float()) * 1e6  # what rounding leaves

    found = accelerate(Amplified(), torch.randn(1, 512), seconds=0.2)
    assert found.layers[0].kernel == "dense"
    assert "but with it the model's output differed by" in found.layers[0].why


def test_no_kernel_is_taken_outside_the_tolerance():
    model = nn.Sequential(pruned(512, 512, 0.9, 32))
    found = accelerate(model, torch.randn(8, 512), tolerance=0.0, seconds=0.2)
    assert any(why.startswith("differs by") for why in found.layers[0].rejections.values())
    assert found.difference == 0.0


def test_half_precision_takes_what_torch_can_compute():
    model = nn.Sequential(pruned(512, 512, 0.95, 32)).bfloat16()
    found = accelerate(model, torch.randn(1, 512).bfloat16(), tolerance=0.02, seconds=0.2)
    assert found.difference <= 0.02
    assert found.model(torch.randn(1, 512).bfloat16()).dtype == torch.bfloat16


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.rand_like(x)


class Silent(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (nn.ReLU(), {"tolerance": -1.0}, r"tolerance=-1.0 is not accepted"),
        (nn.ReLU(), {"margin": -0.1}, r"margin=-0.1 is not accepted"),
        (nn.ReLU(), {"seconds": 0}, r"seconds=0 is not accepted"),
        (nn.ReLU(), {"captured": True}, "captured=True needs example_input on a CUDA device; it is on cpu"),
        (nn.ReLU(), {"example_input": "text"}, "example_input holds no tensor"),
        (Random(), {}, "differs from call to call"),
        (Silent(), {}, "returns no tensor"),
    ],
)
def test_what_cannot_work_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        accelerate(model, **({"example_input": torch.ones(2, 2)} | arguments))


def test_autocast_is_refused():
    with torch.autocast("cpu"), pytest.raises(ValueError, match="does not run under autocast"):
        accelerate(nn.Linear(2, 2), torch.ones(2, 2))


def random_model(seed: int) -> tuple[nn.Sequential, Tensor]:
    """Return an MLP of random widths, patterns and sparsities, and a batch for it."""
    draw = torch.Generator().manual_seed(seed)

    def one_of(values: list) -> object:
        return values[int(torch.randint(len(values), (), generator=draw))]

    widths = [one_of([10, 100, 300, 784, 1024, 1536]) for _ in range(one_of([2, 3, 4]))]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layer = pruned(inputs, outputs, one_of([0.0, 0.5, 0.7, 0.9, 0.95, 0.98]), one_of([1, 1, 8, 16, 32, 64]))
        if one_of([True, False, False]):
            layer.weight.data[:, : inputs // 2] = 0.0
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers), torch.randn(one_of([1, 2, 7, 32]), widths[0])


@pytest.mark.parametrize("seed", range(20))
def test_a_random_model_is_never_slower_than_dense(seed):
    """Each kernel has one cost for its layer alone and another in the whole model, where it may lose to dense."""
    torch.manual_seed(seed)
    model, x = random_model(seed)
    draw = random.Random(seed)
    factors: dict[tuple[object, ...], float] = {}
    depth = 0

    def cost(module: nn.Module, rows: int) -> float:
        if not isinstance(module, Kernel):
            return 100 * proportional(module, rows)
        key = (depth > 0, module.label, module.in_features, module.out_features)
        dense = 100 * SECONDS_PER_ELEMENT * rows * module.in_features * module.out_features
        return dense * factors.setdefault(key, draw.uniform(0.2, 2.5))

    def enter(module: nn.Module, args: object) -> None:
        nonlocal depth
        depth += isinstance(module, nn.Sequential)

    def leave(module: nn.Module, args: object, output: object) -> None:
        nonlocal depth
        depth -= isinstance(module, nn.Sequential)

    entering, leaving = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        with modules_take(cost):
            found = accelerate(model, x, seconds=0.3)
            model.eval()
            assert relative_difference(found.model(x), model(x)) <= 1e-4
            if not kernels_in(found.model):
                return
            with torch.no_grad():
                again = ratios({"dense": lambda: model(x), "ours": lambda: found.model(x)}, "dense", rounds=7)
    finally:
        entering.remove()
        leaving.remove()
    assert again["ours"].median >= 1, str(found)
