"""Check every GPU row, measure ReLU and both training steps, and compare them with targets: ./scripts/gpu_check.

Ends with a list of what is missing if the machine cannot run GPU rows. Targets of ReLU apply to device time, which
excludes launching; targets of training steps apply to host latency. Exit code: 0 all targets met, 1 a target missed or
a row wrong, 2 nothing can run.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import isnan, nan
from typing import TYPE_CHECKING, Any

# Import other modules in the functions that use them, so that any Python can list what a machine lacks before packages
# are installed.
from benchmarks.harness.case import Case, DeviceLoopCase, OperatorCase, StepCase
from benchmarks.harness.machine import gpu, linux
from scripts.arguments import positive

if TYPE_CHECKING:
    from benchmarks.harness.measurement import Measurement

PARTS = ("truth", "relu", "steps")
ELEMENTS = (2**20, 2**24, 2**28)
CHECKED_ELEMENTS = 2**16 + 13
BATCH = 64
BUDGET_S, CHECKING_S, LIMIT_S = 1.0, 0.02, 600.0
LEAST_DRIVER = 580
FLOAT32_BYTES = 4
# Percent of the bandwidth of a copy on the device, at the largest size.
LEAST_PERCENT = 92.0
RELU_TARGETS = tuple(product(("numba_cuda", "triton", "torch"), ("forward", "backward")))
# Largest multiple of the time of PyTorch's fastest row on CUDA.
STEP_TARGETS = {("numba_cuda", "mnist_cnn"): 3.0}

say = partial(print, flush=True)


@dataclass(frozen=True)
class Time:
    """The times of a row at a size; NaN if unknown.

    subject: the direction of ReLU, or the network. size: elements, or images of a batch.
    latency_s: host latency of a call. device_s: device time. moved_bytes: required traffic.
    remark: the reason for a missing time, or what disturbed it.
    """

    framework: str
    subject: str
    variant: str
    size: int
    latency_s: float
    device_s: float
    moved_bytes: float
    remark: str

    @property
    def used_s(self) -> float:
        """Device time; host latency for JAX, which has no events."""
        return self.latency_s if isnan(self.device_s) else self.device_s


@dataclass(frozen=True)
class Target:
    """A target; `text` includes the figure that was reached."""

    text: str
    met: bool

    def __str__(self) -> str:
        return f"{self.text}: {'met' if self.met else 'missed'}"


def main() -> int:
    options = _options()
    problems = list(lacks())
    for problem in problems:
        say(f"gpu_check: {problem}")
    if problems:
        return 2
    if options.lacks:
        return 0
    device = gpu.Device()
    sheet_gb_per_s = device.bandwidth_gb_per_s() or nan
    say(f"{linux.gpus()}; driver: {linux.gpu_driver()}")
    say(f"datasheet: {sheet_gb_per_s:.0f} GB/s; now: {device.state()}")
    wrong = _truth() if "truth" in options.parts else 0
    targets = [
        *(_relu(options.elements, sheet_gb_per_s) if "relu" in options.parts else ()),
        *(_steps() if "steps" in options.parts else ()),
    ]
    for target in targets:
        say(target)
    missed = sum(not target.met for target in targets)
    say(f"{wrong} rows wrong, {missed} of {len(targets)} targets missed")
    return int(wrong + missed > 0)


def lacks() -> Iterator[str]:
    """Yield a message for each thing that this machine lacks; nothing can run if there is one."""
    if linux.gpu_driver() is None:
        yield "no NVIDIA driver is loaded (/proc/driver/nvidia/version is missing): there is nothing to run"
    elif not linux.gpus():
        yield "an NVIDIA driver is loaded, but it has no device: there is nothing to run"
    elif gpu.hidden():
        yield f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, which hides every device: unset it"
    elif (version := re.search(r"\b(\d{3,})\.\d", linux.gpu_driver() or "")) and int(version[1]) < LEAST_DRIVER:
        yield f"the NVIDIA driver is {version[1]}; builds for CUDA 13 need {LEAST_DRIVER} or newer: update it"


def relu_rows(device: str) -> list[Any]:
    """Return the rows of ReLU on a device."""
    from impls.catalog import variants

    return [row for row in variants("relu") if row.device == device]


def step_rows(device: str) -> list[tuple[str, Any]]:
    """Return pairs of a network and a row of training steps on a device."""
    from impls.cnn.architecture import NETWORKS
    from impls.cnn.rows import of_network

    return [(name, row) for name, network in NETWORKS.items() for row in of_network(network) if row.device == device]


def _truth() -> int:
    """Check each row in each dtype; return the number that are wrong."""
    rows: list[Case] = [
        OperatorCase("time", row.operator, row.direction, row.name, CHECKED_ELEMENTS, dtype)
        for row in relu_rows("cuda")
        for dtype in row.dtypes
    ]
    steps: list[Case] = [
        StepCase("time", network, row.name, BATCH, dtype) for network, row in step_rows("cuda") for dtype in row.dtypes
    ]
    measurements = measured(rows, CHECKING_S) | measured(steps, CHECKING_S)
    wrong = {case: found for case, found in measurements.items() if found.value is None}
    for case, found in wrong.items():
        say(f"{case.label}: {found.status}: {found.reason}")
    say(f"truth: {len(measurements)} rows and dtypes, {len(wrong)} wrong")
    return len(wrong)


def _relu(sizes: Sequence[int], sheet_gb_per_s: float) -> list[Target]:
    """Print the table of ReLU in float32, size by size, and return its targets."""
    copies = {n: DeviceLoopCase("time", "copy", FLOAT32_BYTES * n) for n in sizes}
    measurements = measured(list(copies.values()))
    copy_s = {n: measurements[case].value or nan for n, case in copies.items()}
    say(relu_head())
    for n, seconds in copy_s.items():
        copy = Time("torch", "copy", "", n, nan, seconds, 2 * n * FLOAT32_BYTES, "")
        say(relu_line(copy, copy_s, sheet_gb_per_s))
    times: list[Time] = []
    for n in sizes:
        cases = {OperatorCase("time", row.operator, row.direction, row.name, n): row for row in relu_rows("cuda")}
        measurements = measured(list(cases))
        for case, row in cases.items():
            times.append(relu_time(row, case, measurements[case]))
            say(relu_line(times[-1], copy_s, sheet_gb_per_s))
    if max(copy_s) != max(ELEMENTS):
        say(f"no target of ReLU applies: they are for {max(ELEMENTS)} elements")
    return relu_targets(times, copy_s)


def _steps() -> list[Target]:
    """Print the table of training steps in float32, and return its targets."""
    cases = {StepCase("time", network, row.name, BATCH): row for network, row in step_rows("cuda")}
    measurements = measured(list(cases))
    times = [step_time(row, case, measurements[case]) for case, row in cases.items()]
    for line in step_lines(times):
        say(line)
    return step_targets(times)


def measured(cases: Sequence[Case], budget_s: float = BUDGET_S) -> dict[Case, "Measurement"]:
    """Measure cases in one pass; rows of one operator, direction and size in the same rounds."""
    from benchmarks.harness.case import Settings
    from benchmarks.harness.processes import plan

    return plan.measured(cases, replace(Settings.from_environment(), budget_s=budget_s, limit_s=LIMIT_S, passes=1))


def relu_time(row: Any, case: OperatorCase, measurement: "Measurement") -> Time:
    """Return the times of a row of ReLU."""
    moved_bytes = row.required_traffic.algorithmic_bytes(case.elements, FLOAT32_BYTES)
    return Time(row.framework, case.direction, case.variant, case.elements, *_times(measurement, moved_bytes))


def step_time(row: Any, case: StepCase, measurement: "Measurement") -> Time:
    """Return the times of a training step."""
    return Time(row.framework, case.network, case.variant, case.batch, *_times(measurement, nan))


def _times(measurement: "Measurement", moved_bytes: float) -> tuple[float, float, float, str]:
    """Return host latency in seconds, device time in seconds, bytes, and a remark."""
    devices = [process.device for process in measurement.processes if process.device]
    device_s = next((timing.device_s for timing in devices if timing.device_s), nan)
    latency_s = nan if measurement.value is None else measurement.value
    remark = f"{measurement.status}: {measurement.reason}" if measurement.reason else ""
    return latency_s, device_s, moved_bytes, remark


def relu_head() -> str:
    """Return the head of the table of ReLU."""
    return (
        f"{'direction':<15}{'row':<26}{'elements':>12}{'latency us':>12}{'device us':>11}"
        f"{'GB/s':>7}{'% copy':>8}{'% sheet':>9}"
    )


def relu_line(time: Time, copy_s: Mapping[int, float], sheet_gb_per_s: float) -> str:
    """Return a line of the table of ReLU."""
    gb_per_s = time.moved_bytes / time.used_s / 1e9
    by_latency = " by latency" if time.used_s == time.latency_s else ""
    return (
        f"{time.subject:<15}{time.variant:<26}{time.size:>12}{time.latency_s * 1e6:>12.1f}{time.device_s * 1e6:>11.1f}"
        f"{gb_per_s:>7.0f}{percent_of_copy(time, copy_s):>8.1f}{100 * gb_per_s / sheet_gb_per_s:>9.1f}"
        f"{by_latency} {time.remark}"
    ).rstrip()


def percent_of_copy(time: Time, copy_s: Mapping[int, float]) -> float:
    """Return the bandwidth as a percentage of that of a copy of as many elements."""
    return 100 * copy_s[time.size] * time.moved_bytes / (2 * time.size * FLOAT32_BYTES) / time.used_s


def relu_targets(times: Sequence[Time], copy_s: Mapping[int, float]) -> list[Target]:
    """Return the targets of each framework's fastest row at the largest size, if that size was measured."""
    n = max(copy_s)
    targets = []
    for framework, direction in RELU_TARGETS if n == max(ELEMENTS) else ():
        percents = [
            percent_of_copy(time, copy_s)
            for time in times
            if (time.framework, time.subject, time.size) == (framework, direction, n) and not isnan(time.device_s)
        ]
        best = max((percent for percent in percents if not isnan(percent)), default=nan)
        text = (
            f"{framework} {direction}: {best:.1f} % of a copy's bandwidth at {n} elements, at least {LEAST_PERCENT:g}"
        )
        targets.append(Target(text, best >= LEAST_PERCENT))
    return [*targets, _all_measured(times)]


