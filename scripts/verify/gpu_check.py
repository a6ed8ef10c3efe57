"""Check GPU rows, measure operators and training steps, and compare them with targets: ./scripts/gpu_check.

In an environment that exists, with other versions of the frameworks and without a network:
python -m scripts.verify.gpu_check. Results so far are written to reports/gpu_check.json and .html, after each part and
each size.

Ends with a list of what is missing if the machine cannot run GPU rows. Targets of ReLU apply to device time, which
excludes launching; targets of training steps apply to host latency. PyTorch's rows are reported, but nothing of theirs
is a failure: this project cannot mend them. Exit code: 0 all targets met, 1 a target missed or a row wrong, 2 nothing
can run.
"""

import argparse
import importlib.util
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from math import inf, isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Import other modules in the functions that use them, so that any Python can list what a machine lacks before packages
# are installed.
from benchmarks.harness.case import Case, DeviceLoopCase, OperatorCase, StepCase
from benchmarks.harness.machine import cuda_driver, gpu
from scripts.arguments import positive, seconds
from scripts.setup import accelerator
from scripts.verify.gpu_document import Check, Failure, Target, Time

if TYPE_CHECKING:
    from benchmarks.harness.measurement import Measurement

ROOT = Path(__file__).resolve().parents[2]
# The module of each framework, and those that everything needs.
FRAMEWORKS = {"jax": "jax", "numba_cuda": "numba_cuda", "torch": "torch", "triton": "triton"}
NEEDED = ("numpy", "scipy", "msgspec", "jinja2")
WITHOUT_NVML = "nvidia-ml-py is not installed: clocks, throttling, energy and the datasheet's bandwidth stay unknown"
LEAST_PYTHON = (3, 11)
# Its rows and times are reported only.
FOREIGN = "torch"
ELEMENTS = (2**20, 2**24, 2**28)
CHECKED_ELEMENTS = 2**16 + 13
BATCH, BATCHES = 64, (64, 1024, 4096)
BUDGET_S, CHECKING_S, LIMIT_S = 1.0, 0.02, 600.0
FLOAT32_BYTES = 4
# Percent of the bandwidth of streaming loops on the device, at the largest size.
LEAST_PERCENT = 92.0
RELU_TARGETS = tuple(product(("numba_cuda", "triton"), ("forward", "backward")))
# Largest multiple of the time of PyTorch's fastest row on CUDA with products of float32.
STEP_TARGETS = {("numba_cuda", "mnist_cnn"): 3.0}

say = partial(print, flush=True)


def main() -> int:
    options = _options()
    # Frameworks that are installed know themselves which driver they need.
    problems = [*lacks(), *(without_builds() if options.lacks else uninstalled(options.frameworks))]
    if not problems and not options.lacks:
        problems = list(unknown(options.operators))
    for problem in problems:
        say(f"gpu_check: {problem}")
    if problems:
        return 2
    if options.lacks:
        return 0
    check = _begun()
    for part in options.parts:
        PARTS[part](check, options)
        check.finished.append(part)
        check.write(options.out)
    for target in check.targets:
        say(target)
    wrong = sum(failure.counts for failure in check.failures)
    judged = sum(target.met is not None for target in check.targets)
    say(f"{wrong} rows wrong, {len(check.missed)} of {judged} targets missed")
    say(f"{options.out}.json, {options.out}.html")
    return int(check.failed > 0)


def lacks() -> Iterator[str]:
    """Yield a message if this machine has no GPU that can be used."""
    if problem := cuda_driver.query().problem:
        yield f"{problem}: there is nothing to run"


def without_builds() -> Iterator[str]:
    """Yield a message if ./scripts/gpu_check has no packages to install for the GPU and its driver."""
    driver = cuda_driver.query()
    if not driver.problem and accelerator.chosen(driver) is None:
        yield accelerator.described(driver)


def uninstalled(frameworks: Sequence[str]) -> Iterator[str]:
    """Yield a message for each thing that this environment lacks."""
    if sys.version_info < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        yield f"this is Python {platform.python_version()}; {least} or newer is needed"
    for module in NEEDED:
        if not importlib.util.find_spec(module):
            yield f"{module} is not installed: pip install {module}"
    for framework in frameworks:
        if not importlib.util.find_spec(FRAMEWORKS[framework]):
            yield f"{framework} is not installed: install it, or leave it out of --frameworks"


