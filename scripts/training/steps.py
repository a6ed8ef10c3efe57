"""Time the training steps of all rows in alternating rounds and compare them with the fastest eager PyTorch row.

python -m scripts.training.steps [--networks mnist_cnn convnet_relu] [--batch 64] [--rounds 5]: needs an environment
with the frameworks (.venv/test). Each round measures every row in a process of its own, in random order. Targets are
multiples of the fastest eager PyTorch row's time, at a batch of 64. Fails if a framework's fastest row misses its
target.
"""

import argparse
import random
import sys
from collections import defaultdict
from dataclasses import replace
from math import nan
from statistics import median

from tqdm import tqdm

from benchmarks.harness.case import Settings, StepCase
from benchmarks.harness.measurement import Measurement, StepTiming
from benchmarks.harness.processes import isolation
from benchmarks.harness.timing.contention import Core
from impls.catalog import STEPS
from impls.cnn.networks import NETWORKS
from impls.variant import StepVariant
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
        cases = {row: StepCase("time", network, row.name, options.batch) for row in rows}
        measurements = _in_turn(cases, settings, options.rounds)
        missed |= _print(network, options.batch, measurements)
    return int(missed)


def _in_turn(
    cases: dict[StepVariant, StepCase], settings: Settings, rounds: int
) -> dict[StepVariant, list[Measurement]]:
    """Return the measurements of each row in all rounds; print failures and leave them out."""
    measurements = defaultdict(list)
    core = Core()
    for row in tqdm([row for _ in range(rounds) for row in random.sample(list(cases), len(cases))], unit="case"):
        core.settle(1.0)
        probe_best_s = core.probe_s or settings.probe_best_s
        (measurement,) = isolation.run([cases[row]], replace(settings, probe_best_s=probe_best_s))
        if measurement.status == "ok":
            measurements[row].append(measurement)
        else:
            tqdm.write(f"{row.name}: {measurement.status}: {measurement.reason}")
    return measurements


def _print(network: str, batch: int, measurements: dict[StepVariant, list[Measurement]]) -> bool:
    """Print a line for each row, the fastest first; return whether a target is missed."""
    medians = {row: median(_seconds(rounds)) for row, rounds in measurements.items()}
    eager_s = min((s for row, s in medians.items() if row.framework == "torch" and not row.compiled), default=nan)
    print(
        f"\n{network}, batch {batch}: ms a step, median (least, most) of the rounds; multiple of the fastest eager row"
    )
    for row, median_s in sorted(medians.items(), key=lambda pair: pair[1]):
        times_ms = [1e3 * seconds for seconds in _seconds(measurements[row])]
        least, most = min(times_ms), max(times_ms)
        timings = _timings(measurements[row])
        deviation = max(timing.deviation for timing in timings)
        print(
            f"{row.name:30} {1e3 * median_s:8.2f} ({least:8.2f}, {most:8.2f}) {median_s / eager_s:6.2f}"
            f"   error {deviation:.1e}; {_composition(timings)}"
        )
    if batch != TARGET_BATCH:
        return False
    missed = False
    for framework, target in TARGETS[network].items():
        ratios = [seconds / eager_s for row, seconds in medians.items() if row.framework == framework]
        met = bool(ratios) and min(ratios) <= target
        missed |= not met
        ratio = f"{min(ratios):.2f}" if ratios else "no row"
        print(f"{framework}: {ratio}, at most {target:g}: {'met' if met else 'missed'}")
    return missed


def _seconds(rounds: list[Measurement]) -> list[float]:
    return [measurement.value or 0.0 for measurement in rounds]


def _timings(rounds: list[Measurement]) -> list[StepTiming]:
    return [process.step for measurement in rounds for process in measurement.processes if process.step]


def _composition(timings: list[StepTiming]) -> str:
    """Describe the milliseconds of the phases and ReLU's share, as medians of the rounds."""
    phases = {phase: 1e3 * median(timing.phases_s[phase] for timing in timings) for phase in timings[0].phases_s}
    shares = [timing.relu_percent for timing in timings if timing.relu_percent]
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
