"""Check every GPU row, measure ReLU and both training steps, and hold them against targets: ./scripts/gpu_check.

Says first what the machine lacks, and ends there where there is nothing to run. Times are those of the device's own
events for ReLU, without launching, and those that a user waits for training steps; the table shows both. Exit code: 0
all targets met, 1 not, or something is wrong, 2 nothing to run.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import nan
from typing import Any

# All else is imported where it is used: what a machine lacks is told by any Python, before anything is installed.
from benchmarks.harness import gpu, machine

ELEMENTS = (2**20, 2**24, 2**28)
CHECKED_ELEMENTS = 2**16 + 13
BATCH = 64
BUDGET_S, LIMIT_S = 1.0, 600.0
LEAST_DRIVER = 580
# Of what a copy on the device reaches at the largest size; Triton's and PyTorch's rows are to be there too.
LEAST_PERCENT, LARGEST = 92.0, ELEMENTS[-1]
RELU_TARGETS = ("numba_cuda", "triton", "torch")
# Of the fastest row of PyTorch on CUDA.
STEP_TARGETS = {"cnn.mnist_cnn": 3.0}


def main() -> int:
    options = _options()
    lacking = list(lacks())
    for line in lacking:
        print(f"gpu_check: {line}")
    if lacking:
        return 2
    if options.lacks:
        return 0
    print(f"{machine.gpus()}; driver: {machine.gpu_driver()}")
    print(f"datasheet: {gpu.bandwidth_gb_per_s() or nan:.0f} GB/s; now: {gpu.state()}")
    wrong = _check_all()
    missed = _relu() + _steps()
    print(f"{wrong} rows wrong, {missed} targets missed or rows without a time")
    return int(wrong + missed > 0)


def lacks() -> Iterator[str]:
    """What there would have to be on this machine for anything to run."""
    if machine.gpu_driver() is None:
        yield "no NVIDIA driver is loaded (/proc/driver/nvidia/version is missing): there is nothing to run"
    elif not machine.gpus():
        yield "an NVIDIA driver is loaded, and it has no device: there is nothing to run"
    elif gpu.hidden():
        yield f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, which hides every device: unset it"
    elif (found := re.search(r"\b(\d{3,})\.\d", machine.gpu_driver() or "")) and int(found[1]) < LEAST_DRIVER:
        yield f"the NVIDIA driver is {found[1]}; builds for CUDA 13 need {LEAST_DRIVER} or newer: update it"


def _check_all() -> int:
    """Truth of each GPU row in each dtype; how many are not right."""
    from impls.catalog import STEPS, VARIANTS
    from impls.cnn.networks import NETWORKS

    relu = [
        (row.op, row.name, CHECKED_ELEMENTS, dtype) for row in VARIANTS if row.device == "cuda" for dtype in row.dtypes
    ]
    steps = [
        (f"cnn.{network}", row.name, BATCH, dtype)
        for row in STEPS
        if row.device == "cuda"
        for network in NETWORKS
        for dtype in row.dtypes
    ]
    wrong = 0
    for case in (*relu, *steps):
        outcome = _outcome(*case, budget_s=0.02)
        if outcome.value is None:
            wrong += 1
            print(f"{' '.join(map(str, case))}: {outcome.status}: {outcome.reason}")
    print(f"truth: {len(relu) + len(steps)} rows and dtypes, {wrong} not right")
    return wrong


def _relu() -> int:
    """The table of ReLU in float32; how many targets are missed, and rows without a time."""
    from impls.catalog import ITEMSIZE_BYTES, VARIANTS

    itemsize_bytes = ITEMSIZE_BYTES["float32"]
    sheet = gpu.bandwidth_gb_per_s() or nan
    best: dict[tuple[str, str], float] = {}
    missed = 0
    print(
        f"{'operator':<15}{'row':<26}{'elements':>12}{'wait us':>10}{'device us':>11}"
        f"{'GB/s':>7}{'% copy':>8}{'% sheet':>9}"
    )
    for n in ELEMENTS:
        copy_s = _outcome("device", "copy", n * itemsize_bytes, "float32").value or nan
        print(f"{'':<15}{'copy':<26}{n:>12}{'':>10}{copy_s * 1e6:>11.1f}{2 * n * itemsize_bytes / copy_s / 1e9:>7.0f}")
        for row in VARIANTS:
            if row.device != "cuda":
                continue
            outcome = _outcome(row.op, row.name, n, "float32")
            missed += outcome.value is None
            device_s = outcome.details.get("device_s") or nan
            moved = row.required_traffic.algorithmic_bytes(n, itemsize_bytes)
            # JAX has no events: what a user waits stands for it, and is marked.
            used_s = device_s if device_s == device_s else outcome.value or nan
            percent = 100 * copy_s * moved / (2 * n * itemsize_bytes) / used_s
            print(
                f"{row.op:<15}{row.name:<26}{n:>12}{(outcome.value or nan) * 1e6:>10.1f}{device_s * 1e6:>11.1f}"
                f"{moved / used_s / 1e9:>7.0f}{percent:>8.1f}{100 * moved / used_s / 1e9 / sheet:>9.1f}"
                f"{' wait' if device_s != device_s else ''} {_remark(outcome)}"
            )
            if n == LARGEST and percent == percent:
                best[row.framework, row.op] = max(percent, best.get((row.framework, row.op), 0.0))
    for framework, op in product(RELU_TARGETS, ("relu.forward", "relu.backward")):
        reached = best.get((framework, op), nan)
        met = reached >= LEAST_PERCENT
        missed += not met
        print(
            f"{framework}, {op}: {reached:.1f} % of the copy's roof at 2^28, "
            f"at least {LEAST_PERCENT:g}: {'met' if met else 'missed'}"
        )
    return missed


def _steps() -> int:
    """The table of training steps in float32; how many targets are missed, and rows without a time."""
    from impls.catalog import STEPS
    from impls.cnn.networks import NETWORKS

    missed = 0
    for network in NETWORKS:
        op = f"cnn.{network}"
        rows = [row for row in STEPS if row.device == "cuda"]
        times = {row: _outcome(op, row.name, BATCH, "float32") for row in rows}
        known = {row: outcome.value for row, outcome in times.items() if outcome.value is not None}
        torch_s = min((seconds for row, seconds in known.items() if row.framework == "torch"), default=nan)
        for row, outcome in times.items():
            value_s = known.get(row, nan)
            missed += row not in known
            told = f"{value_s * 1e3:>9.3f} ms{value_s / torch_s:>7.2f} x torch"
            print(f"{op:<18}{row.name:<32}{told}   {_remark(outcome)}")
        if op in STEP_TARGETS:
            ours_s = min((seconds for row, seconds in known.items() if row.framework == "numba_cuda"), default=nan)
            met = ours_s <= STEP_TARGETS[op] * torch_s
            missed += not met
            print(f"{op}: {ours_s / torch_s:.2f} x torch, at most {STEP_TARGETS[op]:g}: {'met' if met else 'missed'}")
    return missed


def _remark(outcome: Any) -> str:
    from benchmarks.harness import outcomes

    return outcome.reason or outcomes.slowed([outcome])


def _outcome(op: str, variant: str, elements: int, dtype: str, budget_s: float = BUDGET_S) -> Any:
    from benchmarks.harness import isolation
    from benchmarks.harness.case import Case, Settings

    settings = replace(Settings.from_environment(), budget_s=budget_s, limit_s=LIMIT_S)
    return isolation.run([Case("time", op, variant, elements, dtype)], settings)[0]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/gpu_check", description=(__doc__ or "").split(": ./scripts")[0])
    parser.add_argument("--lacks", action="store_true", help="only say what the machine lacks")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
