"""The checks of settings that need neither torch nor Lightning, made before these are imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_dynprune.base import check_count, check_flag, check_real, check_share, check_whole, did_you_mean

OBJECTIVES = ("val_accuracy", "accuracy")
LR_SCHEDULES = ("none", "cosine")
SLIM = ("end", "update")
# Export format -> the extra that installs its packages, and those packages; pt2 is torch's own.
FORMATS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "pt2": (None, ()),
    "onnx": ("export", ("onnx", "onnxscript", "onnxruntime")),
    "executorch": ("export", ("executorch",)),
    "openvino": ("openvino", ("openvino",)),
    "litert": ("litert", ("litert_torch", "ai_edge_litert")),
}
Check = Callable[[str, Any], Any]


def check_settings(cfg: DictConfig) -> None:
    """Raise if a setting of a task cannot work whatever the model and the data are.

    Args:
        cfg: the settings.

    Raises:
        ValueError: a value is out of range or unknown; the message names the setting and what is accepted.
        TypeError: a value has the wrong type.
        ImportError: a package that a setting needs is not installed; the message names the extra.
    """
    if cfg.get("sparsity") is not None:
        check_share("sparsity", cfg.sparsity)
    for setting, check in _CHECKS.items():
        value = OmegaConf.select(cfg, setting)
        if value is not None:
            check(setting, value)
    if cfg.get("task") == "deploy":
        _check_formats(cfg.formats)
    for setting in ("batches", "sparsities") if cfg.get("task") is not None else ():
        check = check_count if setting == "batches" else check_share
        for value in cfg.get(setting, ()):
            check(setting, value)
    max_steps = cfg.trainer.get("max_steps", -1)
    if max_steps != -1 and cfg.get("task") is None:
        raise ValueError(
            f"trainer.max_steps={max_steps} is not accepted, since such a run could not be resumed exactly; "
            "give trainer.max_epochs"
        )


def check_choice(setting: str, value: Any, known: Sequence[str]) -> str:
    """Return the value if it is one of the known ones.

    Raises:
        ValueError: it is not.

    Example:
        >>> check_choice("slim", "end", ["end", "update"])
        'end'
    """
    if value not in known:
        near = did_you_mean(str(value), known)
        raise ValueError(f"{setting}={value!r} is unknown{near or ';'} known: {', '.join(known)}")
    return str(value)


def _check_formats(formats: Sequence[Any]) -> None:
    for name in formats:
        extra, packages = FORMATS[check_choice("formats", name, list(FORMATS))]
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            raise ImportError(
                f"formats=[{name}] needs {', '.join(missing)}, not installed here: "
                f"pip install 'lightning-dynprune[{extra}]'"
            )


def _one_of(known: Sequence[str]) -> Check:
    return lambda setting, value: check_choice(setting, value, known)


def _not_negative(setting: str, value: Any) -> float:
    return check_real(setting, value, low=0.0)


def _positive(setting: str, value: Any) -> float:
    if check_real(setting, value) <= 0:
        raise ValueError(f"{setting}={value!r} is not accepted; give a number above 0")
    return float(value)


def _seed(setting: str, value: Any) -> int:
    check_whole(setting, value)
    if not 0 <= value < 2**32:
        raise ValueError(f"{setting}={value!r} is not accepted; give a whole number from 0 to {2**32 - 1}")
    return int(value)


_CHECKS: dict[str, Check] = {
    "seed": _seed,
    "reconstruct": check_flag,
    "dense": check_flag,
    "progress": check_flag,
    "threads": check_count,
    "lr_hold": check_share,
    "lr_schedule": _one_of(LR_SCHEDULES),
    "objective": _one_of(OBJECTIVES),
    "slim": _one_of(SLIM),
    "checkpoint.every_n_steps": check_count,
    "journal.remember_values": check_flag,
    "journal.cap": _not_negative,
    "journal.longest": check_count,
    "data.batch_size": check_count,
    "data.holdout": check_count,
    "trainer.max_epochs": check_count,
    "trainer.accumulate_grad_batches": check_count,
    "trainer.log_every_n_steps": check_count,
    "optimizer.lr": _positive,
    "optimizer.weight_decay": _not_negative,
    "targets.min_kept": check_count,
    "model.width": check_count,
    "seconds": _positive,
    "tolerance": _positive,
    "calibration": check_count,
}
