"""Check every GPU row, measure ReLU and both training steps, and hold them against targets: ./scripts/gpu_check.

Says first what the machine lacks, and ends there where there is nothing to run. Rows of ReLU are held against targets
by the device's own events, without launching, and training steps by what a user waits; the table shows both. Exit
code: 0 all targets met, 1 not, or something is wrong, 2 nothing to run.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import nan
from typing import Any

from benchmarks.harness.case import Case

# All else is imported where it is used: what a machine lacks is told by any Python, before anything is installed.
from benchmarks.harness.machine import gpu, linux
from scripts.arguments import positive

PARTS = ("truth", "relu", "steps")
ELEMENTS = (2**20, 2**24, 2**28)
CHECKED_ELEMENTS = 2**16 + 13
BATCH = 64
BUDGET_S, CHECKING_S, LIMIT_S = 1.0, 0.02, 600.0
LEAST_DRIVER = 580
FLOAT32_BYTES = 4
# Of what a copy on the device reaches at the largest size.
LEAST_PERCENT = 92.0
RELU_TARGETS = tuple(product(("numba_cuda", "triton", "torch"), ("relu.forward", "relu.backward")))
# Times the fastest row of PyTorch on CUDA, at most.
STEP_TARGETS = {("numba_cuda", "cnn.mnist_cnn"): 3.0}

say = partial(print, flush=True)


@dataclass(frozen=True)
class Time:
    """What was found of a row at a size; nan: unknown.

    wait_s: what a user waits for a call. device_s: what the device takes for it, by its events. moved_bytes: what the
    operator cannot do without. remark: why there is no time, or what disturbed it.
    """

    framework: str
    op: str
    variant: str
    elements: int
    wait_s: float
    device_s: float
    moved_bytes: float
    remark: str

    @property
    def used_s(self) -> float:
        """The device's own time; JAX has no events, and what a user waits stands for it."""
        return self.device_s if self.device_s == self.device_s else self.wait_s


@dataclass(frozen=True)
class Target:
    """Something to reach, how far it was reached, and whether that will do."""

    text: str
    met: bool

    def __str__(self) -> str:
        return f"{self.text}: {'met' if self.met else 'missed'}"


def main() -> int:
    options = _options()
    lacking = list(lacks())
    for line in lacking:
        say(f"gpu_check: {line}")
    if lacking:
        return 2
    if options.lacks:
        return 0
    device = gpu.Device()
    sheet_gb_per_s = device.bandwidth_gb_per_s() or nan
    say(f"{linux.gpus()}; driver: {linux.gpu_driver()}")
    say(f"datasheet: {sheet_gb_per_s:.0f} GB/s; now: {device.state()}")
    rows = of_device("cuda")
    wrong = sum([_truth(rows)] if "truth" in options.parts else [])
    targets = [
        *(_relu(rows, options.elements, sheet_gb_per_s) if "relu" in options.parts else ()),
        *(_steps(rows) if "steps" in options.parts else ()),
    ]
    for target in targets:
        say(target)
    missed = sum(not target.met for target in targets)
    say(f"{wrong} rows wrong, {missed} of {len(targets)} targets missed")
    return int(wrong + missed > 0)


def lacks() -> Iterator[str]:
    """What there would have to be on this machine for anything to run."""
    if linux.gpu_driver() is None:
        yield "no NVIDIA driver is loaded (/proc/driver/nvidia/version is missing): there is nothing to run"
    elif not linux.gpus():
        yield "an NVIDIA driver is loaded, and it has no device: there is nothing to run"
    elif gpu.hidden():
        yield f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, which hides every device: unset it"
    elif (found := re.search(r"\b(\d{3,})\.\d", linux.gpu_driver() or "")) and int(found[1]) < LEAST_DRIVER:
        yield f"the NVIDIA driver is {found[1]}; builds for CUDA 13 need {LEAST_DRIVER} or newer: update it"


def of_device(device: str) -> list[tuple[str, Any]]:
    """Operators with the rows of the catalog that a device has, training steps last."""
    from impls.catalog import STEPS, VARIANTS
    from impls.cnn.networks import STEP_OF

    relu = [(row.op, row) for row in VARIANTS if row.device == device]
    return [*relu, *((op, row) for op in STEP_OF for row in STEPS if row.device == device)]


def _truth(rows: Iterable[tuple[str, Any]]) -> int:
    """Truth of each row in each dtype; how many are not right."""
    checked = wrong = 0
    for op, row in rows:
        elements = BATCH if _is_step(op) else CHECKED_ELEMENTS
        found = measured([Case("time", op, row.name, elements, dtype) for dtype in row.dtypes], CHECKING_S)
        checked += len(found)
        for case, outcome in found.items():
            if outcome.value is None:
                wrong += 1
                say(f"{op} {row.name} {case.elements} {case.dtype}: {outcome.status}: {outcome.reason}")
    say(f"truth: {checked} rows and dtypes, {wrong} not right")
    return wrong


