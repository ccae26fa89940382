"""Settings and state of a pruner in its repr and in a notebook."""

from __future__ import annotations

from torch import nn

from lightning_dynprune import DynamicPruning, Pruner


def pruned() -> Pruner:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    pruner = Pruner(net, sparsity=0.5, strategy="magnitude", schedule={"name": "one_shot", "begin": 1}, seed=3)
    pruner.tick()
    return pruner


def test_the_repr_of_a_pruner_names_its_parts_what_differs_from_the_default_and_its_state() -> None:
    assert repr(pruned()) == (
        "<Pruner(sparsity=0.5, strategy=Magnitude(norm=1), threshold=TopK(scope='global'), "
        "schedule=OneShot(final=0.5, initial=0.0, begin=1), pattern=Element(), seed=3): "
        "50.00% of 24 connections in 2 targets pruned, 1 update>"
    )


def test_the_repr_of_a_callback_says_that_nothing_was_trained() -> None:
    assert repr(DynamicPruning(0.9, strategy="set")).endswith("pattern=Element()): no fit yet>")
    assert "strategy=SET(" in repr(DynamicPruning(0.9, strategy="set"))


def test_a_notebook_shows_a_row_for_every_target() -> None:
    pruner = pruned()
    html = pruner._repr_html_()
    for name, sparsity in pruner.layer_sparsity.items():
        kept = round(pruner.connections[name] * (1 - sparsity))
        assert f"{name}</td><td>{pruner.connections[name]}</td><td>{kept}</td><td>{sparsity:.2%}</td>" in html


def test_names_are_escaped_in_a_notebook() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("<script>", nn.Linear(2, 2))

    assert "<script>" not in Pruner(Odd(), sparsity=0.5, strategy="magnitude", total_steps=10)._repr_html_()


def test_a_callback_shows_its_settings_in_a_notebook_before_a_fit() -> None:
    html = DynamicPruning(targets={"*": {"sparsity": 0.5}})._repr_html_()
    assert "no fit yet" in html
    assert "{&#x27;*&#x27;: {&#x27;sparsity&#x27;: 0.5}}" in html
