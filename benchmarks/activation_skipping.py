"""Do linear layers that skip zero inputs run faster than dense, in float32 and in 8 bits, and what does it cost?

    python benchmarks/activation_skipping.py            # trains what is missing, measures, prints the tables
    python benchmarks/activation_skipping.py --short    # smaller networks and few steps, for a test

ReLU MLPs 784-WIDTH-WIDTH-10, 4096 and 1024 wide, are trained on MNIST, and then fine-tuned with an L1 penalty on their
activations, which makes zeros. Activation thresholds are chosen on 1,000 held-out images, twice: for zeros alone, and
for a loss that may rise by 1 %. Rivals are dense: torch float32, torch int8 (dynamic), ONNX Runtime float32 and int8.
All run in one process on one thread, at batch 1, in turns, each turn the same 64 test images; medians of CPU time over
the rounds. Accuracy is that of each form itself over test images. At last a GPT of 768 wide with GELUs is measured,
untrained, with densities that are imposed, since its speed depends on them alone.

DYNPRUNE_DATA names the folder that holds mnist/.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timing
import torch
from models import GPT
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_dynprune.adaptive import Adapted, adapt, strip
from lightning_dynprune.adaptive.activations import int8_dense
from lightning_dynprune.app.data import MNIST
from lightning_dynprune.deploy.exporting import export, quantize
from lightning_dynprune.deploy.timing import time_interleaved

WIDTHS = (4096, 1024)
CALLS = 64  # images of one turn
PENALTIES = (5.0, 20.0)  # of the mean activation of each hidden layer
DENSE, INT8 = "torch float32", "torch int8"
ONNX, ONNX_INT8 = "ONNX Runtime float32", "ONNX Runtime int8"
ZEROS, LOSS = "zeros alone", "loss +1 %"
AIM_SPEED, AIM_ZEROS, AIM_LOSS = 2.0, 0.75, 0.01


@dataclass(frozen=True)
class Plan:
    """How much is trained and measured.

    Args:
        widths: of the hidden layers.
        images: training images.
        epochs: of the training, and one more of the fine-tuning.
        held_out: images for the thresholds.
        test: images for the accuracy of float32 forms.
        slow_test: images for the accuracy of forms that run one image at a time.
        seconds: of each measurement.
    """

    widths: tuple[int, ...] = WIDTHS
    images: int = 20_480
    epochs: int = 2
    held_out: int = 1000
    test: int = 10_000
    slow_test: int = 2000
    seconds: float = 20.0


SHORT = Plan(widths=(64,), images=2048, epochs=1, held_out=200, test=500, slow_test=100, seconds=0.2)


def mlp(width: int) -> nn.Sequential:
    """Return an MLP with two hidden layers."""
    return nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    ).eval()


def train(
    net: nn.Sequential, images: Tensor, labels: Tensor, epochs: int, rate: float, penalties: tuple[float, float]
) -> None:
    """Train by Adam, in place; each penalty is multiplied with the mean activation of one hidden layer."""
    size = 256
    steps = epochs * (len(labels) // size)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order.split(size)[: len(labels) // size]:
            first = net[:2](images[chosen])
            second = net[2:4](first)
            loss = F.cross_entropy(net[4](second), labels[chosen])
            loss = loss + sum(each * hidden.mean() for each, hidden in zip(penalties, (first, second), strict=True))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()


def trained(width: int, images: Tensor, labels: Tensor, plan: Plan, folder: Path) -> dict[str, nn.Sequential]:
    """Return the network as trained, and fine-tuned for zeros; from ``folder`` if they were trained there before."""
    torch.manual_seed(0)
    found = {"trained": mlp(width), "fine-tuned": mlp(width)}
    for name, net in found.items():
        path = folder / f"{width}-{name}-{plan.images}-{plan.epochs}.pt"
        if path.exists():
            net.load_state_dict(torch.load(path, weights_only=True))
            continue
        if name == "trained":
            train(net, images, labels, plan.epochs, 1e-3, (0.0, 0.0))
        else:
            net.load_state_dict(found["trained"].state_dict())
            train(net, images, labels, 1, 5e-4, PENALTIES)
        torch.save(net.state_dict(), path)
    return found


def accuracy(form: Callable[[Tensor], Any], images: Tensor, labels: Tensor, batch: int) -> float:
    """Return the share of images that a form classifies correctly."""
    answers = [torch.as_tensor(form(part)).argmax(1) for part in images.split(batch)]
    return float((torch.cat(answers) == labels).double().mean())


def runtimes(net: nn.Module, folder: Path) -> dict[str, Callable[[Tensor], Any]]:
    """Return the network in ONNX Runtime, float32 and int8, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    file = export(net, torch.zeros(1, 784), "onnx", folder / "net.onnx", dynamic_batch=False)
    found = {}
    for name, each in ((ONNX, file), (ONNX_INT8, quantize(file))):
        session = onnxruntime.InferenceSession(str(each.path), options, providers=["CPUExecutionProvider"])
        argument = session.get_inputs()[0].name
        found[name] = lambda x, session=session, argument=argument: session.run(None, {argument: x.numpy()})[0]
    return found


