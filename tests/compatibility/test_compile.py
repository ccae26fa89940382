import pytest, torch
from tests.compatibility.runs import STRATEGIES, Module, holds, fit, trainer, pruning, Watch
import time
class Inside(Module):
    def __init__(self):
        super().__init__(); self.net=torch.compile(self.net)
@pytest.mark.parametrize("strategy",STRATEGIES)
def test_inside(strategy,tmp_path):
    t=time.process_time()
    m,p,_=holds(tmp_path,strategy,Inside)
    print("NAMES",list(p.masks), time.process_time()-t, dict(torch._dynamo.utils.counters["stats"]))
@pytest.mark.parametrize("strategy",STRATEGIES)
def test_outside(strategy,tmp_path):
    t=time.process_time()
    m,p,_=holds(tmp_path,strategy,lambda: torch.compile(Module()))
    print("NAMES",list(p.masks), time.process_time()-t, dict(torch._dynamo.utils.counters["stats"]))
