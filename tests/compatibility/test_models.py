"""What networks are made of: each kind of layer trains as any other does, exactly and resumed to the bit."""

from __future__ import annotations

import copy

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from tests.compatibility.runs import SPARSITY, STRATEGIES, Module, fit, holds, network, pruning
from tests.training import trainer

both_strategies = pytest.mark.parametrize("strategy", STRATEGIES)


class Between(nn.Module):
    """A layer that is given 8 numbers a sample in its own shape, and a linear head over what it returns."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layer, self.shape, self.head = layer, shape, nn.Linear(outputs, 4)

    def forward(self, x):
        y = self.layer(x.unflatten(1, self.shape))
        return self.head((y[0] if isinstance(y, tuple) else y).flatten(1))


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x)[0]


class Lookup(nn.Module):
    """Reads a row for the sign of each number."""

    def __init__(self, table: nn.Embedding | nn.EmbeddingBag) -> None:
        super().__init__()
        self.table, self.head = table, nn.LazyLinear(4)
        self(torch.zeros(1, 8))

    def forward(self, x):
        return self.head(self.table((x > 0).long() + 2 * torch.arange(8)).flatten(1))


class Pair(nn.Bilinear):
    def forward(self, x):
        return super().forward(*x.chunk(2, 1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.second(self.first(self.read(x).relu()).relu()))


class LoRA(nn.Linear):
    """A frozen layer and a trained product of two thin matrices beside it."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__(inputs, outputs)
        self.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x):
        return super().forward(x) + x @ self.lora_A.T @ self.lora_B.T


