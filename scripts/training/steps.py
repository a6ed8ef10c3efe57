"""Time the training steps of all rows in turn, some rounds, and hold them against the fastest eager PyTorch row.

python -m scripts.training.steps [--networks mnist_cnn convnet_relu] [--batch 64] [--rounds 5]: run by an environment
that has the frameworks (.venv/test). Each round measures every row in a process of its own, in another order. Fails
where a framework's fastest row takes more than its target, as a multiple of that row's time. Targets are for a batch of
64.
"""

import argparse
import random
import sys
from collections import defaultdict
from dataclasses import replace
from math import nan
from statistics import median

from tqdm import tqdm

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.processes import isolation, outcomes
from benchmarks.harness.timing.contention import Core
from impls.catalog import STEPS, StepVariant
from impls.cnn.networks import NETWORKS
from scripts.arguments import positive

# Multiples of the fastest eager row of PyTorch, on two cores.
TARGETS = {
    "mnist_cnn": {"numpy": 2.0, "numba": 0.8, "jax": 2.5},
    "convnet_relu": {"numpy": 2.0, "numba": 1.2, "jax": 2.5},
}
TARGET_BATCH = 64
BUDGET_S = 1.0


def main() -> int:
    options = _options()
    settings = replace(Settings.from_environment(), budget_s=BUDGET_S)
    rows = [row for row in STEPS if row.device == "cpu"]
    missed = False
    for network in options.networks:
        cases = {row: Case("time", f"cnn.{network}", row.name, options.batch, "float32") for row in rows}
        found = _in_turn(cases, settings, options.rounds)
        missed |= _print(network, options.batch, found)
    return int(missed)


def _in_turn(
    cases: dict[StepVariant, Case], settings: Settings, rounds: int
) -> dict[StepVariant, list[outcomes.Outcome]]:
    """What each round found of each row; those that failed are printed and left out."""
    found = defaultdict(list)
    core = Core()
    for row in tqdm([row for _ in range(rounds) for row in random.sample(list(cases), len(cases))], unit="case"):
        core.settle(1.0)
        (outcome,) = isolation.run([cases[row]], replace(settings, core_s=core.seen_s or settings.core_s))
        if outcome.status == "ok":
            found[row].append(outcome)
        else:
            tqdm.write(f"{row.name}: {outcome.status}: {outcome.reason}")
    return found


def _print(network: str, batch: int, found: dict[StepVariant, list[outcomes.Outcome]]) -> bool:
    """A line for each row, the fastest first; tell whether a target is missed."""
    medians = {row: median(outcome.value or 0.0 for outcome in parts) for row, parts in found.items()}
    eager_s = min((s for row, s in medians.items() if row.framework == "torch" and not row.needs), default=nan)
    print(f"\n{network}, batch {batch}: ms a step, median (least, most) of the rounds; times the fastest eager row")
    for row, value_s in sorted(medians.items(), key=lambda pair: pair[1]):
        values = [1e3 * (outcome.value or 0.0) for outcome in found[row]]
        deviation = max(outcome.details["deviation"] for outcome in found[row])
        print(
            f"{row.name:30} {1e3 * value_s:8.2f} ({min(values):8.2f}, {max(values):8.2f}) {value_s / eager_s:6.2f}"
            f"   off the reference by {deviation:.1e}; {_composition(found[row])}"
        )
    if batch != TARGET_BATCH:
        return False
    missed = False
    for framework, most in TARGETS[network].items():
        best = min((value / eager_s for row, value in medians.items() if row.framework == framework), default=None)
        met = best is not None and best <= most
        missed |= not met
        ratio = "no row" if best is None else f"{best:.2f}"
        print(f"{framework}: {ratio}, at most {most:g}: {'met' if met else 'missed'}")
    return missed


def _composition(parts: list[outcomes.Outcome]) -> str:
    """Milliseconds of the phases, and ReLU's share, as medians of the rounds."""
    phases = {
        phase: 1e3 * median(part.details["phases_s"][phase] for part in parts) for phase in parts[0].details["phases_s"]
    }
    shares = [part.details["relu_percent"] for part in parts if part.details["relu_percent"] is not None]
    relu = "ReLU unknown"
    if shares:
        low, high = map(median, zip(*shares, strict=True))
        relu = f"ReLU {low:.1f} to {high:.1f} %"
    return ", ".join([*(f"{phase} {ms:.2f}" for phase, ms in phases.items()), relu])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.training.steps", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="(default: both)")
    parser.add_argument("--batch", type=positive, default=TARGET_BATCH, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="(default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
