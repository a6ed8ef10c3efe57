"""Follow the float64 reference with every row's training step from the same weights on the same batches, 20 steps.

python -m scripts.training.parity [--networks mnist_cnn convnet_relu] [--batch 37]: run by an environment that has the
frameworks (.venv/test). Prints how far each is off at most: loss, gradients and running statistics. Fails where one is
beyond its tolerance.
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
from benchmarks.harness.quantities.training import LEAST_NORM
from impls.catalog import STEPS, StepVariant, find_step
from impls.cnn import reference
from impls.cnn.networks import DTYPES, MOMENTUM, NETWORKS, Array, Network, initial_parameters, random_batch
from scripts.arguments import positive

FOLLOWED = 20


@dataclass(frozen=True)
class Deviations:
    """The largest relative errors, by norm for a gradient and a statistic."""

    loss: float
    gradient: float
    statistic: float

    def within(self, dtype: str) -> bool:
        """Whether none is beyond its tolerance; a NaN is."""
        return all(found <= getattr(TOLERANCE[dtype], name) for name, found in vars(self).items())


# In float32 a ReLU or a max-pool near a tie decides otherwise, after which a gradient is off by the share of an element
# rather than by rounding, and weights drift apart: 1.4 % was seen in eager PyTorch.
TOLERANCE = {"float32": Deviations(5e-5, 5e-2, 2e-3), "float64": Deviations(1e-9, 1e-9, 1e-9)}


def deviations(step: Any, network: Network, n: int, followed: int = FOLLOWED) -> Deviations:
    """How far a step (`impls.cnn`) is off, from the initial weights on, in the first FOLLOWED steps or fewer."""
    before, errors = step.state(), []
    for number, (loss, gradients, statistics) in enumerate(_reference(network, n)[:followed]):
        found = float(step(step.put(random_batch(network, n, number))))
        after = step.state()
        own = {name: _gradient(after.velocities[name], before.velocities[name]) for name in gradients}
        errors.append(
            (
                abs(found - loss) / (loss + LEAST_NORM),
                max(_error(own[name], gradient) for name, gradient in gradients.items()),
                max((_error(after.statistics[name], value) for name, value in statistics.items()), default=0.0),
            )
        )
        before = after
    # NumPy's maximum passes a NaN on.
    return Deviations(*(float(np.max(column)) for column in zip(*errors, strict=True)))


@cache
def _reference(network: Network, n: int) -> list[tuple[float, dict[str, Array], dict[str, Array]]]:
    """Loss, gradients and statistics of each step."""
    state, found = reference.initial_state(network, initial_parameters(network)), []
    for number in range(FOLLOWED):
        before = dict(state.velocities)
        loss = reference.step(network, state, random_batch(network, n, number))
        gradients = {name: _gradient(velocity, before[name]) for name, velocity in state.velocities.items()}
        found.append((loss, gradients, dict(state.statistics)))
    return found


def _gradient(velocity: Array, before: Array) -> Array:
    return velocity.astype(np.float64) - MOMENTUM * before.astype(np.float64)


def _error(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / (np.linalg.norm(wanted) + LEAST_NORM))


def main() -> int:
    options = _options()
    if options.row:
        print(json.dumps([vars(found) for found in _of_row(options.row, options.networks, options.batch)]))
        return 0
    failed = False
    print(f"{FOLLOWED} steps, batch {options.batch}: largest relative error of loss, gradients, statistics")
    for row in STEPS:
        if row.device != "cpu":
            continue
        found = [Deviations(**fields) for fields in _in_own_process(row, options)]
        cases = [(network, dtype) for network in options.networks for dtype in DTYPES]
        for (network, dtype), one in zip(cases, found, strict=True):
            failed |= not one.within(dtype)
            said = "" if one.within(dtype) else "  beyond its tolerance"
            print(f"{row.name:30} {network:13} {dtype}  {one.loss:.1e}  {one.gradient:.1e}  {one.statistic:.1e}{said}")
    return int(failed)


def _of_row(name: str, networks: list[str], n: int) -> list[Deviations]:
    row = find_step(name)
    found = []
    with started(row.framework, row.device):
        for network in (NETWORKS[name] for name in networks):
            for dtype in DTYPES:
                step = row.load()(network, initial_parameters(network), n, dtype, row.memory)
                found.append(deviations(step, network, n))
    return found


def _in_own_process(row: StepVariant, options: argparse.Namespace) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "scripts.training.parity", "--row", row.name, "--batch", str(options.batch)]
    ended = subprocess.run([*command, "--networks", *options.networks], stdout=subprocess.PIPE, text=True)
    if ended.returncode:
        raise SystemExit(f"parity: {row.name} failed")
    return json.loads(ended.stdout)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.training.parity", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="(default: both)")
    parser.add_argument("--batch", type=positive, default=37, help="(default: %(default)s)")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
