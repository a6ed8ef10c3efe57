"""Train mnist_cnn in every framework with equal initial weights and batches, and compare the test accuracies.

python -m scripts.training.learn [--mnist DIR] [--epochs 16] [--monitor]: needs an environment with the frameworks
(.venv/test). Trains on scikit-learn's digits, enlarged to 28 x 28, or on MNIST: the four IDX files as distributed,
gzipped or not. Prints the accuracies and draws them to reports/learning.svg. Fails if a final test accuracy is below
97 % or differs from the reference's by more than 1 percentage point.

--monitor shows the progress of each training and, after each epoch, the mean, the standard deviation, the sparsity and
the dead units of each ReLU's output over all training images (`scripts.training.monitor` says what is observed). It
writes them to reports/learning.monitor.csv and draws sparsity and dead units to reports/learning.monitor.svg.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.frameworks import started
from impls.catalog import STEPS, find_step
from impls.cnn import reference
from impls.cnn.networks import NETWORKS, Array, Batch, initial_parameters
from scripts.arguments import positive
from scripts.setup.pins import ROOT
from scripts.training import mnist
from scripts.training.monitor import Monitor, Record

NETWORK = NETWORKS["mnist_cnn"]
BATCH = 64
LEAST_ACCURACY, MOST_APART = 0.97, 0.01
REFERENCE = "reference"
# Training images and labels, test images and labels.
Data = tuple[Array, Array, Array, Array]


def main() -> int:
    options = _options()
    if options.row:
        _train(options)
        return 0
    rows = [REFERENCE, *(row.name for row in STEPS if row.device == "cpu" and not row.needs)]
    trained = {row: _in_own_process(row, options) for row in rows}
    curves = {row: curve for row, (curve, _) in trained.items()}
    print(f"{'test accuracy after epoch':26}" + "".join(f"{epoch:8}" for epoch in range(1, options.epochs + 1)))
    for row, curve in curves.items():
        print(f"{row:26}" + "".join(f"{accuracy:8.2%}" for accuracy in curve))
    _write(options.figure, curves, [record for _, records in trained.values() for record in records])
    last = {row: curve[-1] for row, curve in curves.items()}
    apart = max(abs(accuracy - last[REFERENCE]) for accuracy in last.values())
    print(f"lowest {min(last.values()):.2%}; furthest from the reference {apart:.2%}")
    return int(min(last.values()) < LEAST_ACCURACY or apart > MOST_APART)


def _train(options: argparse.Namespace) -> None:
    """Train one row, and print a line of JSON: its accuracies; with --monitor a second: its records."""
    samples = data(options.mnist)
    if not options.monitor:
        print(json.dumps(accuracies(options.row, samples, options.epochs)))
        return
    images, *_ = samples
    with closing(Monitor(options.row, NETWORK, images, options.epochs, len(images) // BATCH)) as monitor:
        print(json.dumps(accuracies(options.row, samples, options.epochs, monitor)))
        print(json.dumps([asdict(record) for record in monitor.records]))


def accuracies(name: str, samples: Data, epochs: int, monitor: Monitor | None = None) -> list[float]:
    """Return the test accuracy of a row after each epoch. A process may start only one framework, so call this once.

    monitor: gets the loss of each batch, and the state after each epoch.
    """
    state = reference.initial_state(NETWORK, initial_parameters(NETWORK))
    if name == REFERENCE:
        return _curve(lambda batch: reference.step(NETWORK, state, batch), lambda: state, samples, epochs, monitor)
    row = find_step(name)
    with started(row.framework, row.device):
        step = row.load()(NETWORK, state.parameters, BATCH, "float32", row.memory)
        return _curve(lambda batch: step(step.put(batch)), step.state, samples, epochs, monitor)


def _curve(
    train: Callable[[Batch], Any],
    state: Callable[[], reference.State],
    samples: Data,
    epochs: int,
    monitor: Monitor | None,
) -> list[float]:
    """Return the test accuracy after each epoch.

    train(batch): trains on a batch and returns its loss. state(): the current parameters.
    """
    images, labels, test_images, test_labels = samples
    curve = []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(labels))
        for start in range(0, len(labels) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            loss = train(Batch(images[batch], labels[batch]))
            if monitor:
                monitor.trained(float(loss))
        reached = state()
        curve.append(float((_predicted(reached, test_images) == test_labels).mean()))
        if monitor:
            monitor.observe(reached, curve[-1])
    return curve


def _predicted(state: reference.State, images: Array) -> Array:
    parts = np.array_split(images, -(-len(images) // BATCH))
    return np.concatenate([reference.logits(NETWORK, state, part).argmax(1) for part in parts])


def data(folder: Path | None) -> Data:
    """Return MNIST from a folder, or scikit-learn's digits: images (n, 28, 28, 1) and labels (n,), int64.

    Pixels of the training images have mean 0 and standard deviation 1; test images are scaled alike.

    Raises mnist.Damaged.
    """
    images, labels, test_images, test_labels = mnist.load(folder) if folder else _digits()
    mean, deviation = images.mean(), images.std()
    if len(images) < BATCH or not deviation:
        raise mnist.Damaged(f"{folder}: {len(images)} training images, {BATCH} that are not all the same needed")
    return (images - mean) / deviation, labels, (test_images - mean) / deviation, test_labels


def _digits() -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.kron(digits.images, np.ones((3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], digits.target[order].astype(np.int64)
    tests = len(images) // 5
    return images[tests:], labels[tests:], images[:tests], labels[:tests]


def _in_own_process(row: str, options: argparse.Namespace) -> tuple[list[float], list[Record]]:
    """Return the accuracies of a row, and with --monitor its records."""
    command = [sys.executable, "-m", "scripts.training.learn", "--row", row, "--epochs", str(options.epochs)]
    folder = ["--mnist", str(options.mnist)] if options.mnist else []
    monitor = ["--monitor"] if options.monitor else []
    completed = subprocess.run([*command, *folder, *monitor], stdout=subprocess.PIPE, text=True)
    if completed.returncode:
        raise SystemExit(f"learn: {row} failed")
    curve, *lines = map(json.loads, completed.stdout.splitlines())
    return curve, [Record(**record) for line in lines for record in line]


def _write(path: Path, curves: dict[str, list[float]], records: Sequence[Record]) -> None:
    """Write the figure of accuracies and, beside it, the table and the figure of the records, if there are any."""
    # Takes seconds, which the processes that train need not spend.
    from scripts.training import figures

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(figures.accuracies(curves).file)
    if not records:
        return
    with path.with_suffix(".monitor.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(Record)])
        writer.writeheader()
        writer.writerows(map(asdict, records))
    path.with_suffix(".monitor.svg").write_text(figures.activations(records).file)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.training.learn", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--mnist", type=Path, help="folder with the four files of MNIST (default: use scikit-learn's digits)"
    )
    parser.add_argument("--epochs", type=positive, default=16, help="(default: %(default)s)")
    parser.add_argument(
        "--figure", type=Path, default=ROOT / "reports" / "learning.svg", help="file to draw to (default: %(default)s)"
    )
    parser.add_argument(
        "--monitor",
        action="store_true",
        help="show progress and what ReLUs output, and write it beside the figure (.monitor.csv, .monitor.svg)",
    )
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mnist:
        try:
            data(options.mnist)
        except mnist.Damaged as error:
            parser.error(str(error))
    return options


if __name__ == "__main__":
    sys.exit(main())
