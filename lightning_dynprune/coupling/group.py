"""Groups of channels that can only be removed together."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


class CouplingError(ValueError):
    """The channels of a model cannot be followed; the message names the module and the remedy."""


class SlimError(RuntimeError):
    """Slimming would have changed the model's outputs; the model is unchanged."""


@dataclass(frozen=True, eq=False)
class Axis:
    """A dimension of a tensor along which the units of a group lie.

    Attributes:
        name: qualified name of the parameter or buffer in the model.
        dim: the dimension of that tensor.
        writes: True if the tensor determines the channel (rows of a weight, a bias, a tensor of a norm); False if it
            reads the channel (columns of the next weight).
        index: int64 ``(units, width)``, on the CPU: positions along ``dim`` that belong to each unit. The width is 1
            for plain channels, H*W behind a flatten, 3 * head size for queries, keys and values in one weight.
        is_table: whether the tensor neither computes nor reads the units but has entries for each, as a table of
            position biases with a column for each head.
    """

    name: str
    dim: int
    writes: bool
    index: Tensor
    is_table: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """Units that lie in several tensors and are kept or pruned in all of them at once.

    Attributes:
        name: name of the first weight that writes the units.
        units: number of units.
        axes: the tensors and dimensions along which the units lie.
        width_attributes: qualified names of modules' attributes that are proportional to the number of units, such as
            ``"blocks.0.heads"``; removing units scales their values.
        share_values: whether several units read the same values, as query heads of one group do; such a unit is unused
            only where nothing reads it, whatever its queries are.
        modules: names of the attention modules, or modules of experts, that hold the units; empty for other channels.
    """

    name: str
    units: int
    axes: tuple[Axis, ...]
    width_attributes: tuple[str, ...] = ()
    share_values: bool = False
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Coupling:
    """The groups of units that can be removed from a model, and the channels that cannot.

    Attributes:
        groups: the groups, in the order of the model's modules.
        left_out: name of a weight -> why its output channels cannot be removed.
        outputs: the tensors that the model returned for the example.
    """

    groups: list[Group]
    left_out: dict[str, str] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list, repr=False)
