"""The hook before gradient clipping, on a plugin that does no more than clip."""

from __future__ import annotations

from typing import Any

from lightning_dynprune.callback.clipping import before_clipping


class Plugin:
    """Records what it clips."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def clip_gradients(self, optimizer: Any, clip_val: float = 0.0, gradient_clip_algorithm: str = "norm") -> None:
        self.calls.append(("clip", optimizer, clip_val, gradient_clip_algorithm))


def hooked(plugin: Plugin, name: str) -> Any:
    return before_clipping(plugin, lambda optimizer: plugin.calls.append((name, optimizer)))


def test_hooks_run_in_order_before_the_gradients_are_clipped_by_norm():
    plugin = Plugin()
    hooked(plugin, "first")
    hooked(plugin, "second")
    plugin.clip_gradients("sgd", 0.5)
    assert plugin.calls == [("first", "sgd"), ("second", "sgd"), ("clip", "sgd", 0.5, "norm")]


def test_hooks_do_not_run_where_nothing_is_clipped_or_by_value():
    plugin = Plugin()
    hooked(plugin, "never")
    plugin.clip_gradients("sgd", 0.0)
    plugin.clip_gradients("sgd", 0.5, "value")
    assert plugin.calls == [("clip", "sgd", 0.0, "norm"), ("clip", "sgd", 0.5, "value")]


def test_the_plugin_has_its_own_method_back_when_the_last_hook_is_removed():
    plugin = Plugin()
    handles = [hooked(plugin, "first"), hooked(plugin, "second")]
    handles[0].remove()
    handles[0].remove()  # a second time changes nothing
    plugin.clip_gradients("sgd", 0.5)
    assert plugin.calls == [("second", "sgd"), ("clip", "sgd", 0.5, "norm")]
    handles[1].remove()
    assert "clip_gradients" not in vars(plugin)
