"""The confidence of a classifier, and the temperature that makes it the share of correct answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LOWEST, _HIGHEST = 0.05, 20.0  # temperatures; past them a few held-out inputs decide
_STEPS = 50


def confidence(scores: Tensor, reduced: Tensor | None = None, temperature: float | Tensor = 1.0) -> Tensor:
    r"""Return how sure a classifier is of each input: its largest class probability.

    .. math:: c = \max_k \operatorname{softmax}(z / T)_k

    Args:
        scores: class scores z, ``(n, classes)``.
        reduced: features that it read, ``(n, features)``; an input that holds NaN or inf there is never confident.
        temperature: T.

    Returns:
        ``(n,)`` in [1/classes, 1]; NaN, which no threshold is below, where a score or a feature is not finite.

    Example:
        >>> confidence(torch.tensor([[0.0, 0.0], [torch.inf, 0.0]])).tolist()
        [0.5, nan]
    """
    found = F.softmax(scores.float() / temperature, dim=1).amax(1)
    # A ReLU makes 0 of minus infinity, so that finite scores do not show that all features were finite.
    return found if reduced is None else found + 0 * reduced.sum(1)


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    r"""Return the temperature that maximizes the likelihood of labels, by L-BFGS.

    .. math:: T = \arg\min_T -\sum_i \log \operatorname{softmax}(z_i / T)_{y_i}

    Args:
        scores: class scores of held-out inputs, ``(n, classes)``.
        labels: their classes, int64 ``(n,)``.

    Returns:
        T in [0.05, 20]; 1 where no finite score is left.

    Example:
        >>> scores = torch.tensor([[4.0, 0.0]] * 4)  # 98 % sure of class 0, which 3 of 4 are
        >>> T = fit_temperature(scores, torch.tensor([0, 0, 0, 1]))
        >>> round(float(confidence(scores, temperature=T)[0]), 3)
        0.75

    Source: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    finite = scores.isfinite().all(1)
    kept, wanted = scores[finite].double(), labels[finite]
    if not len(wanted):
        return 1.0
    with torch.inference_mode(False), torch.enable_grad():
        kept, wanted = kept.clone(), wanted.clone()
        log_temperature = torch.zeros((), dtype=torch.float64, device=kept.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_temperature], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(kept / log_temperature.exp(), wanted)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = float(log_temperature.detach().exp())
    return min(max(found, _LOWEST), _HIGHEST) if found == found else 1.0


def calibration_error(confidences: Tensor, correct: Tensor, bins: int = 15) -> float:
    r"""Return the expected calibration error: how far confidence and share of correct answers are apart, on average.

    .. math:: \sum_b \frac{n_b}{n} \left| \frac{1}{n_b} \sum_{i \in b} c_i - \frac{1}{n_b} \sum_{i \in b} a_i \right|

    Args:
        confidences: in [0, 1], ``(n,)``.
        correct: whether each answer is correct, bool ``(n,)``.
        bins: number of bins of equal width.

    Example:
        >>> calibration_error(torch.tensor([0.75, 0.75]), torch.tensor([True, False]))
        0.25
    """
    number = (confidences.double() * bins).long().clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, number, confidences.double() - correct.double())
    return float(gaps.abs().sum()) / max(1, len(confidences))