def _relu(rows: Iterable[tuple[str, Any]], sizes: Sequence[int], sheet_gb_per_s: float) -> list[Target]:
    """Prints the table of ReLU in float32, a row at a time."""
    copies = measured([Case("time", "device", "copy", FLOAT32_BYTES * n, "float32") for n in sizes])
    copy_s = {case.elements // FLOAT32_BYTES: outcome.value or nan for case, outcome in copies.items()}
    say(relu_line(None, copy_s, sheet_gb_per_s))
    times = []
    for n, seconds in copy_s.items():
        copy = Time("torch", "copy", "", n, nan, seconds, 2 * n * FLOAT32_BYTES, "")
        say(relu_line(copy, copy_s, sheet_gb_per_s))
    for op, row in rows:
        if not _is_step(op):
            found = measured([Case("time", op, row.name, n, "float32") for n in sizes])
            for one in sorted((time_of(row, *pair) for pair in found.items()), key=lambda one: one.elements):
                say(relu_line(one, copy_s, sheet_gb_per_s))
                times.append(one)
    if max(copy_s) != max(ELEMENTS):
        say(f"no target of ReLU is looked at: they are for {max(ELEMENTS)} elements")
    return relu_targets(times, copy_s)


def _steps(rows: Iterable[tuple[str, Any]]) -> list[Target]:
    """Prints the table of training steps in float32."""
    times = []
    for op, row in rows:
        if _is_step(op):
            found = measured([Case("time", op, row.name, BATCH, "float32")])
            times += [time_of(row, *pair) for pair in found.items()]
    for line in step_lines(times):
        say(line)
    return step_targets(times)


def measured(cases: Sequence[Case], budget_s: float = BUDGET_S) -> dict[Case, Any]:
    """The outcomes of cases of one row, in one process, or where a case ends that, the others in another one."""
    from benchmarks.harness.case import Settings
    from benchmarks.harness.processes import isolation, outcomes

    settings = replace(Settings.from_environment(), budget_s=budget_s, limit_s=LIMIT_S)
    found: dict[Case, Any] = {}
    while len(found) < len(cases):
        todo = cases[len(found) :]
        for case, outcome in zip(todo, isolation.run(todo, settings), strict=False):
            found[case] = outcomes.pooled([outcome]) if case.varies else outcome
    return found


def time_of(row: Any, case: Case, outcome: Any) -> Time:
    """What an outcome tells."""
    processes = outcome.details.get("processes", [])
    device_s = next((process["device_s"] for process in processes if process.get("device_s")), nan)
    moved_bytes = nan if _is_step(case.op) else row.required_traffic.algorithmic_bytes(case.elements, FLOAT32_BYTES)
    wait_s = nan if outcome.value is None else outcome.value
    remark = f"{outcome.status}: {outcome.reason}" if outcome.reason else ""
    return Time(row.framework, case.op, case.variant, case.elements, wait_s, device_s, moved_bytes, remark)


def relu_line(one: Time | None, copy_s: Mapping[int, float], sheet_gb_per_s: float) -> str:
    """A line of the table; of nothing its head."""
    if one is None:
        return (
            f"{'operator':<15}{'row':<26}{'elements':>12}{'wait us':>10}{'device us':>11}"
            f"{'GB/s':>7}{'% copy':>8}{'% sheet':>9}"
        )
    gb_per_s = one.moved_bytes / one.used_s / 1e9
    by_wait = " by wait" if one.used_s == one.wait_s else ""
    return (
        f"{one.op:<15}{one.variant:<26}{one.elements:>12}{one.wait_s * 1e6:>10.1f}{one.device_s * 1e6:>11.1f}"
        f"{gb_per_s:>7.0f}{percent_of_copy(one, copy_s):>8.1f}{100 * gb_per_s / sheet_gb_per_s:>9.1f}"
        f"{by_wait} {one.remark}"
    ).rstrip()


def percent_of_copy(one: Time, copy_s: Mapping[int, float]) -> float:
    """Of the bandwidth of a copy of as many elements."""
    return 100 * copy_s[one.elements] * one.moved_bytes / (2 * one.elements * FLOAT32_BYTES) / one.used_s


def relu_targets(times: Sequence[Time], copy_s: Mapping[int, float]) -> list[Target]:
    """By the fastest row of each framework at the largest size, where it was measured."""
    n = max(copy_s)
    found = []
    for framework, op in RELU_TARGETS if n == max(ELEMENTS) else ():
        reached = [
            percent_of_copy(one, copy_s)
            for one in times
            if (one.framework, one.op, one.elements) == (framework, op, n) and one.device_s == one.device_s
        ]
        best = max((percent for percent in reached if percent == percent), default=nan)
        text = f"{framework}, {op}: {best:.1f} % of the copy's roof at {n} elements, at least {LEAST_PERCENT:g}"
        found.append(Target(text, best >= LEAST_PERCENT))
    return [*found, _all_have_times(times)]


def step_lines(times: Sequence[Time]) -> Iterator[str]:
    for one in times:
        ratio = one.wait_s / _torch_s(times, one.op)
        yield f"{one.op:<18}{one.variant:<32}{1e3 * one.wait_s:>9.3f} ms{ratio:>7.2f} x torch   {one.remark}".rstrip()


def step_targets(times: Sequence[Time]) -> list[Target]:
    found = []
    for (framework, op), most in STEP_TARGETS.items():
        known_s = [one.wait_s for one in times if (one.framework, one.op) == (framework, op)]
        ratio = min((seconds for seconds in known_s if seconds == seconds), default=nan) / _torch_s(times, op)
        found.append(Target(f"{framework}, {op}: {ratio:.2f} x torch, at most {most:g}", ratio <= most))
    return [*found, _all_have_times(times)]


def _torch_s(times: Sequence[Time], op: str) -> float:
    """The fastest row of PyTorch."""
    known_s = (one.wait_s for one in times if (one.framework, one.op) == ("torch", op) and one.wait_s == one.wait_s)
    return min(known_s, default=nan)


def _all_have_times(times: Sequence[Time]) -> Target:
    without = sum(one.wait_s != one.wait_s for one in times)
    return Target(f"{len(times) - without} of {len(times)} times measured", without == 0)


def _is_step(op: str) -> bool:
    return op.startswith("cnn.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/gpu_check", description=(__doc__ or "").split(": ./scripts")[0])
    parser.add_argument("--lacks", action="store_true", help="only say what the machine lacks")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument(
        "--elements", nargs="+", type=positive, default=ELEMENTS, metavar="N", help="of ReLU (default: 2^20 2^24 2^28)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
