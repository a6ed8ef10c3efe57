"""Compute the examples of four tutorials on ReLU, in every framework, and draw them.

python -m scripts.claims.examples [--only NAME ...]: needs an environment with the frameworks (.venv/test). Writes
reports/examples.json and a picture of each; the report then has a section of them at its end. Fails if an example
cannot be computed.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from impls.cnn import reference
from impls.cnn.networks import NETWORKS, initial_parameters
from scripts.claims import command, note_002
from scripts.claims.claim import Claim
from scripts.claims.document import EXAMPLES, Panel, Part, Result, Value, result
from scripts.claims.figures import above, at_most, exact
from scripts.claims.frameworks import DTYPE, FRAMEWORKS, relu, relu_backward, ulps
from scripts.claims.networks import Array
from scripts.claims.pictures import curve
from scripts.setup.pins import ROOT

# Rounding errors of the few operations of an example, in float32.
MOST_ULPS = 4
# Of note 003: a neuron.
INPUTS, WEIGHTS, BIAS, NOTED = (1.2, -0.9), (0.5, -1.1), 0.1, 1.49
# Of note 003: weight and bias before each hidden node, weights behind them, and the last bias.
TOP_WEIGHT, TOP_BIAS, TOP_OUT, BOTTOM_OUT, LAST_BIAS = 1.70, -0.85, -40.8, 2.7, -16.0
# Not in the text of note 003, but in the video that it cites.
BOTTOM_WEIGHT, BOTTOM_BIAS = 12.6, 0.0
LOW, MEDIUM, HIGH = 0.0, 0.5, 1.0
# The steps of the network in the words of the note, with the name of the line that is drawn.
TOP, SHIFTED, OUT = "1. top node: 1.70 · dosage − 0.85", "7. green wedge − 16", "8. green pointy thing: ReLU"
LINES = {
    TOP: "top node",
    "2. bent blue line: ReLU": "top node",
    "3. bent blue line · −40.8": "top node",
    "4. straight orange line: ReLU(12.6 · dosage)": "bottom node",
    "5. straight orange line · 2.7": "bottom node",
    "6. green wedge: sum of both": "both",
    SHIFTED: "both",
    OUT: "both",
}
# Of note 000: image and filters of the first convolution.
SHAPE = (32, 26, 26)
ROW = 13


def function(seeds: int) -> Result:
    """max(0, x) and its derivative, on the points of note 001."""
    x, points = np.linspace(-5, 5, 100), np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    values, slopes = relu("numpy", points), derivative("numpy", points)
    differences = [
        difference("max(0, x)", relu_in_all(x), np.maximum(0, x).astype(DTYPE)),
        difference(
            "derivative", {name: derivative(each, x) for name, each in FRAMEWORKS.items()}, np.where(x > 0, 1, 0)
        ),
    ]
    return result(
        [
            *(exact(f"f({point:g})", value) for point, value in zip(points, values, strict=True)),
            *(exact(f"f'({point:g})", slope) for point, slope in zip(points, slopes, strict=True)),
            *differences,
        ],
        [at_most(each, 0) for each in differences],
        [
            Panel("f(x) = max(0, x)", "x", "f(x)", [curve("f", x, relu("numpy", x))]),
            Panel("Derivative", "x", "f'(x)", [curve("f'", x, derivative("numpy", x), "points")]),
        ],
        "The derivative at 0 does not exist; all frameworks give 0.",
    )


def derivative(framework: str, x: Array) -> Array:
    """The derivative of max(0, x): what the backward pass makes of gradients of 1."""
    return relu_backward(framework, np.ones(len(x)), x)


def relu_in_all(x: Array) -> dict[str, Array]:
    """max(0, x) in each framework, by name."""
    return {name: relu(each, x) for name, each in FRAMEWORKS.items()}


def neuron(seeds: int) -> Result:
    """A neuron with two inputs, computed in float32, and the sum that note 003 gives."""
    total = float(np.dot(INPUTS, WEIGHTS)) + BIAS
    found = {name: neuron_output(each) for name, each in FRAMEWORKS.items()}
    off = difference("the sum in float64", found, np.array([total]), total)
    noted = exact("the note's output minus the sum in float64", round(NOTED - total, 9))
    x = np.linspace(-2, 2, 81)
    lines = [
        curve("max(0, x)", x, relu("numpy", x)),
        curve("the neuron", [total], found["NumPy"], "points"),
        curve("the note", [NOTED], [NOTED], "points"),
    ]
    return result(
        [
            *(exact(f"{name}: output", value[0]) for name, value in found.items()),
            exact("output in the note", NOTED),
            noted,
            exact("output with a bias of −0.1", float(neuron_output("numpy", -BIAS)[0])),
            off,
        ],
        [
            Part("the output is that of the note", noted.value == 0),
            Part("ReLU leaves the sum as it is", total > 0),
            at_most(off, MOST_ULPS),
        ],
        [Panel("ReLU of the neuron", "sum before ReLU", "output", lines)],
        "The note has an error: 1.2 · 0.5 + (−0.9) · (−1.1) + 0.1 is 0.6 + 0.99 + 0.1 = 1.69. Its 1.49 is the sum "
        "with a bias of −0.1.",
    )


def neuron_output(framework: str, bias: float = BIAS) -> Array:
    """ReLU of the weighted sum, (1,), float32."""
    inputs, weights = np.array(INPUTS, DTYPE), np.array(WEIGHTS, DTYPE)
    return relu(framework, np.array([inputs @ weights + np.float32(bias)]))


def dosage(seeds: int) -> Result:
    """The network of two hidden nodes that maps a dosage to an effectiveness, step by step."""
    x = np.linspace(LOW, HIGH, 401)
    found = {name: dosage_steps(each, x) for name, each in FRAMEWORKS.items()}
    steps = found["NumPy"]
    # In float64, from the definition.
    top, bottom = np.maximum(0, TOP_WEIGHT * x + TOP_BIAS), np.maximum(0, BOTTOM_WEIGHT * x + BOTTOM_BIAS)
    expected = np.maximum(0, TOP_OUT * top + BOTTOM_OUT * bottom + LAST_BIAS)
    off = difference(
        "float64", {name: each[OUT] for name, each in found.items()}, expected, float(np.abs(TOP_OUT * top).max())
    )
    low, medium, high = (
        exact(f"output at dosage {each:g}", dosage_steps("numpy", np.array([each]))[OUT][0])
        for each in (LOW, MEDIUM, HIGH)
    )
    return result(
        [
            exact("top node at dosage 0, before ReLU", steps[TOP][0]),
            exact("green wedge at dosage 0, with the last bias", steps[SHIFTED][0]),
            low,
            medium,
            high,
            exact("weight before the bottom node for a peak of 1", (1 - LAST_BIAS) / (BOTTOM_OUT * MEDIUM)),
            off,
        ],
        [at_most(low, 0), above(medium, 0), at_most(high, 0), at_most(off, MOST_ULPS)],
        [Panel(name, "dosage", "", [curve(LINES[name], x, values)]) for name, values in steps.items()],
        "The text of note 003 gives 1.70, −0.85, −40.8, 2.7 and −16, not the weight and the bias before the bottom "
        "node: 12.6 and 0 are those of the video that it cites. They fit the text: the orange line stays straight "
        "behind ReLU from dosage 0 on, so the bias is at least 0; with a bias of 0, a peak of 1 at dosage 0.5 needs a "
        "weight of (1 + 16) / (2.7 · 0.5).",
    )


def dosage_steps(framework: str, dosages: Array) -> dict[str, Array]:
    """The values of the dosage network, step by step, for dosages (n,): each (n,), float32."""
    x = np.asarray(dosages, DTYPE)
    top = x * np.float32(TOP_WEIGHT) + np.float32(TOP_BIAS)
    bent = relu(framework, top)
    blue = bent * np.float32(TOP_OUT)
    straight = relu(framework, x * np.float32(BOTTOM_WEIGHT) + np.float32(BOTTOM_BIAS))
    orange = straight * np.float32(BOTTOM_OUT)
    wedge = blue + orange
    shifted = wedge + np.float32(LAST_BIAS)
    values = (top, bent, blue, straight, orange, wedge, shifted, relu(framework, shifted))
    return dict(zip(LINES, values, strict=True))


def tensor(seeds: int) -> Result:
    """Forward and backward pass of note 000, on the result of a first convolution."""
    x = convolved()
    grad = np.random.default_rng(0).standard_normal(x.shape).astype(DTYPE)
    forward = relu_in_all(x)
    backward = {name: relu_backward(each, grad, x) for name, each in FRAMEWORKS.items()}
    differences = [
        difference("np.maximum(0, x)", forward, np.maximum(0, x)),
        difference("grad * (x > 0)", backward, grad * (x > 0)),
    ]
    lines = [
        [("convolution", x, "line"), ("ReLU", forward["NumPy"], "points")],
        [("gradient by the output", grad, "line"), ("gradient by the input", backward["NumPy"], "points")],
    ]
    panels = [
        Panel(
            title, "column", "", [curve(name, range(SHAPE[-1]), values[0, ROW], kind) for name, values, kind in drawn]
        )
        for title, drawn in zip(("Forward, a row of a channel", "Backward, the same row"), lines, strict=True)
    ]
    shape = all(each.shape == SHAPE for each in (*forward.values(), *backward.values()))
    return result(
        [
            *(exact(f"axis {axis} of the result", length) for axis, length in enumerate(forward["NumPy"].shape)),
            exact("zeros", 100 * (forward["NumPy"] == 0).mean(), "%"),
            *differences,
        ],
        [
            Part(f"the shape of results is {SHAPE} in every framework", shape),
            *(at_most(each, 0) for each in differences),
        ],
        panels,
        "The convolution is the first of mnist_cnn with He's weights, on a handwritten 0 of scikit-learn, enlarged to "
        "28 x 28.",
    )


def convolved() -> Array:
    """The output of mnist_cnn's first convolution for an image, channels first: SHAPE, float32."""
    from scripts.training.learn import data

    weight = initial_parameters(NETWORKS["mnist_cnn"])["conv1.weight"]
    images, labels, _, _ = data(None)
    image = images[labels == 0][:1]
    return np.ascontiguousarray(reference.convolve(image, weight, 0)[0].transpose(2, 0, 1), DTYPE)


