"""Compare two ways to launch Numba's kernels on a GPU, in turn: python -m scripts.verify.gpu_launch.

grid    ReLU with as many blocks as the device holds, which stride over the tiles; and with a block for each tile
tiles   training steps whose products have tiles of two squares where those occupy the device; and of one square

Needs an environment with numba-cuda and a GPU. A round has a reading of device time of either, in random order. Prints
the time of the first, and the ratio of the second to the first: the median and its 95 % interval. Fails if their
results differ, or a device time is unknown.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

# Import other modules in the functions that use them, so that any Python can list what is missing.
from scripts.arguments import positive
from scripts.verify.gpu_check import lacks, uninstalled

if TYPE_CHECKING:
    from benchmarks.harness.frameworks.base import DeviceDriver
    from benchmarks.harness.timing.intervals import Interval

ELEMENTS, BATCHES = (2**20, 2**24, 2**28), (64, 1024, 4096)
ROUNDS = 20
# Sums of products in another order differ.
LOSS_TOLERANCE = 1e-4

# A comparison: its name, its two calls, and their arguments.
Pair = tuple[str, tuple[Callable[..., Any], Callable[..., Any]], tuple[Any, ...]]


class Differ(Exception):
    """The results of two launches differ."""


def main() -> int:
    options = _options()
    problems = [*lacks(), *uninstalled(["numba_cuda"])]
    for problem in problems:
        print(f"gpu_launch: {problem}")
    if problems:
        return 2
    from benchmarks.harness.frameworks import device_driver, started

    with started("numba_cuda", "cuda") as framework:
        try:
            return report(device_driver(framework), options)
        except Differ as error:
            print(f"gpu_launch: {error}")
            return 1


def report(driver: "DeviceDriver", options: argparse.Namespace) -> int:
    """Print each comparison. Return 1 if a device time is unknown, otherwise 0."""
    pairs = {"grid": lambda: grids(options.elements), "tiles": lambda: tiles(options.batches)}
    unknown = 0
    print(f"{'launch':<34}{'us':>10}{'ratio':>8}   95 % interval")
    for part in options.parts:
        for name, calls, arguments in pairs[part]():
            found = compared(driver, calls, arguments, options.rounds)
            unknown += found is None
            print(f"{name:<34}{_line(found)}", flush=True)
    return int(unknown > 0)


def grids(elements: Sequence[int]) -> Iterator[Pair]:
    """Yield ReLU forward and backward in float32. Raises Differ where the results differ."""
    import numpy as np
    from numba import cuda

    from impls.relu import numba_cuda

    kernels = numba_cuda.kernels("float32")
    tile = numba_cuda.tile_elements("float32")
    for n, (name, kernel, inputs) in product(
        elements, [("forward", kernels.forward, 1), ("backward", kernels.backward, 2)]
    ):
        values = np.random.default_rng(0).standard_normal(n, np.float32)
        arrays = *(cuda.to_device(values) for _ in range(inputs)), cuda.device_array(n, np.float32)

        def striding(*arrays: Any, kernel: Any = kernel) -> Any:
            return numba_cuda.launch(kernel, True, *arrays)

        def block_each(*arrays: Any, kernel: Any = kernel, n: int = n) -> Any:
            numba_cuda.run(kernel, -(-n // tile), numba_cuda.THREADS, *arrays, n // tile)
            return arrays[-1]

        results = []
        for call in (striding, block_each):
            # So that a call that writes nothing does not return the result of the other one.
            arrays[-1].copy_to_device(np.full(n, np.nan, np.float32))
            results.append(call(*arrays).copy_to_host())
        if not np.array_equal(*results):
            raise Differ(f"relu {name}: results of the two grids differ at {n} elements")
        yield f"grid   {name} {n}", (striding, block_each), arrays


def tiles(batches: Sequence[int]) -> Iterator[Pair]:
    """Yield training steps in float32. Raises Differ where the losses differ."""
    import numpy as np

    from impls.cnn.networks import RELU_NETWORKS, initial_parameters, random_batch
    from impls.cnn.numba_cuda import products
    from impls.cnn.numba_cuda.step import Step

    for network, batch in product(RELU_NETWORKS.values(), batches):
        tall = Step(network, initial_parameters(network), batch, "float32", "inplace")
        with patch.dict(products.TALLEST, float32=1):
            square = Step(network, initial_parameters(network), batch, "float32", "inplace")
        given = tall.put(random_batch(network, batch))
        # The second loss depends on all gradients of the first step.
        first, second = ([float(step(given)) for _ in range(2)] for step in (tall, square))
        if not np.allclose(first, second, rtol=LOSS_TOLERANCE):
            raise Differ(f"{network.name}: losses {first} and {second} of the two tiles differ at batch {batch}")
        yield f"tiles  {network.name} {batch}", (tall, square), (given,)


def compared(
    driver: "DeviceDriver",
    calls: tuple[Callable[..., Any], Callable[..., Any]],
    arguments: tuple[Any, ...],
    rounds: int,
) -> "tuple[float, Interval] | None":
    """Return the median seconds of the first call, and the ratio of the second to it; None if a time is unknown."""
    from benchmarks.harness.machine import gpu
    from benchmarks.harness.timing import intervals
    from benchmarks.harness.timing.device import DeviceTimer

    device = gpu.Device()
    timers = [DeviceTimer(driver, call, lambda count: [arguments] * count, device) for call in calls]
    readings = []
    for number in range(rounds):
        taken = {timer: _reading(timer) for timer in random.Random(number).sample(timers, len(timers))}
        first_s, second_s = (taken[timer] for timer in timers)
        if not first_s or not second_s:
            return None
        readings.append((first_s, second_s))
    seconds = intervals.of([[first_s for first_s, _ in readings]]).value
    return seconds, intervals.of([[second_s / first_s for first_s, second_s in readings]])


def _reading(timer: Any) -> float | None:
    """Return a reading of device time; None if the host was late in several in a row."""
    while (seconds := timer.read()) is None and not timer.has_given_up:
        pass
    return seconds


def _line(found: "tuple[float, Interval] | None") -> str:
    if found is None:
        return "   unknown: the host was not ahead of the device"
    seconds, ratio = found
    return f"{1e6 * seconds:>10.1f}{ratio.value:>8.3f}   {ratio.low:.3f} to {ratio.high:.3f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.gpu_launch", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--parts", nargs="+", choices=("grid", "tiles"), default=["grid", "tiles"])
    parser.add_argument("--elements", nargs="+", type=positive, default=ELEMENTS, metavar="N", help="array sizes")
    parser.add_argument("--batches", nargs="+", type=positive, default=BATCHES, metavar="N", help="images of a batch")
    parser.add_argument("--rounds", type=positive, default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
