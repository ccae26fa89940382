"""Channels that can only be removed together."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


class CouplingError(ValueError):
    """A model whose channels cannot be followed; the message names the module and what to do."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One tensor's dimension along which a group's channels lie.

    Attributes:
        name: qualified name of the parameter or buffer in the model.
        dim: the dimension of that tensor.
        writes: True where the tensor makes the channel (rows of a weight, bias, what a norm holds a channel); False
            where it reads it (columns of what follows).
        index: int64 ``(units, width)``, on the CPU: positions along ``dim`` that belong to each unit. Width is 1 for
            plain channels, H*W where a flatten lies between, 3 * head size for queries, keys and values in one weight.
    """

    name: str
    dim: int
    writes: bool
    index: Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are kept or pruned in all of their tensors at once.

    Attributes:
        name: the first written weight's name.
        units: how many there are.
        axes: where they lie.
        count_attribute: qualified name of the module's attribute that holds the number of units
            (``"blocks.0.heads"``), where the forward reads one; empty elsewhere.
    """

    name: str
    units: int
    axes: tuple[Axis, ...]
    count_attribute: str = ""


@dataclass(frozen=True, eq=False)
class Coupling:
    """What may be removed from a model, and what may not.

    Attributes:
        groups: in the order of the model's modules.
        left_out: name of a written weight -> why its outputs stay.
    """

    groups: list[Group]
    left_out: dict[str, str] = field(default_factory=dict)