def unknown(operators: Sequence[str]) -> Iterator[str]:
    """Yield a message for each operator without a GPU row."""
    from impls.catalog import VARIANTS

    known = {row.operator: None for row in VARIANTS if row.device == "cuda"}
    for operator in operators:
        if operator not in known:
            yield f"--operators: {operator!r} given; those with GPU rows are {', '.join(known)}"


def operator_rows(operators: Sequence[str], frameworks: Sequence[str]) -> list[Any]:
    """Return the GPU rows of some operators and frameworks."""
    from impls.catalog import VARIANTS

    return [
        row for row in VARIANTS if row.device == "cuda" and row.operator in operators and row.framework in frameworks
    ]


def step_rows(frameworks: Sequence[str]) -> list[tuple[str, Any]]:
    """Return pairs of a network and a row of training steps on a GPU in some frameworks."""
    from impls.cnn.architecture import NETWORKS
    from impls.cnn.rows import of_network

    return [
        (name, row)
        for name, network in NETWORKS.items()
        for row in of_network(network)
        if row.device == "cuda" and row.framework in frameworks
    ]


def _begun() -> Check:
    from benchmarks.harness.machine import provenance

    sheet_gb_per_s = gpu.Device().bandwidth_gb_per_s() or nan
    facts = provenance.collect()
    say(f"{facts['gpus']}; driver: {facts['gpu_driver']}")
    if importlib.util.find_spec("pynvml"):
        say(f"datasheet: {sheet_gb_per_s:.0f} GB/s; now: {gpu.Device().state()}")
    else:
        say(f"{WITHOUT_NVML}: pip install nvidia-ml-py")
    return Check(facts | {"options": " ".join(sys.argv[1:])}, sheet_gb_per_s)


def _truth(check: Check, options: argparse.Namespace) -> None:
    """Check each row in each dtype."""
    rows: dict[Case, str] = {
        OperatorCase("time", row.operator, row.direction, row.name, CHECKED_ELEMENTS, dtype): row.framework
        for row in operator_rows(options.operators, options.frameworks)
        for dtype in row.dtypes
    }
    steps: dict[Case, str] = {
        StepCase("time", network, row.name, BATCH, dtype): row.framework
        for network, row in step_rows(options.frameworks)
        for dtype in row.dtypes
    }
    for cases in (rows, steps):
        measurements = measured(list(cases), CHECKING_S)
        check.learn(measurements.values())
        for case, found in measurements.items():
            check.checked += 1
            if found.value is None:
                failure = Failure(case.label, f"{found.status}: {found.reason}", counts=cases[case] != FOREIGN)
                check.failures.append(failure)
                say(f"{failure.row}: {failure.reason}{'' if failure.counts else ' (reported only)'}")
        check.write(options.out)
    say(f"truth: {check.checked} rows and dtypes, {len(check.failures)} wrong")


def _operators(check: Check, options: argparse.Namespace) -> None:
    """Measure operators in float32, size by size, in the same rounds as the roofs of their traffic."""
    from benchmarks.harness.processes import blocks

    say(operator_head())
    for n in options.elements:
        rows = {
            OperatorCase("time", row.operator, row.direction, row.name, n): row
            for row in operator_rows(options.operators, options.frameworks)
        }
        roofs = {roof: None for block in blocks.of(rows) for roof in block.roofs if isinstance(roof, DeviceLoopCase)}
        measurements = measured([*rows, *roofs], options.budget, with_roofs=True)
        check.learn(measurements.values())
        best_s = fastest_s({roof: measurements[roof] for roof in roofs})
        times = [
            *(roof_time(roof, measurements[roof]) for roof in roofs),
            *(operator_time(row, case, measurements[case], best_s) for case, row in rows.items()),
        ]
        for time in times:
            say(operator_line(time, check.sheet_gb_per_s))
        check.operators += times
        check.write(options.out)
    if max(options.elements) != max(ELEMENTS) or "relu" not in options.operators:
        say(f"no target of bandwidth applies: they are for ReLU with {max(ELEMENTS)} elements")
    check.targets += operator_targets(check.operators, options.frameworks)


def _steps(check: Check, options: argparse.Namespace) -> None:
    """Measure training steps in float32, batch by batch."""
    for batch in options.batches:
        rows = {StepCase("time", network, row.name, batch): row for network, row in step_rows(options.frameworks)}
        measurements = measured(list(rows), options.budget)
        check.learn(measurements.values())
        times = [step_time(row, case, measurements[case]) for case, row in rows.items()]
        for line in step_lines(times):
            say(line)
        check.steps += times
        check.write(options.out)
    if BATCH not in options.batches:
        say(f"no target of time applies: they are for batches of {BATCH}")
    check.targets += step_targets(check.steps, options.frameworks)


