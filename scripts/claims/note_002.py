"""The code of note 002, in PyTorch, and what the suite's own tools say about the same networks."""

from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from impls.catalog import find_step
from impls.cnn import reference
from impls.cnn.networks import NETWORKS, Batch, initial_parameters, random_batch
from impls.health import handwritten
from impls.health import torch_ as health
from impls.health.units import Units
from scripts.claims.document import Panel, Part, Result, result
from scripts.claims.figures import at_most, exact
from scripts.claims.frameworks import DTYPE, FRAMEWORKS, ulps
from scripts.claims.pictures import curve

# Units of the first hidden layer, and the channel of the second block, that are made dead.
DEAD_UNITS, DEAD_CHANNEL = (3, 14, 159), 5
NEVER = -1e6
CONVNET, IMAGES = NETWORKS["convnet_relu"], 8
# Of the loss: the roundings of many terms mostly cancel.
LOSS_ULPS = 16


def detect_dead_neurons(model: nn.Module, dataloader: Iterable[Any], threshold: float = 0.0) -> tuple[int, int]:
    """The function of note 002, unchanged but for types and one name: the numbers of dead neurons and of all neurons.

    Each pixel of a channel is a neuron.
    """
    model.eval()
    activation_max: dict[str, Tensor] = {}

    def hook_fn(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if name not in activation_max:
                activation_max[name] = output.detach().max(dim=0)[0]
            else:
                activation_max[name] = torch.max(activation_max[name], output.detach().max(dim=0)[0])

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            handles.append(module.register_forward_hook(hook_fn(name)))
    with torch.no_grad():
        for batch in dataloader:
            x = batch[0] if isinstance(batch, list | tuple) else batch
            model(x)
    for h in handles:
        h.remove()
    total_dead = 0
    total_neurons = 0
    for name, max_acts in activation_max.items():
        dead = int((max_acts <= threshold).sum().item())
        total = max_acts.numel()
        total_dead += dead
        total_neurons += total
        print(f"{name}: {dead}/{total} dead neurons ({100 * dead / total:.1f}%)")
    print(f"\nTotal: {total_dead}/{total_neurons} dead ({100 * total_dead / total_neurons:.1f}%)")
    return total_dead, total_neurons


class ConvNetReLU(nn.Module):
    """The network of note 002, unchanged but for type hints."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 3, padding=1),
            nn.BatchNorm2d(256),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Sequential(
            nn.Linear(256, 128),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(128, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Raw logits."""
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


def perceptron() -> nn.Sequential:
    """The network that note 002 initialises, with He's weights; DEAD_UNITS never get above 0."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        model[0].bias[list(DEAD_UNITS)] = NEVER
    return model


def dead_neurons(seeds: int) -> Result:
    """Dead units of a perceptron with three dead units, by the note's function and by the suite's."""
    from scripts.training.learn import data

    images = torch.from_numpy(data(None)[0].reshape(-1, 784).astype(DTYPE))
    model = perceptron()
    loader = images.split(256)
    with redirect_stdout(StringIO()):
        dead, neurons = detect_dead_neurons(model, loader)
    units = health.dead_units(model, loader)
    found = sum(len(layer.dead) for layer in units.values())
    first, second = units.values()
    lines = [
        curve(f"hidden layer {number}", range(len(layer.active)), np.sort(100 * layer.active / layer.values))
        for number, layer in enumerate(units.values(), 1)
    ]
    return result(
        [
            exact("neurons, by detect_dead_neurons", neurons),
            exact("dead, by detect_dead_neurons", dead),
            exact("dead, by impls.health", found),
            *(exact(f"hidden layer {n}: zeros", 100 * each.sparsity, "%") for n, each in enumerate((first, second), 1)),
        ],
        [
            Part("both count the same dead units", dead == found),
            Part("those of the first layer include the units that were made dead", set(DEAD_UNITS) <= set(first.dead)),
            Part("both see the same units", neurons == len(first.active) + len(second.active)),
        ],
        [Panel("Units, the least active first", "unit", "active for % of digits", lines)],
        "The network of the note's “PyTorch implementation” of He's weights; three units of its first layer have a "
        "bias of −1,000,000. Others may be dead from the start, for these inputs.",
    )


def convnet(seeds: int) -> Result:
    """ConvNetReLU beside the suite's convnet_relu: parameters, loss in every framework, dead channels."""
    parameters = initial_parameters(CONVNET)
    parameters["norm2.shift"][DEAD_CHANNEL] = NEVER
    batch = without_dropout(random_batch(CONVNET, IMAGES))
    steps = {
        name: find_step(f"{each}.fresh").load()(CONVNET, parameters, IMAGES, DTYPE, "fresh")
        for name, each in FRAMEWORKS.items()
    }
    model = of_note(steps["PyTorch"])
    images = torch.from_numpy(batch.images.transpose(0, 3, 1, 2).astype(DTYPE))
    # Before the steps, which change parameters and running statistics.
    zeros = {name: 100 * units.sparsity for name, units in health.dead_units(model, [images]).items()}
    dead = dead_channels(steps, model, images, batch)
    losses = {"ConvNetReLU": loss_of(model, images, batch)}
    losses |= {f"suite in {name}": float(step(step.put(batch))) for name, step in steps.items()}
    expected = reference.step(CONVNET, reference.initial_state(CONVNET, parameters), batch)
    off = [
        exact(f"{name}: loss, difference from float64", ulps(np.array(loss), np.array(expected), expected), "ulps")
        for name, loss in losses.items()
    ]
    of_note_, of_suite = size(model), size(steps["PyTorch"].net)
    biases = sum(conv.filters for conv in CONVNET.convs)
    bars = curve("ConvNetReLU", range(len(zeros)), zeros.values(), "bars")
    return result(
        [
            exact("parameters of ConvNetReLU", of_note_),
            exact("parameters of convnet_relu", of_suite),
            exact("biases of convolutions before a batch norm", biases),
            exact("loss in float64", expected),
            *off,
        ],
        [
            Part("without these biases both have as many parameters", of_note_ - biases == of_suite),
            *(at_most(each, LOSS_ULPS) for each in off),
            *(
                Part(
                    f"{name}: channel {DEAD_CHANNEL} of the second block is dead, and no other", found == [DEAD_CHANNEL]
                )
                for name, found in dead.items()
            ),
        ],
        [Panel("Zeros behind each ReLU", "", "zeros in %", [bars], ticks=list(zeros))],
        f"He's weights, {IMAGES} random images, dropout left out. A batch norm subtracts the bias before it, so the "
        "suite's network has no such biases. One channel of the second block was made dead.",
    )


def loss_of(model: Any, images: Tensor, batch: Batch) -> float:
    """The loss in training mode, without dropout."""
    model.train()
    model.classifier[2].eval()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(images), torch.from_numpy(batch.labels)))