def difference(name: str, found: Mapping[str, Array], expected: Array, size: float = 1.0) -> Value:
    """The largest difference of all frameworks from float64 numbers, in ulps of float32 numbers of a size."""
    largest = max(ulps(values, expected, size) for values in found.values())
    return exact(f"largest difference from {name}, of {', '.join(found)}", largest, "ulps")


def example(name: str, title: str, text: str, origin: str, experiment: Callable[[int], Result]) -> Claim:
    """An example is a claim that needs no random numbers."""
    return Claim(name, title, text, origin, experiment, seeds=0, quick_seeds=0)


ALL = (
    example(
        "function",
        "ReLU and its derivative",
        "f(x) = max(0, x). f'(x) = 1 if x > 0, 0 if x ≤ 0.",
        "Note 001, “Definition”, “Derivative” and “Visualization”.",
        function,
    ),
    example(
        "neuron",
        "A neuron",
        "Consider a neuron receiving inputs with values 1.2 and -0.9, weights 0.5 and -1.1, and bias 0.1. […] "
        "ReLU(1.49) = 1.49.",
        "Note 003, “Example”.",
        neuron,
    ),
    example(
        "dosage",
        "The green pointy thing",
        "The low and high dosages were not effective but the medium dosage was effective. […] At long last, we end up "
        "with this green pointy thing.",
        "Note 003, “ReLU in action!!!”, after the video “Neural networks pt. 3: ReLU in action!!!” by StatQuest.",
        dosage,
    ),
    example(
        "tensor",
        "A tensor behind the first convolution",
        "After your first conv2d forward pass produces a (32, 26, 26) tensor, ReLU is: output = np.maximum(0, "
        "conv_output). […] gradient_out = gradient_in * (input > 0).",
        "Note 000, “In your network” and “The backward pass”.",
        tensor,
    ),
    example(
        "dead-neurons",
        "detect_dead_neurons",
        "Detect neurons that are always inactive across the dataset.",
        "Note 002, “Detection”.",
        note_002.dead_neurons,
    ),
    example(
        "convnet",
        "ConvNetReLU",
        "The most common and well-tested pattern for convolutional networks: Conv → BatchNorm → ReLU → Pooling.",
        "Note 002, “Complete network example”.",
        note_002.convnet,
    ),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.claims.examples", description=(__doc__ or "").split("\n\n")[0]
    )
    names = [each.name for each in ALL]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME",
        help=f"only these examples, which are then alone in the file: {', '.join(names)}",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "reports", help="where to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    return command.run(EXAMPLES, [each for each in ALL if each.name in options.only], options.out)


if __name__ == "__main__":
    sys.exit(main())
