"""Measure what the monitor of activations costs: training steps of PyTorch with and without it, in turn.

python -m scripts.verify.monitor [--network mnist_cnn] [--rounds 100]: with .venv/test. Prints the median ratio with its
95 % interval.
"""

import argparse
import sys
from collections.abc import Callable
from random import random
from time import perf_counter
from typing import Any

from benchmarks.harness.frameworks import started
from benchmarks.harness.timing import intervals
from impls.cnn.networks import NETWORKS, initial_parameters, random_batch
from scripts.arguments import positive

BATCH = 64
WARMUP = 5


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.monitor", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--network", choices=NETWORKS, default="mnist_cnn", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=100, help="(default: %(default)s)")
    options = parser.parse_args()
    with started("torch", "cpu"):
        ratios = _ratios(options.network, options.rounds)
    found = intervals.of([ratios])
    print(f"{options.network}, batch {BATCH}: {found.value:.3f} times as long ({found.low:.3f} to {found.high:.3f})")
    return 0


def _ratios(name: str, rounds: int) -> list[float]:
    """The time of a monitored step by that of a step alone, of each round."""
    from impls.cnn import torch_
    from impls.health.torch_ import ActivationMonitor

    network = NETWORKS[name]
    step = torch_.build(network, initial_parameters(network), BATCH, "float32", "fresh")
    given = step.put(random_batch(network, BATCH))

    def monitored(given: Any) -> None:
        with ActivationMonitor(step.net):
            step(given)

    for _ in range(WARMUP):
        step(given)
    found = []
    for _ in range(rounds):
        order: list[Callable[[Any], Any]] = [step, monitored] if random() < 0.5 else [monitored, step]
        seconds = {each: _seconds(each, given) for each in order}
        found.append(seconds[monitored] / seconds[step])
    return found


def _seconds(function: Callable[[Any], Any], given: Any) -> float:
    start_s = perf_counter()
    function(given)
    return perf_counter() - start_s


if __name__ == "__main__":
    sys.exit(main())
