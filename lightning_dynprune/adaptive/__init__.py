"""Per-input pruning: compute less for easy inputs than for hard ones, in time and not only in multiply-adds.

May import deploy and the rooms below it, and torchmetrics through metrics; no Lightning, so that it serves any network.
"""

from lightning_dynprune.adaptive.activations import ActivationThreshold, ActivationThresholds
from lightning_dynprune.adaptive.adapted import Adapted, adapt, attach, check_free, place, strip
from lightning_dynprune.adaptive.base import METHODS, PREFIX, AdaptiveMethod, AdaptiveModule, Outcome
from lightning_dynprune.adaptive.deployment import BatchSpeed, Deployed, measure_speed
from lightning_dynprune.adaptive.evaluation import Evaluation, Evaluator
from lightning_dynprune.adaptive.exits import EarlyExit, EarlyExits, read_exits
from lightning_dynprune.adaptive.folded_norms import dense_form
from lightning_dynprune.adaptive.forward_cut import captured
from lightning_dynprune.adaptive.gates import ChannelGates, GateChannels
from lightning_dynprune.adaptive.labelled import last_position, split_pair
from lightning_dynprune.adaptive.widths import PrefixWidth, PrefixWidths

__all__ = [
    "METHODS",
    "PREFIX",
    "ActivationThreshold",
    "ActivationThresholds",
    "Adapted",
    "AdaptiveMethod",
    "AdaptiveModule",
    "BatchSpeed",
    "ChannelGates",
    "Deployed",
    "EarlyExit",
    "EarlyExits",
    "Evaluation",
    "Evaluator",
    "GateChannels",
    "Outcome",
    "PrefixWidth",
    "PrefixWidths",
    "adapt",
    "attach",
    "captured",
    "check_free",
    "dense_form",
    "last_position",
    "measure_speed",
    "place",
    "read_exits",
    "split_pair",
    "strip",
]
