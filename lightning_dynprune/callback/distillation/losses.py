"""The distances between outputs of a student and of a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    r"""Return how far a student's class probabilities are from a teacher's, in float32.

    .. math:: T^2 \; \frac{1}{n} \sum_i \mathrm{KL}\left(\operatorname{softmax}(t_i / T) \,\|\,
        \operatorname{softmax}(s_i / T)\right)

    Args:
        student: scores s, ``(n, classes)``, ``(n, positions, classes)`` or ``(n, classes, *size)`` of four and more
            dimensions.
        teacher: scores t of the same shape.
        temperature: T.

    Example:
        >>> import torch
        >>> t = torch.tensor([[2.0, 0.0]])
        >>> round(float(divergence(torch.zeros(1, 2), t, temperature=1.0)), 4)
        0.3278
    """
    dim = 1 if student.dim() >= 4 else -1
    own, wanted = (F.log_softmax(each.float() / temperature, dim) for each in (student, teacher))
    each: Tensor = F.kl_div(own, wanted, reduction="none", log_target=True).sum(dim)
    return each.mean() * temperature**2


def relative_difference(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the mean squared difference of two outputs over the teacher's mean square, in float32.

    Args:
        student: output of a module.
        teacher: output of the same shape.

    Example:
        >>> import torch
        >>> float(relative_difference(torch.tensor([3.0, 0.0]), torch.tensor([4.0, 2.0])))
        0.25
    """
    wanted = teacher.float()
    return F.mse_loss(student.float(), wanted) / wanted.square().mean().clamp(min=1e-12)


def tensor_of(output: Any, name: str) -> Tensor:
    """Return the tensor in a module's output: the output itself, its ``logits``, or the first entry of a tuple.

    Args:
        output: of the module.
        name: of the module, for the message.

    Raises:
        ValueError: there is no tensor of floating point values.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", output[0] if isinstance(output, (tuple, list)) and output else None)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise ValueError(
            f"distill: {name} returns a {type(output).__name__}; accepted are a tensor of floating point values, a "
            "mapping or object with logits, and a tuple that begins with a tensor; name other modules with on="
        )
    return found