PARTS = {"truth": _truth, "operators": _operators, "steps": _steps}


def measured(cases: Sequence[Case], budget_s: float = BUDGET_S, with_roofs: bool = False) -> dict[Case, "Measurement"]:
    """Measure cases in one pass; rows of one operator, direction and size in the same rounds."""
    from benchmarks.harness.case import Settings
    from benchmarks.harness.processes import plan

    settings = replace(Settings.from_environment(), budget_s=budget_s, limit_s=LIMIT_S, passes=1)
    return plan.measured(cases, settings, with_roofs)


def fastest_s(roofs: Mapping[DeviceLoopCase, "Measurement"]) -> dict[str, float]:
    """Return the time of the fastest loop of each pattern that has one; in place also of those out of place."""
    from benchmarks.harness.roofline.loops import DEVICE_LOOPS, OUT_OF_PLACE

    best_s: dict[str, float] = {}
    for roof, measurement in roofs.items():
        if measurement.value is not None:
            pattern = DEVICE_LOOPS[roof.kernel].name
            best_s[pattern] = min(measurement.value, best_s.get(pattern, inf))
    inplace_s = {
        pattern: min(best_s.get(pattern, inf), best_s[other])
        for pattern, other in OUT_OF_PLACE.items()
        if other in best_s
    }
    return best_s | inplace_s


def roof_time(case: DeviceLoopCase, measurement: "Measurement") -> Time:
    """Return the time of a streaming loop."""
    from benchmarks.harness.roofline.loops import DEVICE_LOOPS

    device_s = _latency_s(measurement)
    moved_bytes = DEVICE_LOOPS[case.kernel].pass_bytes(case.array_bytes)
    n = case.array_bytes // FLOAT32_BYTES
    return Time("", "roof", case.kernel, n, nan, device_s, moved_bytes, device_s, _remark(measurement))


def operator_time(row: Any, case: OperatorCase, measurement: "Measurement", roofs_s: Mapping[str, float]) -> Time:
    """Return the times of a row. roofs_s: times of the streaming loops, of which its traffic is composed."""
    from benchmarks.harness.roofline.loops import parts_of

    moved_bytes = row.required_traffic.algorithmic_bytes(case.elements, FLOAT32_BYTES)
    parts = parts_of(row.required_traffic, row.memory == "inplace", FLOAT32_BYTES)
    roof_s = sum(factor * roofs_s.get(pattern, nan) for pattern, factor in parts.items())
    times_s = _latency_s(measurement), _device_s(measurement)
    return Time(
        row.framework,
        row_subject(case),
        case.variant,
        case.elements,
        *times_s,
        moved_bytes,
        roof_s,
        _remark(measurement),
    )


def row_subject(case: OperatorCase) -> str:
    """Return the operator and direction of a row, without the operator if it is ReLU."""
    return case.direction if case.operator == "relu" else f"{case.operator} {case.direction}"


def step_time(row: Any, case: StepCase, measurement: "Measurement") -> Time:
    """Return the times of a training step."""
    times_s = _latency_s(measurement), _device_s(measurement)
    return Time(
        row.framework,
        case.network,
        case.variant,
        case.batch,
        *times_s,
        nan,
        nan,
        _remark(measurement),
        row.precision,
    )


def _latency_s(measurement: "Measurement") -> float:
    return nan if measurement.value is None else measurement.value


def _device_s(measurement: "Measurement") -> float:
    devices = [process.device for process in measurement.processes if process.device]
    return next((timing.device_s for timing in devices if timing.device_s), nan)


def _remark(measurement: "Measurement") -> str:
    return f"{measurement.status}: {measurement.reason}" if measurement.reason else ""


def operator_head() -> str:
    """Return the head of the table of operators."""
    return (
        f"{'operator':<23}{'row':<26}{'elements':>12}{'latency us':>12}{'device us':>11}"
        f"{'GB/s':>7}{'% roof':>8}{'% sheet':>9}"
    )


def operator_line(time: Time, sheet_gb_per_s: float) -> str:
    """Return a line of the table of operators."""
    by_latency = " by latency" if time.used_s == time.latency_s else ""
    return (
        f"{time.subject:<23}{time.variant:<26}{time.size:>12}{time.latency_s * 1e6:>12.1f}{time.device_s * 1e6:>11.1f}"
        f"{time.gb_per_s:>7.0f}{time.percent_of_roof:>8.1f}{100 * time.gb_per_s / sheet_gb_per_s:>9.1f}"
        f"{by_latency} {time.remark}"
    ).rstrip()


