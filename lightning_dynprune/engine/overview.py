"""Settings and state of a pruner in one line of text, and as a table for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from lightning_dynprune.engine.settings import Settings

_PARTS = ("strategy", "threshold", "schedule", "pattern")


def describe(owner: str, settings: Settings, state: str) -> str:
    """Return the settings and state of a pruner as one line, for ``repr``.

    Sparsity, strategy, threshold, schedule and pattern are always named, other settings where they differ from the
    default.

    Args:
        owner: name of the class that has the settings.
        settings: of the pruner.
        state: what has been pruned, in words.

    Example:
        >>> describe("Pruner", Settings.build(sparsity=0.9, strategy="magnitude", seed=3), "nothing pruned yet")
        "<Pruner(sparsity=0.9, strategy=Magnitude(norm=1), threshold=TopK(scope='global'), \
schedule=Cubic(final=0.9, initial=0.0, begin=0.25, end=0.75, every=0.01, power=3.0), pattern=Element(), \
seed=3): nothing pruned yet>"
    """
    named = ", ".join(f"{name}={value}" for name, value in _shown(settings).items())
    return f"<{owner}({named}): {state}>"


def progress_text(sparsity: float, updates: int | None, connections: Mapping[str, int]) -> str:
    """Return in words how far the pruning is.

    Args:
        sparsity: share of connections pruned.
        updates: number of updates of the masks so far; None: not known.
        connections: connections of every target, by name.

    Example:
        >>> progress_text(0.9, 37, {"0.weight": 19_200, "2.weight": 3_000})
        '90.00% of 22,200 connections in 2 targets pruned, 37 updates'
    """
    targets = f"{len(connections)} target{'' if len(connections) == 1 else 's'}"
    count = "" if updates is None else f", {updates} update{'' if updates == 1 else 's'}"
    return f"{sparsity:.2%} of {sum(connections.values()):,} connections in {targets} pruned{count}"


def html_table(
    owner: str, settings: Settings, state: str, connections: Mapping[str, int], layer_sparsity: Mapping[str, float]
) -> str:
    """Return the settings, the state and a row a target as HTML, for ``_repr_html_``.

    Args:
        owner: name of the class that has the settings.
        settings: of the pruner.
        state: what has been pruned, in words.
        connections: connections of every target, by name.
        layer_sparsity: share of them that is pruned, by name.
    """
    given = "".join(
        f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{escape(value)}</td></tr>"
        for name, value in _shown(settings).items()
    )
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(name)}</td><td>{count:,}</td>"
        f"<td>{round(count * (1 - layer_sparsity[name])):,}</td><td>{layer_sparsity[name]:.2%}</td></tr>"
        for name, count in connections.items()
    )
    layers = (
        "<div style='max-height:30em;overflow:auto'><table><thead><tr><th style='text-align:left'>target</th>"
        f"<th>connections</th><th>kept</th><th>pruned</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return (
        f"<div><b>{escape(owner)}</b>: {escape(state)}"
        f"<table><tbody>{given}</tbody></table>{layers if connections else ''}</div>"
    )


def _shown(settings: Settings) -> dict[str, str]:
    """Return the settings to show, as text: the sparsity, the parts, and what else differs from the default."""
    values, defaults = vars(settings), vars(Settings.build(sparsity=0.5))
    given = () if settings.sparsity is None else ("sparsity",)
    others = [name for name in values if name not in ("sparsity", *_PARTS) and values[name] != defaults[name]]
    return {name: repr(values[name]) for name in (*given, *_PARTS, *others)}