def one_width(width: int, plan: Plan, data: Mapping[str, tuple[Tensor, Tensor]], folder: Path) -> dict[str, Any]:
    """Measure the networks of one width."""
    nets = trained(width, *data["train"], plan, folder)
    net, test = nets["fine-tuned"], data["test"]
    forms: dict[str, Callable[[Tensor], Any]] = {DENSE: net, INT8: int8_dense(net)}
    forms |= runtimes(net, folder)
    few = tuple(each[: plan.slow_test] for each in test)
    details: dict[str, Any] = {}
    examples = data["held_out"][0][:256]
    wanted: dict[str, dict[str, float]] = {ZEROS: {"budget": 1.0}, LOSS: {"max_loss_rise": AIM_LOSS}}
    for case, setting in wanted.items():
        for precision in ("float32", "int8"):
            model, calibration = mlp(width), [data["held_out"]]
            model.load_state_dict(net.state_dict())
            adapted = adapt(model, "activation_threshold", calibration, calibration, precision=precision, **setting)
            name = f"ours {precision}, {case}"
            deployed = adapted.deploy(examples, batches=(1,), seconds=plan.seconds / 4)
            forms[name] = deployed
            details[name] = _details(adapted, deployed, few)
    turn = [data["test"][0][i : i + 1] for i in range(0, len(test[0]), len(test[0]) // CALLS)][:CALLS]
    with torch.no_grad():
        calls = {name: (lambda form=form: [form(x) for x in turn]) for name, form in forms.items()}
        rounds = time_interleaved(calls, seconds=plan.seconds)
        rows = {
            name: {
                "microseconds": rounds.latency(name, "cpu").median / len(turn) * 1e6,
                "to_float32": vars(rounds.ratio(name, DENSE)),
                "to_int8": vars(rounds.ratio(name, INT8)),
                "to_onnx_int8": vars(rounds.ratio(name, ONNX_INT8)),
                "accuracy": accuracy(form, *few, batch=1),
                **details.get(name, {}),
            }
            for name, form in forms.items()
        }
        whole = {name: accuracy(each, *test, batch=500) for name, each in nets.items()}
    return {"width": width, "test_accuracy": whole, "zeros": zeros(nets, test[0]), "forms": rows}


def _details(adapted: Adapted, deployed: Any, test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    evaluation = adapted.evaluate([test])
    return {
        "density": dict(evaluation.layer_density),
        "compute": evaluation.compute_mean,
        "runs": "rows" if deployed.runs_adaptive(1) else "dense",
        "layers": {name: str(speed) for name, speed in deployed.adaptive.speeds.items()},
    }


@torch.no_grad()
def zeros(nets: Mapping[str, nn.Sequential], images: Tensor) -> dict[str, dict[str, float]]:
    """Return the share of zeros before each linear layer of each network."""
    found = {}
    for name, net in nets.items():
        first = net[:2](images)
        second = net[2:4](first)
        found[name] = {
            layer: float((value == 0).double().mean()) for layer, value in (("0", images), ("2", first), ("4", second))
        }
    return found


class NextToken(nn.Module):
    """A GPT whose scores are ``(batch, time, vocabulary)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gpt = GPT(width=width, depth=2, heads=width // 64)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, time) to scores."""
        return self.gpt(tokens).transpose(1, 2)


def gpt(plan: Plan) -> dict[str, Any]:
    """Measure one token of a GPT of 768 wide whose layers get inputs of imposed densities."""
    torch.manual_seed(0)
    width = 64 if plan == SHORT else 768
    model = NextToken(width).eval()
    tokens = torch.randint(65, (64, 1))
    found: dict[str, Any] = {}
    for density in (0.5, 0.25):
        adapted = adapt(
            model, "activation_threshold", [(tokens, tokens)], [(tokens, tokens)], density=density, precision="int8"
        )  # fmt: skip
        deployed = adapted.deploy(tokens, batches=(1,), seconds=plan.seconds / 4)
        ratio = deployed.speeds[1].ratio
        found[f"{density:.0%} live"] = {
            "to_the_faster_of_float32_and_int8_dense": vars(ratio),
            "runs": "rows" if deployed.runs_adaptive(1) else "dense",
        }
        strip(model)
    return found


def aims(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the aims with what was reached on the widest network."""
    widest = max(results, key=lambda row: row["width"])
    ours = [row["to_int8"]["median"] for name, row in widest["forms"].items() if name.startswith("ours int8")]
    fewest = min(share for layer, share in widest["zeros"]["fine-tuned"].items() if layer != "0")
    loss = widest["test_accuracy"]["trained"] - widest["test_accuracy"]["fine-tuned"]
    return [
        {"aim": f"{AIM_SPEED:g}x torch int8", "reached": max(ours), "met": max(ours) >= AIM_SPEED},
        {"aim": f"{AIM_ZEROS:.0%} zeros in each hidden layer", "reached": fewest, "met": fewest >= AIM_ZEROS},
        {"aim": f"accuracy lost by them at most {AIM_LOSS:.0%}", "reached": loss, "met": loss <= AIM_LOSS},
    ]


def table(result: dict[str, Any]) -> Table:
    """Return the forms of one width with their times and accuracies."""
    shown = Table(title=f"784-{result['width']}-{result['width']}-10, batch 1, one thread")
    headings = ("form", "us", "x float32", "x torch int8", "x ONNX int8", "accuracy", "live inputs a layer", "runs")
    for heading in headings:
        shown.add_column(heading, justify="left" if heading == "form" else "right")
    for name, row in result["forms"].items():
        live = ", ".join(f"{share:.0%}" for share in row.get("density", {}).values())
        ratios = [f"{row[key]['median']:.2f}" for key in ("to_float32", "to_int8", "to_onnx_int8")]
        shown.add_row(
            name, f"{row['microseconds']:.0f}", *ratios, f"{row['accuracy']:.2%}", live or "-", row.get("runs", "dense")
        )  # fmt: skip
    return shown


def images(plan: Plan) -> dict[str, tuple[Tensor, Tensor]]:
    """Return training, held-out and test images as rows of 784 numbers in [0, 1], with labels."""
    data = MNIST(shape=(1, 28, 28), classes=10, batch_size=256, holdout=5000, seed=0)
    data.setup()
    sizes = {"train": (data.train, plan.images), "held_out": (data.val, plan.held_out), "test": (data.test, plan.test)}
    # The background is 0 again, as in the files; a standardized one has no zeros.
    return {
        name: (((each.images[:most].flatten(1) * MNIST.std + MNIST.mean) * 255).round() / 255, each.labels[:most])
        for name, (each, most) in sizes.items()
    }


def main() -> None:
    """Run the benchmark from the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--short", action="store_true", help="small networks and few steps")
    options.add_argument("--folder", type=Path, help="where trained networks are kept (default: nowhere)")
    options.add_argument("--out", type=Path, default=timing.RESULTS / "activation_skipping.json", help=timing.OUT_HELP)
    chosen = options.parse_args()
    timing.use_one_thread()
    warnings.filterwarnings("ignore")
    plan, console = SHORT if chosen.short else Plan(), timing.console()
    data = images(plan)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for width in plan.widths:
            results.append(one_width(width, plan, data, folder))
            console.print(table(results[-1]))
            console.print(f"accuracy over {plan.test} images: {results[-1]['test_accuracy']}")
            console.print(f"zeros before each layer: {results[-1]['zeros']}")
    token = gpt(plan)
    console.print(f"one token of a GPT, 768 wide, 8 bits allowed: {token}")
    reached = aims(results)
    for aim in reached:
        console.print(f"{aim['aim']}: {'met' if aim['met'] else 'MISSED'} with {aim['reached']:.4g}")
    timing.write(chosen.out, question=__doc__.splitlines()[0], widths=results, gpt=token, aims=reached)
    console.print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