def operator_targets(times: Sequence[Time], frameworks: Sequence[str]) -> list[Target]:
    """Return the targets of each framework's fastest row of ReLU at the largest size, if that was measured.

    Not judged without a roof.
    """
    n, targets = max(ELEMENTS), []
    for framework, direction in RELU_TARGETS:
        rows = [time for time in times if (time.framework, time.subject, time.size) == (framework, direction, n)]
        if framework not in frameworks or not rows:
            continue
        if all(isnan(time.roof_s) for time in rows):
            targets.append(Target(f"{framework} {direction}: no roof was measured at {n} elements", None))
            continue
        percents = [time.percent_of_roof for time in rows if not isnan(time.device_s)]
        best = max((percent for percent in percents if not isnan(percent)), default=nan)
        text = f"{framework} {direction}: {best:.1f} % of the roof at {n} elements, at least {LEAST_PERCENT:g}"
        targets.append(Target(text, best >= LEAST_PERCENT))
    return [*targets, _all_measured(times)]


def step_lines(times: Sequence[Time]) -> Iterator[str]:
    """Yield the lines of the table of training steps."""
    for time in times:
        ratio = time.latency_s / _torch_s(times, time.subject)
        yield (
            f"{time.subject:<18}{time.variant:<32}{time.size:>6}{1e3 * time.latency_s:>9.3f} ms{ratio:>7.2f} x torch"
            f"{1e3 * time.device_s:>9.3f} ms on the device   "
            f"{time.remark}"
        ).rstrip()


def step_targets(times: Sequence[Time], frameworks: Sequence[str]) -> list[Target]:
    """Return the targets of each framework's fastest training step, as multiples of PyTorch's fastest.

    None without either of the two, or without their batch. Not judged where PyTorch has no time.
    """
    targets = []
    rivals = [time for time in times if time.size == BATCH]
    for (framework, network), most in STEP_TARGETS.items():
        if not ({framework, "torch"} <= set(frameworks) and rivals):
            continue
        torch_s = _torch_s(rivals, network)
        if isnan(torch_s):
            targets.append(Target(f"{framework} {network}: torch has no time in float32", None))
            continue
        ratio = _fastest_s(rivals, framework, network) / torch_s
        targets.append(Target(f"{framework} {network}: {ratio:.2f} x torch, at most {most:g}", ratio <= most))
    return [*targets, _all_measured(times)]


def _torch_s(times: Sequence[Time], network: str) -> float:
    return _fastest_s(times, "torch", network)


def _fastest_s(times: Sequence[Time], framework: str, subject: str) -> float:
    """Return the host latency in seconds of a framework's fastest row with products of float32; NaN without a time."""
    rows = [time for time in times if (time.framework, time.subject, time.precision) == (framework, subject, "")]
    latencies_s = (time.latency_s for time in rows)
    return min((seconds for seconds in latencies_s if not isnan(seconds)), default=nan)


def _all_measured(times: Sequence[Time]) -> Target:
    """Return the target that every row but PyTorch's has a time."""
    own = [time for time in times if time.framework not in ("", FOREIGN)]
    missing = sum(isnan(time.latency_s) for time in own)
    return Target(f"{len(own) - missing} of {len(own)} times measured", missing == 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/gpu_check", description=(__doc__ or "").split(": ./scripts")[0])
    parser.add_argument("--lacks", action="store_true", help="only list what the machine lacks")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument(
        "--frameworks",
        nargs="+",
        choices=FRAMEWORKS,
        default=list(FRAMEWORKS),
        help="frameworks whose rows to run (default: all)",
    )
    parser.add_argument(
        "--operators",
        nargs="+",
        default=["relu"],
        metavar="NAME",
        help="operators to check and measure (default: relu)",
    )
    parser.add_argument(
        "--elements",
        nargs="+",
        type=positive,
        default=ELEMENTS,
        metavar="N",
        help="array sizes of operators (default: 2^20 2^24 2^28)",
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        type=positive,
        default=BATCHES,
        metavar="N",
        help="images of a batch of training steps (default: 64 1024 4096)",
    )
    parser.add_argument(
        "--budget", type=seconds, default=BUDGET_S, metavar="TIME", help="time for each row to measure (default: 1s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "reports" / "gpu_check",
        metavar="PATH",
        help="where to write results, without .json and .html (default: reports/gpu_check)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
