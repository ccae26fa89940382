"""The check that targets are still the parameters that the model computes with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_dynprune.distributed import is_sharded
from lightning_dynprune.engine.attachment.compat import children_of, parameters_of
from lightning_dynprune.targets import Target

Edge = tuple[dict[str, Any], str, object]

ADVICE = (
    "Make the change before the pruner is built; or build optimizer and pruner again after it, and load the state of "
    "this pruner: state = pruner.state_dict(); pruner.close(); pruner = Pruner(model, optimizer, ...); "
    "pruner.load_state_dict(state). With the callback, make the change before fit or between two fits"
)


class ModelCheck:
    """Notices that a layer or parameter on the way to a target was replaced, or that a target has another dtype.

    It remembers the objects on the way from the model to each target, under all names of the target, and compares them
    by identity. It does not walk over the model, so that it can run at every step. A layer that was replaced by another
    with the same parameters is no problem.

    Args:
        model: the network, unwrapped.
        targets: its targets.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> check = ModelCheck(net, [Target("0.weight", net[0].weight)])
        >>> net[0].weight.data = net[0].weight + 1
        >>> check.problem() is None
        True
        >>> net[0] = nn.Linear(2, 2)
        >>> check.problem().partition(",")[0]
        'layer 0 was replaced since the pruner was built'
    """

    def __init__(self, model: nn.Module, targets: Sequence[Target]) -> None:
        parameters = {target.parameter for target in targets}
        named = model.named_parameters(remove_duplicate=False)
        self._model = model
        self._named = [(name, parameter) for name, parameter in named if parameter in parameters]
        self._dtypes = [(target.name, target.parameter, target.parameter.dtype) for target in targets]
        self._edges = self._trace()

    def problem(self) -> str | None:
        """Return what was replaced and what to do about it; None if nothing was."""
        for held, key, expected in self._edges:
            if held.get(key) is not expected:
                return self._replaced()
        for _, parameter, dtype in self._dtypes:
            if parameter.dtype is not dtype:
                return self._converted()
        return None

    def _trace(self) -> list[Edge]:
        """Return the steps from the model to all targets, each once."""
        edges: dict[tuple[int, str], Edge] = {}
        for name, parameter in self._named:
            for path, (held, key, child) in _steps(self._model, name):
                edges.setdefault((id(held), key), (held, key, parameter if path == name else child))
        return list(edges.values())

    def _replaced(self) -> str | None:
        """Return what was replaced; None if the same parameters are used as before, which are then traced anew."""
        expected = {(id(held), key): child for held, key, child in self._edges}
        for name, parameter in self._named:
            steps = list(_steps(self._model, name))
            _, (_, _, now) = steps[-1]
            if now is parameter or _is_gathered(parameter, now):
                continue
            path = next(path for path, (held, key, child) in steps if child is not expected.get((id(held), key)))
            kind = "parameter" if path == name else "layer"
            return (
                f"{kind} {path} was replaced since the pruner was built, so that the mask of {name} acts on a tensor "
                "that the model no longer uses. Layers are replaced by assignment, parameters also by "
                f"load_state_dict(assign=True), fully_shard, parametrizations and torch.nn.utils.prune. {ADVICE}"
            )
        self._edges = self._trace()
        return None

    def _converted(self) -> str:
        """Return which target has another dtype."""
        name, parameter, dtype = next(entry for entry in self._dtypes if entry[1].dtype is not entry[2])
        return (
            f"parameter {name} has changed from {dtype} to {parameter.dtype} since the pruner was built, as by "
            f"model.double() or model.half(), and what is kept beside it no longer fits it. {ADVICE}"
        )


def _steps(model: nn.Module, name: str) -> Iterator[tuple[str, Edge]]:
    """Yield the path and the edge of each step from a model to the parameter of a name, up to one that leads nowhere.

    Args:
        model: the network.
        name: qualified name of a parameter.
    """
    *modules, local = name.split(".")
    module: Any = model
    for depth, key in enumerate(modules, start=1):
        held = children_of(module)
        module = held.get(key)
        yield ".".join(modules[:depth]), (held, key, module)
        if module is None:
            return
    own = parameters_of(module)
    yield name, (own, local, own.get(local))


def _is_gathered(parameter: nn.Parameter, now: object) -> bool:
    """Return whether FSDP2 shows the gathered tensor in place of a sharded parameter, as it does around a forward."""
    if not is_sharded(parameter) or not isinstance(now, Tensor):
        return False
    sharded: Any = parameter
    there: Any = now
    return not is_sharded(now) or (there.device_mesh, there.placements) != (sharded.device_mesh, sharded.placements)
