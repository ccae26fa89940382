"""FSDP2 and tensor parallelism through Lightning's ModelParallelStrategy, on CPU."""

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from tests.compatibility.runs import SPARSITY, STRATEGIES, Module, pruning
from tests.conformance.loop import same
from tests.processes.launching import ends, launched
from tests.training import trainer

RUNS = ["taylor-folder", "taylor-file", "straight_through-file"]
TENSOR_PARALLEL = [f"tensor-{strategy}" for strategy in STRATEGIES]
TARGETS = {"net.0.weight": 200, "net.2.weight": 100}


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory):
    return launched(tmp_path_factory, "fsdp", "others")


def saved(folder, run: str):
    """Return what the checkpoint in the middle of a run keeps beside weights and optimizers, or all of it."""
    path = folder / run / "step=10.ckpt"
    return torch.load(path / "meta.pt" if path.is_dir() else path, weights_only=True)


def test_both_kinds_of_checkpoints_are_written(fsdp):
    assert (fsdp / "taylor-folder" / "step=10.ckpt").is_dir()
    assert (fsdp / "taylor-file" / "step=10.ckpt").is_file()


@pytest.mark.parametrize("run", RUNS + TENSOR_PARALLEL)
def test_parameters_in_parts_end_exact_and_every_process_says_so(run, fsdp):
    told = ends(fsdp, run)
    assert len(told) == 2
    targets = list(told[0]["layer_sparsity"])
    connections = sum(told[0]["state"][name].numel() for name in targets)
    assert sum(int((told[0]["state"][name] == 0).sum()) for name in targets) == SPARSITY * connections
    for own in told:
        assert own["sparsity"] == SPARSITY
        assert own["sparsities"] == told[0]["sparsities"]
        assert same(own["state"], told[0]["state"])
        assert same(own["pruning"], told[0]["pruning"])


@pytest.mark.parametrize("run", RUNS + TENSOR_PARALLEL)
def test_every_process_logs_the_sparsity_of_the_whole(run, fsdp):
    for own in ends(fsdp, run):
        assert own["logged"] == pytest.approx(own["sparsities"])
        assert own["metrics"]["dynprune/target_sparsity"] == own["metrics"]["dynprune/val_sparsity"] == SPARSITY
        for name, share in own["layer_sparsity"].items():
            assert own["metrics"][f"dynprune/layer/{name}"] == pytest.approx(share)
        parameters = sum(tensor.numel() for tensor in own["state"].values())
        nonzero = sum(int(tensor.count_nonzero()) for tensor in own["state"].values())
        last = ends(fsdp, run)[0]["metrics"]["dynprune/compression"]
        assert last == pytest.approx(parameters / nonzero)


@pytest.mark.parametrize("run", RUNS + TENSOR_PARALLEL)
def test_a_resumed_run_with_parts_is_the_unbroken_run_to_the_bit(run, fsdp):
    for unbroken, resumed in zip(ends(fsdp, run), ends(fsdp, f"{run}-resumed"), strict=True):
        assert same(resumed["state"], unbroken["state"])
        assert same(resumed["pruning"], unbroken["pruning"])
        assert 0 < len(resumed["sparsities"]) < len(unbroken["sparsities"])


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("run", RUNS)
def test_a_checkpoint_of_two_processes_goes_on_in_another_number_of_them(run, processes, fsdp):
    kept = saved(fsdp, run)["callbacks"]["DynamicPruning"]
    told = ends(fsdp, f"{run}-in-{processes}")
    assert len(told) == processes
    for own in told:
        assert same(own["begun"]["masks"], kept["masks"])
        assert own["begun"]["sparsity"] == kept["last_update"]["sparsity"] > 0
        assert own["pruning"]["clock"] == {"step": 24, "epoch": 4}
        assert own["sparsity"] == SPARSITY
        assert sum(int((own["state"][name] == 0).sum()) for name in TARGETS) == SPARSITY * sum(TARGETS.values())
        assert same(own["state"], told[0]["state"])
        assert same(own["pruning"], told[0]["pruning"])


@pytest.mark.parametrize("run", ["taylor-file", "straight_through-file"])
def test_the_weights_of_a_full_checkpoint_load_strictly_into_the_plain_model_with_zeros_in_place(run, fsdp):
    checkpoint = saved(fsdp, run)
    net = nn.Sequential(nn.Linear(8, 25), nn.ReLU(), nn.Linear(25, 4))
    net.load_state_dict({k.removeprefix("net."): v for k, v in checkpoint["state_dict"].items()}, strict=True)
    zeros = sum(int((net.get_parameter(name.removeprefix("net.")) == 0).sum()) for name in TARGETS)
    pruned = round(checkpoint["callbacks"]["DynamicPruning"]["last_update"]["sparsity"] * sum(TARGETS.values()))
    assert zeros == pruned > 0


@pytest.mark.parametrize(
    ("name", "setting", "accepted"),
    [
        ("guard", "a guard", "remember_values=False"),
        ("channel", "pattern channel", "pattern='element'"),
        ("wanda", "strategy=Wanda", "one that scores connection by connection"),
        ("reconstruct", "reconstruct=True", "reconstruct=False"),
        ("rewind", "rewind=2", "rewind=None"),
    ],
)
def test_what_needs_whole_targets_is_refused_before_the_first_batch(name, setting, accepted, fsdp):
    for rank in (0, 1):
        words = (fsdp / f"{name}-{rank}.txt").read_text()
        assert words.startswith("0 batches: ")
        assert setting in words
        assert f"several processes hold parts of net.0.weight (FSDP2 or tensor parallelism); give {accepted}" in words


def test_a_seed_that_depends_on_the_rank_is_refused_before_the_first_batch_naming_the_values(fsdp):
    for rank in (0, 1):
        assert "0 batches: seed is 0 on rank 0 and 1 on rank 1" in (fsdp / f"seed-{rank}.txt").read_text()


class FSDPStrategy(SingleDeviceStrategy):
    """Stands in for Lightning's FSDP1, which does not run without a GPU."""


class DeepSpeedStrategy(SingleDeviceStrategy):
    """Stands in for DeepSpeed."""


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
def test_a_strategy_that_flattens_parameters_is_refused_naming_what_would_do(strategy, tmp_path):
    run = trainer([pruning("taylor")], tmp_path, strategy=strategy(device=torch.device("cpu")))
    with pytest.raises(ValueError, match=rf"strategy={strategy.__name__}.*use ModelParallelStrategy with fully_shard"):
        run.fit(Module())
    assert run.global_step == 0
