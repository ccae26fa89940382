"""Parts that examples and code blocks register are forgotten after each test, so that no other test meets them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightning_dynprune.patterns import PATTERNS
from lightning_dynprune.schedules import SCHEDULES
from lightning_dynprune.strategies import STRATEGIES
from lightning_dynprune.thresholds import THRESHOLDS
from tests.docs.documents import EXAMPLES


@pytest.fixture(autouse=True)
def _forget_registered_parts(monkeypatch):
    for registry in (STRATEGIES, THRESHOLDS, SCHEDULES, PATTERNS):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    yield
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or ".").parent == Path(EXAMPLES):
            del sys.modules[name]  # imported again, it registers its part again
