"""Report what slimming removed from a model."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Slimmed:
    """The report of :func:`~lightning_dynprune.deploy.slimming.slim`; prints as a table.

    Attributes:
        widths: name of a group of channels or heads -> its units before and after.
        parameters: number of parameters before and after.
        bytes: memory of parameters and buffers before and after.
        difference: largest change of the outputs on the example, relative to their largest value.
        folded: layer -> number of constant channels that its bias absorbed.
        kept_constant: group -> why constant channels were kept.
        left_out: name of a weight -> why its outputs were not considered.
        replaced: module -> the class that it was given, as torch's attention cannot have fewer heads.
    """

    widths: dict[str, tuple[int, int]]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    difference: float
    folded: dict[str, int] = field(default_factory=dict)
    kept_constant: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [("", "before", "after")]
        rows += [(name, f"{before:,}", f"{after:,}") for name, (before, after) in self.widths.items()]
        for name, (before, after) in (("parameters", self.parameters), ("bytes", self.bytes)):
            rows.append((name, f"{before:,}", f"{after:,}"))
        first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
        lines = [f"{name:<{first}}  {before:>{second}}  {after:>{third}}" for name, before, after in rows]
        lines.append(f"outputs changed by {self.difference:.2g} of their largest value")
        lines += [f"{layer}.bias took over {count} constant channels" for layer, count in self.folded.items()]
        lines += [f"{module} is a {kind} now" for module, kind in self.replaced.items()]
        lines += [f"{name}: {reason}" for name, reason in {**self.kept_constant, **self.left_out}.items()]
        return "\n".join(lines)
