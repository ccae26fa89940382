"""What holds for every metric: reset, pickling, casts, ranks, collections, no wait on a device."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import distributed as dist
from torchmetrics import MetricCollection

from lightning_dynprune.metrics import Churn, CompressionRatio, LayerSparsity, Sparsity
from tests.processes.group import together

FIRST = torch.tensor([True, False, False, False])
SECOND = torch.tensor([True, True, False, True, True])

# metric, arguments of two updates, the value after the first and after both
CASES = {
    "sparsity": (Sparsity(), ([FIRST],), ([SECOND],), 3 / 4, 4 / 9),
    "layers": (LayerSparsity(["a"]), ({"a": FIRST},), ({"a": SECOND},), {"a": 3 / 4}, {"a": 4 / 9}),
    "churn": (Churn(), (FIRST, ~FIRST), (SECOND, SECOND), 1.0, 4 / 9),
    "compression": (CompressionRatio(), ([FIRST.float()],), ([SECOND.half()],), 4.0, 9 / 5),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request):
    metric, *rest = CASES[request.param]
    return copy.deepcopy(metric), *rest


def value(metric):
    result = metric.compute()
    return {k: v.item() for k, v in result.items()} if isinstance(result, dict) else result.item()


def test_updates_accumulate_and_reset_forgets(case):
    metric, first, second, after_first, after_both = case
    metric.update(*first)
    assert value(metric) == after_first
    metric.update(*second)
    assert value(metric) == after_both
    metric.reset()
    metric.update(*first)
    assert value(metric) == after_first


def test_a_pickled_or_copied_metric_goes_on_where_it_was(case):
    metric, first, second, _, after_both = case
    metric.update(*first)
    for twin in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        twin.update(*second)
        assert value(twin) == after_both


def test_every_state_is_an_int64_that_ranks_sum(case):
    metric = case[0]
    for name, default in metric._defaults.items():
        assert default.dtype == torch.int64
        assert metric._reductions[name] is torch.sum or metric._reductions[name].__name__ == "dim_zero_sum"


def test_results_are_float64_whatever_the_metric_was_cast_to(case):
    metric, first, _, after_first, _ = case
    metric = metric.half().set_dtype(torch.float16)
    metric.update(*first)
    result = metric.compute()
    assert {t.dtype for t in (result.values() if isinstance(result, dict) else [result])} == {torch.float64}
    assert value(metric) == after_first


def test_two_metrics_merge_into_the_value_of_both_updates(case):
    metric, first, second, _, after_both = case
    other = copy.deepcopy(metric)
    metric.update(*first)
    other.update(*second)
    metric.merge_state(other)
    assert value(metric) == after_both


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_update_never_waits_for_the_device(case):
    # The meta device has no values: whatever reads one (.item(), a branch on a tensor) raises there.
    metric, first, *_ = case

    def to_meta(given):
        if isinstance(given, torch.Tensor):
            return given.to("meta")
        if isinstance(given, dict):
            return {name: to_meta(mask) for name, mask in given.items()}
        return [to_meta(mask) for mask in given]

    metric.to("meta").update(*(to_meta(given) for given in first))
    result = metric.compute()
    assert (result["a"] if isinstance(result, dict) else result).device.type == "meta"


def test_a_collection_gives_each_metric_its_own_arguments():
    collection = MetricCollection(
        {
            "sparsity": Sparsity(),
            "layer": LayerSparsity(["a"]),
            "churn": Churn(),
            "compression": CompressionRatio(),
        }
    )
    for after in (FIRST, FIRST):
        collection.update(masks={"a": after}, before={"a": ~FIRST}, after={"a": after}, model=[after.float()])
    result = {name: share.item() for name, share in collection.compute().items()}
    assert result == {"sparsity": 0.75, "a": 0.75, "churn": 1.0, "compression": 4.0}


def _values(rank):
    values = {}
    for name, (metric, first, second, _, _) in CASES.items():
        metric.update(*(first if rank == 0 else second))
        values[name] = value(metric)
    return values


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_two_processes_agree_on_the_value_of_both_updates(tmp_path):
    expected = {name: case[4] for name, case in CASES.items()}
    assert together(2, _values, tmp_path) == [expected, expected]
