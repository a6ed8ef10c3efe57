"""Print the PTX of the kernels that test_ptx.py runs, as JSON: python -m tests.compiled.

This needs a new process: Numba and Triton compile nothing in one that simulates kernels.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from impls.cnn.networks import RELU_NETWORKS, Network
from impls.cnn.numba_cuda.products import Launch
from scripts.verify import gpu_code
from scripts.verify.gpu_code import ARCHITECTURES, Source
from tests.small import LAUNCH, SMALL, TALL, UNPOOLED

# Images of a batch.
N = 2


class CompiledStep(NamedTuple):
    """A training step. With one block that occupies the device, tiles are tall."""

    network: Network
    launch: Launch = LAUNCH
    dtype: str = "float32"
    relu: bool = True

    @property
    def group(self) -> str:
        return f"{self.network.name} {self.launch.side} {self.launch.blocks} {self.dtype} {self.relu}"


# Small networks with small tiles, and the measured networks with the tiles that they are measured with.
STEPS = (
    *(CompiledStep(network) for network in (*SMALL, UNPOOLED)),
    CompiledStep(SMALL[1], dtype="float64"),
    *(CompiledStep(network, TALL) for network in SMALL),
    *(CompiledStep(network, Launch()) for network in RELU_NETWORKS.values()),
    CompiledStep(RELU_NETWORKS["mnist_cnn"], Launch(blocks=1)),
    *(CompiledStep(network, relu=False) for network in SMALL[:2]),
)
STEP_ARCHITECTURE = 90
# Index into Triton's list of block sizes, and True where the addresses and the length are multiples of 16.
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


def step(case: CompiledStep) -> dict[str, dict[str, str]]:
    sources = gpu_code.numba_step(case.network, N, case.dtype, case.relu, case.launch, architecture=STEP_ARCHITECTURE)
    return {case.group: _ptx(sources)}


def _ptx(sources: Iterable[Source]) -> dict[str, str]:
    return {source.kernel: source.ptx for source in sources}


def main() -> None:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(step, case) for case in reversed(STEPS)]
        jobs += [pool.submit(make, number) for make in (triton_relu, numba_relu) for number in ARCHITECTURES]
        print(json.dumps({group: ptx for job in jobs for group, ptx in job.result().items()}))


if __name__ == "__main__":
    main()