class Small(nn.Module):
    """Parameters of one entry, of none and of no dimension, and modules without any."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.one = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor([[0.5]]))
        self.none = nn.Parameter(torch.empty(0, 3))
        self.read, self.nothing = nn.Linear(8, 4), nn.Sequential(nn.Identity(), nn.Sequential(), nn.ReLU())

    def forward(self, x):
        return self.nothing(self.read(x)) * self.scale + self.one


def frozen() -> nn.Module:
    net = network()
    net[0].requires_grad_(False)
    return net


# Network -> how it is made, what is asked for, and the targets that this comes to.
NETWORKS = {
    "Conv1d": (lambda: Between(nn.Conv1d(2, 6, 2), (2, 4), 18), None, ["layer.weight", "head.weight"]),
    "Conv2d": (lambda: Between(nn.Conv2d(2, 6, 2), (2, 2, 2), 6), None, ["layer.weight", "head.weight"]),
    "Conv3d": (lambda: Between(nn.Conv3d(1, 6, 2), (1, 2, 2, 2), 6), None, ["layer.weight", "head.weight"]),
    "ConvTranspose1d": (
        lambda: Between(nn.ConvTranspose1d(2, 4, 2), (2, 4), 20),
        None,
        ["layer.weight", "head.weight"],
    ),
    "ConvTranspose2d, grouped": (
        lambda: Between(nn.ConvTranspose2d(2, 4, 2, groups=2), (2, 2, 2), 36),
        None,
        ["layer.weight", "head.weight"],
    ),
    "BatchNorm": (
        lambda: Between(nn.Sequential(nn.Conv1d(2, 6, 2), nn.BatchNorm1d(6)), (2, 4), 18),
        None,
        ["layer.0.weight", "head.weight"],
    ),
    "Bilinear": (
        lambda: Between(Pair(4, 4, 6), (8,), 6),
        [nn.Bilinear, nn.Linear],
        ["layer.weight", "head.weight"],
    ),
    "RNN": (
        lambda: Between(nn.RNN(2, 6, batch_first=True), (4, 2), 24),
        [nn.RNN, nn.Linear],
        ["layer.weight_ih_l0", "layer.weight_hh_l0", "head.weight"],
    ),
    "LSTM, projected": (
        lambda: Between(nn.LSTM(2, 6, proj_size=3, batch_first=True), (4, 2), 12),
        nn.LSTM,
        ["layer.weight_ih_l0", "layer.weight_hh_l0", "layer.weight_hr_l0"],
    ),
    "GRU, bidirectional": (
        lambda: Between(nn.GRU(2, 4, batch_first=True, bidirectional=True), (4, 2), 32),
        "*.weight_hh_*",
        ["layer.weight_hh_l0", "layer.weight_hh_l0_reverse"],
    ),
    "MultiheadAttention": (
        lambda: Between(Attention(4, 2, batch_first=True), (2, 4), 8),
        None,
        ["layer.in_proj_weight", "layer.out_proj.weight", "head.weight"],
    ),
    "TransformerEncoderLayer": (
        lambda: Between(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), (2, 4), 8),
        None,
        [
            "layer.self_attn.in_proj_weight",
            "layer.self_attn.out_proj.weight",
            "layer.linear1.weight",
            "layer.linear2.weight",
            "head.weight",
        ],
    ),
    "Embedding": (lambda: Lookup(nn.Embedding(16, 5)), ["*table*", "*head*"], ["table.weight", "head.weight"]),
    "EmbeddingBag": (lambda: Lookup(nn.EmbeddingBag(16, 5)), nn.EmbeddingBag, ["table.weight"]),
    "tied": (Tied, None, ["read.weight", "first.weight", "head.weight"]),
    "LoRA": (
        lambda: nn.Sequential(LoRA(8, 12), nn.ReLU(), LoRA(12, 4)),
        "*.lora_?",
        ["0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B"],
    ),
    "small and empty": (
        Small,
        ["*.scale", "*.one", "*.none", "*.read.weight"],
        ["scale", "one", "none", "read.weight"],
    ),
}


def seeded(make):
    """Return a function that makes the network with the same weights each time."""

    def made():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Module(make())

    return made


@both_strategies
@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_of_any_kind_is_pruned_exactly_and_resumes_to_the_bit(name, strategy, tmp_path):
    make, targets, expected = NETWORKS[name]
    module, ours, _ = holds(tmp_path, strategy, seeded(make), settings={"targets": targets})
    assert sorted(ours.masks) == sorted(f"net.{target}" for target in expected)
    assert all(torch.equal(module.get_parameter(t) != 0, mask) for t, mask in ours.masks.items())


@both_strategies
def test_a_model_built_in_configure_model(strategy, tmp_path):
    class Late(Module):
        def __init__(self):
            super().__init__(nn.Identity())

        def configure_model(self):
            if isinstance(self.net, nn.Identity):
                self.net = network()

    _, ours, _ = holds(tmp_path, strategy, Late)
    assert list(ours.masks) == ["net.0.weight", "net.3.weight"]


class Lazy(Module):
    def __init__(self):
        super().__init__(nn.Sequential(nn.LazyLinear(24), nn.ReLU(), nn.LazyLinear(4)))


@both_strategies
def test_a_lazy_layer_after_its_first_forward(strategy, tmp_path):
    class Warmed(Lazy):
        def configure_model(self):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.net(torch.zeros(1, 8))

    _, ours, _ = holds(tmp_path, strategy, Warmed)
    assert [tuple(mask.shape) for mask in ours.masks.values()] == [(24, 8), (4, 24)]


@both_strategies
def test_a_frozen_layer_is_named_and_stays_dense(strategy, tmp_path):
    with pytest.warns(UserWarning, match=r"frozen, so not pruned: net\.0\.weight"):
        module, ours, _ = holds(tmp_path, strategy, lambda: Module(frozen()))
    assert list(ours.masks) == ["net.3.weight"]
    assert torch.equal(module.net[0].weight, network()[0].weight)


@both_strategies
def test_tied_weights_are_counted_once_and_saved_under_both_names(strategy, tmp_path):
    module, ours, _ = fit(tmp_path, strategy, seeded(Tied))
    assert ours.pruner.masks.total == 8 * 16 + 16 * 16 + 16 * 4
    assert module.net.second.weight is module.net.first.weight
    state = module.state_dict()
    assert torch.equal(state["net.first.weight"], state["net.second.weight"])
    plain = Tied()
    plain.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})
    assert torch.equal(plain.second.weight != 0, ours.masks["net.first.weight"])


@both_strategies
def test_channels_last_weights_stay_channels_last(strategy, tmp_path):
    def make():
        return Between(nn.Conv2d(2, 6, 2), (2, 2, 2), 6).to(memory_format=torch.channels_last)

    module, ours, _ = holds(tmp_path, strategy, seeded(make))
    weight = module.net.layer.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert ours.masks["net.layer.weight"].stride() == weight.stride()


@both_strategies
def test_the_fast_path_of_a_transformer_in_evaluation_reads_the_zeros(strategy, tmp_path):
    make, _, _ = NETWORKS["TransformerEncoderLayer"]
    module, _, _ = fit(tmp_path, strategy, seeded(make))
    net, x = module.net.eval(), torch.randn(3, 8)
    slow = copy.deepcopy(net)
    with torch.no_grad():
        fast = net(x)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            assert torch.allclose(fast, slow(x), atol=1e-6)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("strategy", ["magnitude", "straight_through"])
@pytest.mark.parametrize("table", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients_train_on_where_no_gradient_is_read(table, strategy, tmp_path):
    class Sparse(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Sparse(Lookup(table(16, 5, sparse=True)))

    holds(tmp_path, strategy, make, settings={"targets": table})


@both_strategies
def test_a_callback_that_goes_to_a_module_of_the_same_parameters_keeps_their_masks(strategy, tmp_path):
    class Sparsities(L.Callback):
        def on_train_batch_end(self, *args):
            seen.append(ours.sparsity)

    net, ours, seen = network(), pruning(strategy), []
    trainer([ours], tmp_path).fit(Module(net))
    assert ours.sparsity == SPARSITY
    trainer([ours, Sparsities()], tmp_path).fit(Module(net))
    assert set(seen) == {SPARSITY}
    assert all(torch.equal(net.get_parameter(t.removeprefix("net.")) != 0, mask) for t, mask in ours.masks.items())


@both_strategies
@pytest.mark.parametrize("width", [16, 24])
def test_a_callback_that_goes_to_another_model_begins_anew(width, strategy, tmp_path):
    def make():
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return Module(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)))

    ours, alone = pruning(strategy), pruning(strategy)
    trainer([ours], tmp_path).fit(Module(nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 4))))
    second, first = make(), make()
    trainer([ours], tmp_path).fit(second)
    trainer([alone], tmp_path).fit(first)
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), first.parameters(), strict=True))
    assert ours.sparsity == SPARSITY
