"""Time the training steps of all rows in the same rounds and compare them with the fastest eager PyTorch row.

python -m scripts.training.steps [--networks mnist_cnn convnet_relu] [--batch 64] [--passes 3]: needs an environment
with the frameworks (.venv/test). Each pass has processes of its own. Targets are multiples of the fastest eager PyTorch
row's time, at a batch of 64. Fails if a framework's fastest row misses its target.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from benchmarks.harness.case import Settings, StepCase
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.processes import plan
from benchmarks.harness.timing import intervals
from benchmarks.harness.timing.intervals import Interval
from impls.cnn import PHASES
from impls.cnn import rows as cnn
from impls.cnn.architecture import NETWORKS, RELU_NETWORKS
from impls.variant import StepVariant
from scripts.arguments import positive

# Multiples of the fastest eager row of PyTorch, on two cores.
TARGETS = {
    "mnist_cnn": {"numpy": 1.1, "numba": 0.65, "jax": 1.1},
    "convnet_relu": {"numpy": 1.2, "numba": 0.85, "jax": 1.7},
}
TARGET_BATCH = 64
# Of a row in all passes.
BUDGET_S = 5.0


def main() -> int:
    options = _options()
    # Of training steps the harness makes half the passes.
    settings = replace(Settings.from_environment(), budget_s=BUDGET_S, passes=2 * options.passes)
    met = [_meets_targets(network, options.batch, settings) for network in options.networks]
    return int(not all(met))


def _meets_targets(network: str, batch: int, settings: Settings) -> bool:
    """Measure all rows of a network and print them; return whether its targets are met, as far as they apply."""
    cases = {
        row: StepCase("time", network, row.name, batch)
        for row in cnn.of_network(NETWORKS[network])
        if row.device == "cpu"
    }
    found = plan.measured(list(cases.values()), settings)
    for case, measurement in found.items():
        if measurement.reason:
            print(f"{case.label}: {measurement.status}: {measurement.reason}")
    measured = {row: found[case] for row, case in cases.items() if found[case].value is not None}
    eager = [row for row in measured if row.framework == "torch" and not row.compiled]
    if not eager:
        print(f"{network}: no eager row of PyTorch was measured")
        return False
    fastest = min(eager, key=lambda row: measured[row].value or 0.0)
    ratios = {row: paired_ratio(measurement, measured[fastest]) for row, measurement in measured.items()}
    print(f"\n{network}, batch {batch}: ms a step; multiple of {fastest.name} in the same rounds, 95 % interval")
    for row, ratio in sorted(ratios.items(), key=lambda pair: pair[1].value):
        print(f"{row.name:30} {_line(measured[row], ratio)}")
    if batch != TARGET_BATCH:
        return True
    met = [_is_met(network, framework, ratios) for framework in TARGETS.get(network, ())]
    return all(met)


def paired_ratio(measurement: Measurement, other: Measurement) -> Interval:
    """The median ratio of two times in the rounds that both have."""
    passes = zip(_rounds_s(measurement), _rounds_s(other), strict=False)
    return intervals.of([[mine[number] / theirs[number] for number in mine.keys() & theirs] for mine, theirs in passes])


def _rounds_s(measurement: Measurement) -> list[dict[int, float]]:
    """For each pass, seconds by round."""
    return [{taken.round: median(taken.samples_s) for taken in process.slices} for process in measurement.processes]


def _line(measurement: Measurement, ratio: Interval) -> str:
    """The time of a row, its ratio and error, the milliseconds of its phases and ReLU's share."""
    steps = [process.step for process in measurement.processes if process.step]
    rounds_s = {phase: [seconds for step in steps for seconds in step.phases_s.get(phase, ())] for phase in PHASES}
    phases = [f"{phase} {1e3 * median(seconds):.2f}" for phase, seconds in rounds_s.items() if seconds]
    shares = [step.relu_percent for step in steps]
    share = intervals.of(shares) if any(shares) else None
    relu = f"ReLU {share.low:.1f} to {share.high:.1f} %" if share else "ReLU unknown"
    deviation = max(step.deviation for step in steps)
    return (
        f"{1e3 * (measurement.value or 0.0):8.2f} {ratio.value:6.2f} ({ratio.low:.2f}, {ratio.high:.2f})"
        f"   error {deviation:.1e}; {', '.join([*phases, relu])}"
    )


def _is_met(network: str, framework: str, ratios: Mapping[StepVariant, Interval]) -> bool:
    """Print whether the fastest row of a framework meets its target."""
    values = [ratio.value for row, ratio in ratios.items() if row.framework == framework]
    target = TARGETS[network][framework]
    is_met = bool(values) and min(values) <= target
    reached = f"{min(values):.2f}" if values else "no row"
    print(f"{framework}: {reached}, at most {target:g}: {'met' if is_met else 'missed'}")
    return is_met


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.training.steps", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(RELU_NETWORKS), help="(default: those with ReLU)"
    )
    parser.add_argument("--batch", type=positive, default=TARGET_BATCH, help="(default: %(default)s)")
    parser.add_argument("--passes", type=positive, default=3, help="(default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
