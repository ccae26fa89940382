"""Mistakes on the command line: each ends in one sentence of at most three lines that names what would be accepted."""

from __future__ import annotations

import textwrap

import pytest

from tests.app.program import dynprune, dynprune_afresh

# The command line, and what the message says.
MISTAKES = {
    "sparsity=90": "give a number in [0, 1); did you mean 0.9?",
    "sparsity=1.2": "sparsity=1.2 is not accepted; give a number in [0, 1)",
    "sparsity=most": "sparsity='most' is not a number; give a number in [0, 1)",
    "sparsity=": "sparsity='' is not a number; give a number in [0, 1)",
    "sparsty=0.5": "there is no setting sparsty; did you mean sparsity?",
    "stratgey=rigl": "there is no setting stratgey; did you mean strategy?",
    "strategy=rigll": "strategy=rigll is unknown; did you mean rigl?",
    "strategy=RigL": "strategy=RigL is unknown; did you mean rigl?",
    "+strategy=rigl": "write strategy=NAME without a + before it",
    "strategy rigl": "write KEY=VALUE",
    "pattern=n_m sparsity=0.7": "which is 0.5 here; leave sparsity out, or choose other n and m",
    "pattern.n=2": "there is no setting pattern.n",
    "schedule=cubic schedule.begin=0.8 schedule.end=0.3": "give an end at or after begin",
    "schedule.end=100000": "give an end of at most 1140 steps or train longer",
    "threshold.scope=globl": "scope='globl' is unknown; known: global, uniform",
    "threshold=hysteresis threshold.a=2": "b=1.1 is not accepted",
    "targets.include=[nothing*]": "'nothing*' matches no parameter; there are network.fc1.weight",
    "targets.min_kept=0": "give a whole number of at least 1",
    "trainer.max_epochs=0": "trainer.max_epochs=0 is not accepted; give a whole number of at least 1",
    "trainer.max_epoch=3": "did you mean trainer.max_epochs?",
    "trainer.accelerator=gpuu": "Available names are: auto",
    "trainer.precision=8": "Allowed precision values",
    "data.batchsize=3": "did you mean data.batch_size?",
    "model=lenet5": "model=lenet5 needs images of at least 16x16",
    "optimizer.lr=-1": "optimizer.lr=-1 is not accepted; give a number above 0",
    "lr_schedule=cos": "lr_schedule='cos' is unknown; did you mean cosine?",
    "objective=acc": "objective='acc' is unknown; did you mean accuracy?",
    "seed=0,1": "sweep over them with dynprune -m",
    "slim=ends": "slim='ends' is unknown; did you mean end?",
    "guard=accuracy guard.mode=maxx": "mode='maxx' is unknown; known: max, min",
    "task=deploy": "give checkpoint=FOLDER",
    "task=deploy checkpoint=nowhere": "there is no such path",
    "task=deploy checkpoint=nowhere formats=[onxx]": "did you mean onnx?",
    "resume=nowhere": "give a run's folder or its last.ckpt",
    "sweep.resume=nowhere": "give the folder of a sweep",
    "hydra/launcher=joblibb -m seed=1,2": "hydra/launcher=joblibb is unknown",
    "--multirn seed=1,2": "there is no flag --multirn; did you mean --multirun?",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_sentence_and_leaves_no_folder(mistake, tmp_path):
    arguments = [mistake] if mistake == "strategy rigl" else mistake.split()
    refused = dynprune(*arguments, folder=tmp_path)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert MISTAKES[mistake] in refused.stderr
    (sentence,) = refused.stderr.splitlines()
    assert sentence.startswith("dynprune: ")
    assert len(textwrap.wrap(sentence, 120)) <= 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wish", ["hydra.verbose=true", "HYDRA_FULL_ERROR"])
@pytest.mark.parametrize("mistake", ["strategy=rigll", "sparsity=90"])
def test_a_traceback_is_printed_where_it_is_asked_for(mistake, wish, tmp_path, monkeypatch):
    arguments = [mistake]
    if wish == "HYDRA_FULL_ERROR":
        monkeypatch.setenv(wish, "1")
    else:
        arguments.append(wish)
    refused = dynprune_afresh(*arguments, folder=tmp_path)
    assert refused.returncode == 1
    assert "Traceback" in refused.stderr


LIGHT = """
import sys
import lightning_dynprune.app.main as program
sys.argv = ["dynprune", *{arguments}]
try:
    program.run()
except SystemExit:
    pass
print([name for name in ("torch", "lightning", "numpy", "matplotlib", "sklearn") if name in sys.modules])
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["sparsity=90"], ["strategy=rigll"]], ids=str)
def test_what_needs_no_training_imports_no_large_library(arguments, tmp_path):
    import subprocess
    import sys

    from tests.app.program import environment

    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(arguments=arguments)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("[]\n")