def step_lines(times: Sequence[Time]) -> Iterator[str]:
    """Yield the lines of the table of training steps."""
    for time in times:
        ratio = time.latency_s / _torch_s(times, time.subject)
        yield (
            f"{time.subject:<18}{time.variant:<32}{1e3 * time.latency_s:>9.3f} ms{ratio:>7.2f} x torch   {time.remark}"
        ).rstrip()


def step_targets(times: Sequence[Time]) -> list[Target]:
    """Return the targets of each framework's fastest training step, as multiples of PyTorch's fastest."""
    targets = []
    for (framework, network), most in STEP_TARGETS.items():
        fastest_s = _fastest_s(times, framework, network)
        ratio = fastest_s / _torch_s(times, network)
        targets.append(Target(f"{framework} {network}: {ratio:.2f} x torch, at most {most:g}", ratio <= most))
    return [*targets, _all_measured(times)]


def _torch_s(times: Sequence[Time], network: str) -> float:
    return _fastest_s(times, "torch", network)


def _fastest_s(times: Sequence[Time], framework: str, subject: str) -> float:
    """Return the host latency in seconds of the fastest row of a framework; NaN if none has a time."""
    latencies_s = (time.latency_s for time in times if (time.framework, time.subject) == (framework, subject))
    return min((seconds for seconds in latencies_s if not isnan(seconds)), default=nan)


def _all_measured(times: Sequence[Time]) -> Target:
    missing = sum(isnan(time.latency_s) for time in times)
    return Target(f"{len(times) - missing} of {len(times)} times measured", missing == 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/gpu_check", description=(__doc__ or "").split(": ./scripts")[0])
    parser.add_argument("--lacks", action="store_true", help="only list what the machine lacks")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to run (default: all)")
    parser.add_argument(
        "--elements",
        nargs="+",
        type=positive,
        default=ELEMENTS,
        metavar="N",
        help="array sizes of ReLU (default: 2^20 2^24 2^28)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
