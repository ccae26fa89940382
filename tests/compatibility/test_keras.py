"""A Keras 3 model on its torch backend: in a torch loop of one's own, and under ``model.fit``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_dynprune.engine import Pruner
from tests.compatibility.runs import SCHEDULE, SPARSITY, STRATEGIES
from tests.conformance.loop import same

STEPS = 24
GENERATOR = np.random.default_rng(1)
X = GENERATOR.standard_normal((8 * STEPS, 8)).astype("float32")
Y = X[:, :4].argmax(1)


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras, on torch, with its settings in a folder of the test's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        import keras

        assert keras.backend.backend() == "torch"
        with keras.device("cpu"):
            yield keras


def network(keras: Any) -> Any:
    # Layers are named, since Keras counts those that are not on through the process, and names are what resumes.
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Reshape((4, 2), name="reshape"),
            layers.Conv1D(12, 2, activation="relu", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flatten"),
            layers.Dense(4, name="head"),
        ],
        name="net",
    )


class Loop:
    """A training in plain torch that can be left at any step and gone on with in another object."""

    def __init__(self, keras: Any, strategy: str) -> None:
        self.net = network(keras)
        self.adam = torch.optim.Adam(self.net.parameters(), lr=1e-2, weight_decay=1e-2)
        settings: dict[str, Any] = {"sparsity": SPARSITY, "schedule": SCHEDULE, "total_steps": STEPS}
        self.pruner = Pruner(self.net, self.adam, strategy=strategy, targets="*/kernel", **settings)

    def run(self, steps: int) -> None:
        for number in range(self.pruner.clock.step, steps):
            rows = slice(8 * number, 8 * number + 8)
            logits = self.net(torch.from_numpy(X[rows]), training=True)
            self.adam.zero_grad()
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(Y[rows])).backward()
            self.adam.step()
            self.pruner.tick()
            for target, mask in zip(self.pruner.targets, self.pruner.masks.tensors, strict=True):
                assert torch.equal(target.parameter != 0, mask)

    def parts(self) -> list[Any]:
        return [self.net, self.adam, self.pruner]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_keras_model_in_a_torch_loop_is_exact_and_resumes_to_the_bit(strategy, keras, tmp_path):
    loop, resumed = Loop(keras, strategy), Loop(keras, strategy)
    assert [tuple(target.parameter.shape) for target in loop.pruner.targets] == [(2, 2, 12), (36, 4)]
    loop.run(10)
    torch.save([part.state_dict() for part in loop.parts()], tmp_path / "middle.pt")
    loop.run(STEPS)
    for part, state in zip(resumed.parts(), torch.load(tmp_path / "middle.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    resumed.run(STEPS)
    for one, other in zip(loop.parts(), resumed.parts(), strict=True):
        assert same(dict(one.state_dict()), dict(other.state_dict()))
    assert loop.pruner.sparsity == SPARSITY


def test_a_keras_optimizer_is_refused_in_words(keras):
    with pytest.raises(TypeError, match=r"optimizer=Adam is not accepted; .* or none with strategy='magnitude'"):
        Pruner(network(keras), keras.optimizers.Adam(), sparsity=0.5, targets="*/kernel", total_steps=4)


def test_a_keras_model_is_pruned_under_fit_and_its_saved_form_holds_the_zeros(keras, tmp_path):
    net = network(keras)
    settings: dict[str, Any] = {"sparsity": SPARSITY, "schedule": SCHEDULE, "total_steps": STEPS}
    pruner = Pruner(net, strategy="magnitude", targets="*/kernel", **settings)

    class Ticks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pruner.tick()
            for target, mask in zip(pruner.targets, pruner.masks.tensors, strict=True):
                assert torch.equal(target.parameter != 0, mask)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.AdamW(1e-2), loss)
    net.fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[Ticks()])
    assert pruner.clock.step == STEPS
    assert pruner.sparsity == SPARSITY
    net.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    kernels = [layer.kernel.numpy() for layer in loaded.layers if hasattr(layer, "kernel")]
    assert sum(int((kernel == 0).sum()) for kernel in kernels) == pruner.masks.total * SPARSITY
    assert np.array_equal(loaded.predict(X, verbose=0), net.predict(X, verbose=0))
