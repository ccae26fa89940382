import inspect
import pytest, torch
from torch import nn
from tests.compatibility.runs import STRATEGIES, Module, holds, network

V = {
 "Adadelta": [{}, {"foreach": True}],
 "Adafactor": [{"lr":1e-2}, {"foreach": True}],
 "Adagrad": [{}, {"foreach": True}, {"fused": True}, {"initial_accumulator_value": 0.1}],
 "Adam": [{}, {"foreach": True}, {"fused": True}, {"amsgrad": True}, {"capturable": True},{"differentiable": True}],
 "AdamW": [{}, {"foreach": True}, {"fused": True}],
 "Adamax": [{}, {"foreach": True}],
 "ASGD": [{"t0":5}, {"foreach": True}],
 "LBFGS": [{"lr":0.1,"max_iter":4}, {"lr":1.0,"max_iter":4,"line_search_fn":"strong_wolfe"}],
 "Muon": [{}],
 "NAdam": [{}, {"foreach": True}],
 "RAdam": [{}, {"foreach": True}],
 "RMSprop": [{"momentum":0.9,"centered":True}, {"foreach": True}],
 "Rprop": [{}, {"foreach": True}],
 "SGD": [{"momentum": 0.9, "nesterov": True,"weight_decay":1e-2}, {"momentum":0.9,"foreach": True}, {"fused": True,"momentum":0.9}],
 "SparseAdam": [{}],
}
C=[(n,k) for n,v in V.items() for k in v]
@pytest.mark.parametrize(("name","kw"), C, ids=[n+"-"+"-".join(k) for n,k in C])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_o(strategy, name, kw, tmp_path):
    class M(Module):
        def configure_optimizers(self):
            ps = list(self.parameters())
            if name == "Muon": ps = [p for p in ps if p.dim()==2]
            return getattr(torch.optim, name)(ps, **({"lr": 1e-2} | kw))
    holds(tmp_path, strategy, M)