def without_dropout(batch: Batch) -> Batch:
    """The batch with masks that keep all units."""
    return Batch(batch.images, batch.labels, tuple(np.ones_like(mask) for mask in batch.masks))


def of_note(step: Any) -> Any:
    """ConvNetReLU with the parameters of the suite's step in PyTorch; biases of its convolutions are 0."""
    model: Any = ConvNetReLU()
    net = step.net
    pairs = [(model.features[4 * number + 1], getattr(net, f"norm{number + 1}")) for number in range(3)]
    pairs += [(model.classifier[0], net.dense1), (model.classifier[3], net.dense2)]
    with torch.no_grad():
        for number in range(3):
            model.features[4 * number].weight.copy_(getattr(net, f"conv{number + 1}").weight)
            model.features[4 * number].bias.zero_()
        for own, other in pairs:
            own.weight.copy_(other.weight)
            own.bias.copy_(other.bias)
    return model


def dead_channels(steps: dict[str, Any], model: nn.Module, images: Tensor, batch: Batch) -> dict[str, list[int]]:
    """The dead channels of the second block, by the suite's tools: of ConvNetReLU, and of the handwritten steps."""
    found: dict[str, Units] = {"ConvNetReLU": health.dead_units(model, [images])["features.6"]}
    found |= {f"suite in {name}": handwritten.dead_units(steps[name], [batch])["conv2"] for name in ("NumPy", "Numba")}
    return {name: units.dead for name, units in found.items()}


def size(module: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
