"""The PTX of kernels for the tests that run it, as JSON: python -m tests.compiled.

A process of its own, as in one that simulates kernels nothing is compiled.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from impls.cnn.networks import NETWORKS, Network
from impls.cnn.numba_cuda.products import SIDE as WHOLE
from scripts.verify import gpu_code
from scripts.verify.gpu_code import ARCHITECTURES, Source
from tests.small import SIDE, SMALL, UNPOOLED

# Images of a batch.
N = 2
# Networks with the squares of their products, dtypes, and whether they have their ReLUs: small ones, and those that are
# measured, in squares of the size that they have there.
STEPS = (
    *((network, SIDE, "float32", True) for network in (*SMALL, UNPOOLED)),
    (SMALL[1], SIDE, "float64", True),
    *((network, WHOLE, "float32", True) for network in NETWORKS.values()),
    *((network, SIDE, "float32", False) for network in SMALL[:2]),
)
STEP_ARCHITECTURE = 90
# Triton's blocks, by their number in its list, and which of addresses and length are multiples of 16.
TRITON = tuple((config, *whole) for config in (0, -1) for whole in ((True, True), (True, False), (False, False)))


def numba_relu(architecture: int) -> dict[str, dict[str, str]]:
    return {f"numba {architecture}": _ptx(gpu_code.numba_relu(architecture))}


def triton_relu(architecture: int) -> dict[str, dict[str, str]]:
    from impls.relu.triton_ import CONFIGS

    return {
        f"triton {architecture} {config} {addresses} {length}": _ptx(
            gpu_code.triton_relu(architecture, CONFIGS[config], addresses, length)
        )
        for config, addresses, length in TRITON
    }


def step(network: Network, side: int, dtype: str, relu: bool) -> dict[str, dict[str, str]]:
    found = gpu_code.numba_step(STEP_ARCHITECTURE, network, N, dtype, relu, side)
    return {f"{network.name} {dtype} {relu}": _ptx(found)}


def _ptx(sources: Iterable[Source]) -> dict[str, str]:
    return {source.kernel: source.ptx for source in sources}


def main() -> None:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(step, *one) for one in reversed(STEPS)]
        jobs += [pool.submit(make, one) for make in (triton_relu, numba_relu) for one in ARCHITECTURES]
        print(json.dumps({name: found for job in jobs for name, found in job.result().items()}))


if __name__ == "__main__":
    main()
