"""Train mnist_cnn in every framework from the same weights on the same batches, and show that all learn the same.

python -m scripts.training.learn [--mnist DIR] [--epochs 16]: on the digits of scikit-learn, enlarged to 28 x 28, or on
the four IDX files of MNIST, as they are distributed, gzipped or not. Run by an environment that has the frameworks
(.venv/test). Prints the accuracies and draws them to reports/learning.svg. Fails where a test accuracy stays below
97 % or differs from the reference's by more than 1 %.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.frameworks import started
from impls.catalog import STEPS, find_step
from impls.cnn import reference
from impls.cnn.networks import NETWORKS, Array, Batch, initial_parameters
from scripts.arguments import positive
from scripts.report import figures
from scripts.setup.pins import ROOT
from scripts.training import idx

NETWORK = NETWORKS["mnist_cnn"]
BATCH = 64
LEAST_ACCURACY, MOST_APART = 0.97, 0.01
REFERENCE = "reference"
Data = tuple[Array, Array, Array, Array]


def main() -> int:
    options = _options()
    if options.row:
        print(json.dumps(accuracies(options.row, data(options.mnist), options.epochs)))
        return 0
    rows = [REFERENCE, *(row.name for row in STEPS if row.device == "cpu" and not row.needs)]
    found = {row: _in_own_process(row, options) for row in rows}
    print(f"{'test accuracy after epoch':26}" + "".join(f"{epoch:8}" for epoch in range(1, options.epochs + 1)))
    for row, curve in found.items():
        print(f"{row:26}" + "".join(f"{accuracy:8.2%}" for accuracy in curve))
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    options.figure.write_text(figures.accuracies(found))
    last = {row: curve[-1] for row, curve in found.items()}
    apart = max(abs(accuracy - last[REFERENCE]) for accuracy in last.values())
    print(f"lowest {min(last.values()):.2%}; furthest from the reference {apart:.2%}")
    return int(min(last.values()) < LEAST_ACCURACY or apart > MOST_APART)


def accuracies(name: str, given: Data, epochs: int) -> list[float]:
    """Test accuracy of a row after each epoch. One process drives one framework: call this in one of its own."""
    state = reference.initial_state(NETWORK, initial_parameters(NETWORK))
    if name == REFERENCE:
        return _curve(lambda batch: reference.step(NETWORK, state, batch), lambda: state, given, epochs)
    row = find_step(name)
    with started(row.framework, row.device):
        step = row.load()(NETWORK, state.parameters, BATCH, "float32", row.memory)
        return _curve(lambda batch: step(step.put(batch)), step.state, given, epochs)


def _curve(
    train: Callable[[Batch], Any], state: Callable[[], reference.State], given: Data, epochs: int
) -> list[float]:
    """Test accuracy after each epoch. train: trains on one batch. state: returns the parameters reached."""
    images, labels, test_images, test_labels = given
    curve = []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(labels))
        for start in range(0, len(labels) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            train(Batch(images[chosen], labels[chosen]))
        curve.append(float((_predicted(state(), test_images) == test_labels).mean()))
    return curve


def _predicted(state: reference.State, images: Array) -> Array:
    parts = np.array_split(images, -(-len(images) // BATCH))
    return np.concatenate([reference.logits(NETWORK, state, part).argmax(1) for part in parts])


def data(mnist: Path | None) -> Data:
    """Images (n, 28, 28, 1) with mean 0 and deviation 1, and labels: to learn from and to test with."""
    images, labels, test_images, test_labels = idx.mnist(mnist) if mnist else _digits()
    mean, deviation = images.mean(), images.std()
    if len(images) < BATCH or not deviation:
        raise idx.Damaged(f"{mnist}: {len(images)} images to learn from, {BATCH} that are not all the same needed")
    return (images - mean) / deviation, labels, (test_images - mean) / deviation, test_labels


def _digits() -> Data:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.kron(found.images, np.ones((3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], found.target[order].astype(np.int64)
    tested = len(images) // 5
    return images[tested:], labels[tested:], images[:tested], labels[:tested]


def _in_own_process(row: str, options: argparse.Namespace) -> list[float]:
    command = [sys.executable, "-m", "scripts.training.learn", "--row", row, "--epochs", str(options.epochs)]
    mnist = ["--mnist", str(options.mnist)] if options.mnist else []
    ended = subprocess.run([*command, *mnist], stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise SystemExit(f"learn: {row} failed")
    return json.loads(ended.stdout)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.training.learn", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--mnist", type=Path, help="a folder with the four files of MNIST (default: scikit-learn's digits)"
    )
    parser.add_argument("--epochs", type=positive, default=16, help="(default: %(default)s)")
    parser.add_argument(
        "--figure", type=Path, default=ROOT / "reports" / "learning.svg", help="where to draw (default: %(default)s)"
    )
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mnist:
        try:
            data(options.mnist)
        except idx.Damaged as error:
            parser.error(str(error))
    return options


if __name__ == "__main__":
    sys.exit(main())
