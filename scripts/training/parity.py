"""Compare every row's training step with the float64 reference over 20 steps from equal weights on equal batches.

python -m scripts.training.parity [--networks mnist_cnn convnet_relu ...] [--batch 37]: needs an environment with the
frameworks (.venv/test). Prints the largest errors of loss, gradients and running statistics. Fails if one is beyond
its tolerance.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from benchmarks.harness.frameworks import started
from benchmarks.harness.truth.training import LEAST_NORM
from impls.catalog import STEPS, find_step
from impls.cnn import reference
from impls.cnn import rows as cnn
from impls.cnn.networks import (
    DTYPES,
    MOMENTUM,
    NETWORKS,
    RELU_NETWORKS,
    Array,
    Network,
    initial_parameters,
    random_batch,
)
from impls.variant import StepVariant
from scripts.arguments import positive

FOLLOWED = 20


@dataclass(frozen=True)
class Deviations:
    """The largest relative errors; those of gradients and statistics are of norms."""

    loss: float
    gradient: float
    statistic: float

    def within(self, dtype: str) -> bool:
        """Return whether no error is beyond its tolerance. NaN is beyond."""
        return all(error <= getattr(TOLERANCE[dtype], name) for name, error in vars(self).items())


# In float32, rounding changes the decision of a ReLU or a max-pool near a tie. A gradient is then off by an element's
# share of it, and weights drift apart: up to 1.4 % was measured in eager PyTorch. With other activations they may drift
# further.
TOLERANCE = {"float32": Deviations(5e-5, 5e-2, 2e-3), "float64": Deviations(1e-9, 1e-9, 1e-9)}


def deviations(step: Any, network: Network, n: int, followed: int = FOLLOWED) -> Deviations:
    """Return the largest errors of a step (`impls.cnn`), starting at the initial weights.

    followed: number of steps to compare, at most FOLLOWED.
    """
    before, errors = step.state(), []
    for number, (loss, gradients, statistics) in enumerate(_reference(network, n)[:followed]):
        step_loss = float(step(step.put(random_batch(network, n, number))))
        after = step.state()
        step_gradients = {name: _gradient(after.velocities[name], before.velocities[name]) for name in gradients}
        errors.append(
            (
                abs(step_loss - loss) / (loss + LEAST_NORM),
                max(_error(step_gradients[name], gradient) for name, gradient in gradients.items()),
                max((_error(after.statistics[name], value) for name, value in statistics.items()), default=0.0),
            )
        )
        before = after
    # NumPy's maximum propagates NaN; Python's does not.
    return Deviations(*(float(np.max(column)) for column in zip(*errors, strict=True)))


@cache
def _reference(network: Network, n: int) -> list[tuple[float, dict[str, Array], dict[str, Array]]]:
    """Return loss, gradients and statistics of each step of the reference."""
    state, steps = reference.initial_state(network, initial_parameters(network)), []
    for number in range(FOLLOWED):
        before = dict(state.velocities)
        loss = reference.step(network, state, random_batch(network, n, number))
        gradients = {name: _gradient(velocity, before[name]) for name, velocity in state.velocities.items()}
        steps.append((loss, gradients, dict(state.statistics)))
    return steps


def _gradient(velocity: Array, before: Array) -> Array:
    return velocity.astype(np.float64) - MOMENTUM * before.astype(np.float64)


def _error(computed: Array, exact: Array) -> float:
    return float(np.linalg.norm(computed - exact) / (np.linalg.norm(exact) + LEAST_NORM))


def main() -> int:
    options = _options()
    if options.row:
        print(json.dumps([vars(errors) for errors in _of_row(options.row, options.networks, options.batch)]))
        return 0
    failed = False
    print(f"{FOLLOWED} steps, batch {options.batch}: largest relative error of loss, gradients, statistics")
    for row in STEPS:
        if row.device != "cpu":
            continue
        errors = [Deviations(**fields) for fields in _in_own_process(row, options)]
        cases = [(network.name, dtype) for network in _networks(row, options.networks) for dtype in DTYPES]
        for (network, dtype), most in zip(cases, errors, strict=True):
            verdict = "" if most.within(dtype) else "  beyond its tolerance"
            failed |= bool(verdict)
            columns = f"{most.loss:.1e}  {most.gradient:.1e}  {most.statistic:.1e}"
            print(f"{row.name:30} {network:20} {dtype}  {columns}{verdict}")
    return int(failed)


def _of_row(name: str, networks: list[str], n: int) -> list[Deviations]:
    row = find_step(name)
    errors = []
    with started(row.framework, row.device):
        for network in _networks(row, networks):
            for dtype in DTYPES:
                step = row.load()(network, initial_parameters(network), n, dtype, row.memory)
                errors.append(deviations(step, network, n))
    return errors


def _networks(row: StepVariant, names: list[str]) -> list[Network]:
    """The networks that have the row."""
    return [NETWORKS[name] for name in names if row in cnn.of_network(NETWORKS[name])]


def _in_own_process(row: StepVariant, options: argparse.Namespace) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "scripts.training.parity", "--row", row.name, "--batch", str(options.batch)]
    completed = subprocess.run([*command, "--networks", *options.networks], stdout=subprocess.PIPE, text=True)
    if completed.returncode:
        raise SystemExit(f"parity: {row.name} failed")
    return json.loads(completed.stdout)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.training.parity", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(RELU_NETWORKS), help="(default: those with ReLU)"
    )
    parser.add_argument("--batch", type=positive, default=37, help="(default: %(default)s)")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
