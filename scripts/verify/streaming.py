"""Compare ReLU with non-temporal stores with streaming loops, with PyTorch and with ordinary stores.

python -m scripts.verify.streaming [--elements 67108864] [--rounds 20] [--only REGEX] [--by-size]: needs an environment
with Numba and PyTorch (.venv/test). All rows and loops work on the same float32 arrays; every result is checked once.
In each round the two sides of a ratio are timed directly one after the other (ABBA). Prints the median over rounds of
each ratio with its 95 % interval. Fails if an interval lies below what is wanted at 2^26 elements.

--by-size: compare stores at several sizes instead, of a call and of a call with another in place on its result. That
shows from which size on non-temporal stores pay (`impls.relu.numba_streaming.LEAST_BYTES`).
"""

import argparse
import os
import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.harness.roofline.loops import PATTERNS, parts_of
from benchmarks.harness.timing import intervals
from impls.catalog import find
from impls.variant import Variant
from scripts.arguments import pattern, positive

ITEMSIZE_BYTES = 4
SIZES = tuple(2**power for power in range(18, 26))
# Bytes of the results of a sample, where sizes are compared.
SAMPLE_BYTES = 2**25

# Returns seconds.
Timed = Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """How many times as long `slow` takes as `fast`. wanted: at least so many times, if anything is."""

    slow: str
    fast: str
    wanted: float | None = None

    def of_round(self, timed: Mapping[str, Timed]) -> tuple[float, float]:
        """Seconds of either side, in the order slow, fast, fast, slow."""
        first_s, *fast_s, last_s = (timed[name]() for name in (self.slow, self.fast, self.fast, self.slow))
        return (first_s + last_s) / 2, sum(fast_s) / 2

    def verdict(self, rounds: Iterable[tuple[float, float]]) -> tuple[str, bool]:
        """A line with the ratio and the times of both sides; False if it is below what is wanted."""
        slow_s, fast_s = zip(*rounds, strict=True)
        found = intervals.of([[slow / fast for slow, fast in zip(slow_s, fast_s, strict=True)]])
        met = self.wanted is None or found.high >= self.wanted
        wanted = f", {self.wanted:g} wanted: {'met' if met else 'missed'}" if self.wanted else ""
        line = f"{self.slow} / {self.fast}: {found.value:.2f} ({found.low:.2f} to {found.high:.2f}){wanted}"
        return f"{line}; {1e3 * median(slow_s):.4g} and {1e3 * median(fast_s):.4g} ms", met


FORWARD, BACKWARD = "forward numba-threads-nt.out", "backward numba-threads-nt.out"
BITS, ARENA = "backward numba-threads-bits-nt.out", "forward numba-threads-nt-arena.fresh"
# As in the report: the fastest loops with the reads and writes of a row, and the loop that moves most bytes a second.
ROOF, BUS = "roof of ", "bus roof of "
# A call whose result is its input.
NT_INPLACE = "forward numba-threads-nt in place"
RATIOS = (
    Ratio(ROOF + FORWARD, FORWARD, 0.95),
    Ratio(ROOF + BACKWARD, BACKWARD, 0.95),
    Ratio(ROOF + BITS, BITS, 0.95),
    *(Ratio(BUS + name, name) for name in (FORWARD, BACKWARD, BITS)),
    Ratio("forward torch.out", FORWARD, 1.3),
    Ratio("forward numba-threads.out", FORWARD),
    Ratio("backward torch.out", BACKWARD),
    Ratio("backward torch.out", BITS, 1.8),
    Ratio("backward torch.fresh", BITS, 8),
    Ratio("backward numba-threads-bits.out", BITS),
    # In place there is nothing to gain.
    Ratio("forward numba-threads.inplace", NT_INPLACE),
    Ratio("forward numba-threads.inplace", FORWARD),
    # Ways to avoid a part of the cost of a fresh result.
    Ratio("forward numba-threads.fresh", "forward numba-threads-hugepages.fresh"),
    Ratio("forward numba-threads-hugepages.fresh", ARENA),
    Ratio(ARENA, FORWARD),
    Ratio("forward torch.fresh", ARENA),
    Ratio("forward numpy.fresh", ARENA),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.streaming", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--elements", type=positive, default=2**26, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=20, help="(default: %(default)s)")
    parser.add_argument(
        "--only", type=pattern, default=re.compile(""), metavar="REGEX", help='ratios such as "forward torch.out / "'
    )
    parser.add_argument("--by-size", action="store_true", help="compare stores at sizes from 1 to 128 MiB")
    options = parser.parse_args()
    # A framework's threads that wait must not disturb the others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if options.by_size:
        for elements in SIZES:
            by_size(elements, options.rounds)
        return 0
    ratios = [ratio for ratio in RATIOS if options.only.search(f"{ratio.slow} / {ratio.fast}")]
    return int(not compare(ratios, of_rows(ratios, options.elements), options.rounds))


