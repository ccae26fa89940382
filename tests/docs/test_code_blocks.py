"""Every Python and YAML block of README and docs is run, page by page; Python prints what it says."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from omegaconf import OmegaConf

from lightning_dynprune import DynamicPruning
from tests.callback.runs import Data, Net
from tests.docs.documents import DOCS, EXAMPLES, PAGES, blocks, name

# Pages whose blocks need a package that not every installation has.
NEEDS = {
    "docs/guide/deploy.md": ("onnx", "onnxscript", "onnxruntime"),
}
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_the_python_blocks_of_a_page_run_in_order_and_print_what_they_say(page, tmp_path, monkeypatch):
    for package in NEEDS.get(name(page), ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks(page, "python"):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
            lines = iter(printed.getvalue().splitlines())
            for expected in re.findall(r"# -> (.+)$", block.text, re.MULTILINE):
                assert expected in lines, f"{block.place} does not print {expected!r}:\n{printed.getvalue()}"


YAML = [block for page in PAGES for block in blocks(page, "yaml")]


# Lightning itself still calls jsonargparse by names that this one has deprecated.
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.parametrize(
    "block", [block for block in YAML if "class_path" in block.text], ids=lambda block: block.place
)
def test_a_yaml_block_of_classes_configures_a_run_of_lightning_cli(block, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(block.text, encoding="utf-8")
    short = {"max_epochs": 2, "accelerator": "cpu", "logger": "false", "enable_checkpointing": "false"}
    quiet = {"enable_progress_bar": "false", "enable_model_summary": "false", "default_root_dir": tmp_path}
    flags = [f"--trainer.{flag}={value}" for flag, value in (short | quiet).items()]
    monkeypatch.setattr("sys.argv", ["train.py", "fit", "--config", str(tmp_path / "config.yaml"), *flags])
    cli = LightningCLI(Net, Data, save_config_callback=None, seed_everything_default=0)
    (pruning,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, DynamicPruning))
    assert f"sparsity: {pruning.sparsity}\n" in block.text


@pytest.mark.parametrize(
    "block", [block for block in YAML if "class_path" not in block.text], ids=lambda block: block.place
)
def test_any_other_yaml_block_is_settings_of_hydra(block):
    settings = OmegaConf.create(block.text)
    if "defaults" in settings:  # tests/app/hydra_apps runs the program of these settings
        example = OmegaConf.load(DOCS / "examples" / "hydra_app" / "conf" / "config.yaml")
        assert set(settings) <= set(example)
        assert settings.defaults[0] in example.defaults
    else:
        assert set(settings) == {"_target_"}


def test_the_readme_and_every_page_of_the_guide_have_python_or_commands():
    for page in PAGES:
        if page.name == "README.md" or page.parent.name == "guide":
            assert blocks(page, "python") or blocks(page, "sh") or page.stem == "many_processes", name(page)
    assert len(blocks(PAGES[0], "python")) == 2


def test_no_page_has_a_block_of_a_kind_that_nothing_checks():
    directives = {"{toctree}", "{eval-rst}", "{literalinclude}", "{include}"}
    for page in PAGES:
        for block in blocks(page):
            kind = block.language.split()[0] if block.language else ""
            assert kind in {"python", "sh", "text", "yaml"} | directives, f"{block.place}: {block.language!r}"
            assert kind != "text" or name(page) == "docs/architecture.md", f"{block.place}: text is not checked"
