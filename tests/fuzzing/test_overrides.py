"""Whatever the overrides of ``dynprune`` are: the program composes and builds the pruning, or refuses in words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_dynprune import DynamicPruning
from lightning_dynprune.app.runs import ResumeError
from lightning_dynprune.app.runs.resume import safe_overrides
from lightning_dynprune.app.settings_folder import conf_dir
from lightning_dynprune.app.tasks.pruning_settings import new_pruning
from tests.fuzzing.settings import examples

GROUPS = {
    path.name: sorted(file.stem for file in path.iterdir())
    for path in conf_dir().iterdir()
    if path.is_dir() and path.name != "hydra"
}
VALUES = (
    "0", "0.5", "0.9", "1.2", "-1", "1e400", "nan", "inf", "null", "true", "''", "abc", "[]", "[1,a]", "{a:1}", "1_0",
    "${seed}", "${nothing}", "${oc.env:DYNPRUNE_SECRET}", "\\", "'", "a=b", "é\u202e", "../x", "/x", "_target_",
    "{_target_:os.mkdir}",
)  # fmt: skip
KEYS = (
    "sparsity", "reconstruct", "journal", "journal.cap", "journal.remember_values", "rewind", "slim", "seed", "guard",
    "strategy.norm", "+strategy.exchange", "threshold.scope", "+threshold.name", "schedule.begin", "schedule.end",
    "schedule.every", "+schedule.power", "pattern.rows", "+pattern.n", "targets.include", "targets.exclude",
    "targets.min_kept", "lr_hold", "~guard", "nothing", "+nothing", "optimizer.lr", "trainer.max_epochs", "data",
)  # fmt: skip
groups = st.sampled_from(sorted(GROUPS)).flatmap(lambda g: st.sampled_from(GROUPS[g]).map(f"{g}={{}}".format))
sets = st.builds("{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES))
odd = st.sampled_from(["+logger", "=", "a", "+x={_target_:os.mkdir,path:/x}"])
overrides = st.lists(groups | sets | odd, max_size=3)

SECRET = "what only the environment knows"


@pytest.fixture(autouse=True, scope="module")
def conf() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(conf_dir()), version_base="1.3"):
        patch.setenv("DYNPRUNE_SECRET", SECRET)
        yield


WORDS = (TypeError, ValueError, HydraException, OmegaConfBaseException)


def refusal(given: list[str]) -> Exception | None:
    """Return what refuses overrides; None where a pruning comes of them."""
    try:
        pruning = new_pruning(compose("config", given))
    except WORDS as error:
        return error
    return None if isinstance(pruning, DynamicPruning) else AssertionError(f"no pruning but {pruning!r}")


@examples(12)
@given(overrides)
def test_overrides_make_a_pruning_or_are_refused_in_words(given):
    if (error := refusal(given)) is not None:
        assert str(error)
        # Hydra wraps what a part raises.
        assert isinstance(error.__cause__, (*WORDS, type(None)))
        assert not isinstance(error, AssertionError)


def targets_of(tree: object) -> Iterator[str]:
    """Yield all that Hydra would call."""
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield str(tree["_target_"])
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from targets_of(branch)


@pytest.fixture(scope="module")
def shipped() -> set[str]:
    configs = [OmegaConf.load(file) for file in conf_dir().glob("**/*.yaml")]
    return {name for config in configs for name in targets_of(OmegaConf.to_container(config))}


# What could name code or a place, in ways that Hydra's grammar has.
TRICKS = (
    r"+guard.x=$\{oc.env:DYNPRUNE_SECRET\}", r"data_dir=$\{oc.env:DYNPRUNE_SECRET\}", r"+guard.x=$\{oc.decode\:x\}",
    "data_dir={_target_:os.mkdir}", r"+guard.x={_tar\ get_:a}", "+guard={a:{b:[{_target_:os.mkdir}]}}", "model=/tmp/x",
    "model=~/x", "logger.version=/tmp/x", "+logger.version='/tmp/x'", "trainer.default_root_dir=[/tmp]",
    "+x@model=/tmp/x", "'_target_'=a", "guard._target_=os.mkdir", "+guard._target_@x=y", "logger.name=C:\\x",
    "task=deploy",
)  # fmt: skip
PLACES = ("output=/tmp/x", "hydra.searchpath=[file:///tmp]", "hydra.run.dir=/tmp/x", "resume=/tmp")
DESCRIBED = ("data_dir=/data/x", "~guard", "seed=1", "logger=none")
recorded = st.lists(groups | sets | st.sampled_from((*TRICKS, *PLACES, *DESCRIBED)), max_size=3)


@examples(12)
@given(recorded)
def test_overrides_recorded_in_a_checkpoint_reach_no_target_but_those_that_are_shipped(shipped, recorded):
    try:
        config = compose("config", safe_overrides(recorded))
        container = OmegaConf.to_container(config, resolve=True)
    except (ResumeError, *WORDS):
        return
    assert set(targets_of(container)) <= shipped
    assert SECRET not in str(container)


@pytest.mark.parametrize("override", TRICKS)
def test_a_trick_in_a_recorded_override_is_refused(override):
    with pytest.raises(ResumeError, match="which may run code"):
        safe_overrides([override])


def test_where_a_run_is_read_and_written_is_not_taken_from_a_checkpoint():
    assert safe_overrides([*PLACES, *DESCRIBED]) == list(DESCRIBED)


def test_an_override_that_is_typed_again_is_trusted():
    assert safe_overrides(["logger.version=/tmp/x"], given=["logger.version=/tmp/x"]) == ["logger.version=/tmp/x"]