def compare(ratios: Iterable[Ratio], timed: Mapping[str, Timed], rounds: int) -> bool:
    """Measure and print ratios; False if one is below what is wanted."""
    seconds: dict[Ratio, list[tuple[float, float]]] = {ratio: [] for ratio in ratios}
    for _ in tqdm(range(rounds), unit="round", file=sys.stderr):
        for ratio in random.sample(list(seconds), len(seconds)):
            seconds[ratio].append(ratio.of_round(timed))
    verdicts = [ratio.verdict(found) for ratio, found in seconds.items()]
    print(*(line for line, _ in verdicts), sep="\n", flush=True)
    return all(met for _, met in verdicts)


def of_rows(ratios: Iterable[Ratio], elements: int) -> dict[str, Timed]:
    """The sides of the ratios, on the same arrays. Raises SystemExit where the result of a row is not NumPy's."""
    from benchmarks.harness.roofline import streaming

    out, x, y = streams = streaming.arrays(ITEMSIZE_BYTES * elements)
    x[:] = np.random.default_rng(0).standard_normal(elements, np.float32)
    np.maximum(x, 0, out=y)
    # Backward from the gradient x at the input x has the result of forward.
    arrays = {"x": x, "grad": x, "output": y, "bits": np.packbits(x > 0, bitorder="little"), "y": y, "out": out}
    # Of loops in place an even number of passes, which restore x.
    loops = {
        name: partial(_pass_s, partial(streaming.run, f"{name}.all", streams), 1 + loop.inplace)
        for name, loop in PATTERNS.items()
    }
    sides: dict[str, Timed] = {}
    for name in dict.fromkeys(name for ratio in ratios for name in (ratio.slow, ratio.fast)):
        if name.startswith((ROOF, BUS)):
            limit = _roof_s if name.startswith(ROOF) else _bus_s
            sides[name] = partial(limit, _row(name.removeprefix(BUS).removeprefix(ROOF)), loops)
            continue
        call = _call(name, arrays)
        out[:] = -1
        if not np.array_equal(np.asarray(call()), y):
            raise SystemExit(f"{name}: another result than NumPy's")
        sides[name] = partial(_seconds, call)
    return sides


def _row(name: str) -> Variant:
    return find("relu", *name.split())


def _call(name: str, arrays: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """A call of a row such as "forward numpy.out"; what it overwrites in place is y, which does not change."""
    if name == NT_INPLACE:
        return partial(_row(FORWARD).load(), arrays["y"], arrays["y"])
    row = _row(name)
    inputs = ["grad", row.saved_for_backward] if row.direction == "backward" else ["x"]
    names = {"fresh": inputs, "out": [*inputs, "out"], "inplace": ["y"]}[row.memory]
    if row.framework == "torch":
        import torch

        return partial(row.load(), *(torch.from_numpy(arrays[name]) for name in names))
    return partial(row.load(), *(arrays[name] for name in names))


def _seconds(call: Callable[[], Any]) -> float:
    start_s = perf_counter()
    call()
    return perf_counter() - start_s


def _pass_s(loop: Callable[[int], Any], passes: int) -> float:
    return _seconds(partial(loop, passes)) / passes


def _roof_s(row: Variant, loops: Mapping[str, Timed]) -> float:
    """Seconds that the fastest loops take for the required traffic of a row."""
    parts = parts_of(row.required_traffic, row.memory == "inplace", ITEMSIZE_BYTES)
    fastest_s = {part: min(loops[name]() for name in loops if PATTERNS[name].name == part) for part in parts}
    return sum(factor * fastest_s[part] for part, factor in parts.items())


def _bus_s(row: Variant, loops: Mapping[str, Timed]) -> float:
    """Seconds that the fastest loop that reads takes for the bytes that a row moves."""
    moved_bytes = row.traffic.bus_bytes(1, ITEMSIZE_BYTES)
    reading = {name: pattern for name, pattern in PATTERNS.items() if pattern.reads}
    return min(moved_bytes / loop.bus_bytes(ITEMSIZE_BYTES) * loops[name]() for name, loop in reading.items())


def by_size(elements: int, rounds: int) -> None:
    """Print how many times as long ordinary stores take as non-temporal ones, alone and with a reader."""
    from benchmarks.harness.roofline import streaming
    from impls.relu import numba_cpu, numba_streaming

    numba_streaming.LEAST_BYTES = 0
    out, x, _ = streaming.arrays(ITEMSIZE_BYTES * elements)
    x[:] = np.random.default_rng(0).standard_normal(elements, np.float32)
    print(f"{out.nbytes / 2**20:g} MiB", flush=True)

    def repeated(call: Callable[..., Any], has_reader: bool) -> None:
        for _ in range(-(-SAMPLE_BYTES // out.nbytes)):
            call(x, out)
            if has_reader:
                numba_cpu.forward_threads_inplace(out)

    stores = {"ordinary": numba_cpu.forward_threads_out, "non-temporal": numba_streaming.forward_out}
    timed = {
        name + reader: partial(_seconds, partial(repeated, call, bool(reader)))
        for name, call in stores.items()
        for reader in ("", " with reader")
    }
    compare([Ratio(f"ordinary{reader}", f"non-temporal{reader}") for reader in ("", " with reader")], timed, rounds)


if __name__ == "__main__":
    sys.exit(main())
