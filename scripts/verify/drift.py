"""Time loops alone, again and again in one process: how far apart are times when nothing but the machine changes?

python -m scripts.verify.drift: needs an environment with Numba (.venv/test). Prints for each loop how far the medians
of consecutive windows of time are apart. Two runs of the suite cannot agree better than that.
"""

import argparse
import sys
import time

import numpy as np
import pandas as pd

from benchmarks.harness.case import LoopCase, Settings
from benchmarks.harness.frameworks import started
from benchmarks.harness.roofline.ceilings import TimedLoop
from benchmarks.harness.timing.contention import Core
from scripts.arguments import positive
from scripts.verify.repeatability import summary

# One thread in a first-level cache, where the clock of the core decides; all threads in caches, and in memory.
LOOPS = (("copy.one", 2**14), ("copy.all", 2**20), ("copy.all", 2**27))


def main() -> int:
    options = _options()
    threads = Settings.from_environment().threads
    with started("numba", "cpu", threads):
        cores = {"one": Core(), "all": Core(threads=threads)}
        loops = {
            f"{kernel} {array_bytes}": TimedLoop(
                LoopCase("time", kernel, array_bytes), cores[kernel.rpartition(".")[2]], {}
            )
            for kernel, array_bytes in LOOPS
        }
        windows = pd.DataFrame(
            [_window(loops, options.window_s) for _ in range(60 * options.minutes // options.window_s)]
        )
    for name, medians_s in windows.items():
        apart = 100 * (medians_s / medians_s.shift() - 1).abs().dropna()
        print(summary(str(name), apart) + f"; from {medians_s.min():.3g} to {medians_s.max():.3g} s")
    return 0


def _window(loops: dict[str, TimedLoop], seconds: int) -> dict[str, float]:
    """The median seconds of each loop over some time, in which they take turns."""
    found: dict[str, list[float]] = {name: [] for name in loops}
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        for name, loop in loops.items():
            found[name].append(min(loop.slice(0).samples_s))
    return {name: float(np.median(values)) for name, values in found.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.drift", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--minutes", type=positive, default=10, help="time of all windows (default: %(default)s)")
    parser.add_argument("--window-s", type=positive, default=30, help="time of a window (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
