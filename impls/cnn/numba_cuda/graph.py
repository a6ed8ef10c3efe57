"""A step whose kernels are captured once in a CUDA graph: a call replays them with one launch.

The step has a stream of its own, on which its kernels are captured. Numba launches a compiled kernel without allocating
or synchronising, both of which would end a capture. Only a stream's kernels are in the graph: before each replay the
step copies its batch to fixed addresses. A stream of `cuda.stream` and the legacy default stream, which Numba uses
elsewhere, wait for each other.

Source: CUDA driver API, "Stream Management" and "Graph Management".
"""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from cuda.bindings import driver
from numba import cuda
from numba.cuda.cudadrv.driver import device_to_device

from impls.cnn import unmarked
from impls.cnn.architecture import Network
from impls.cnn.networks import Array, random_batch
from impls.cnn.numba_cuda.products import Launch
from impls.cnn.numba_cuda.step import Loss, Step, device_launch
from impls.cuda_vectors import SIMULATED

# cuda-bindings calls cuGraphInstantiate in the form that CUDA 12.0 gave it.
LEAST_CUDA = 12000


def require() -> None:
    """Raise NotImplementedError, with the reason, where no graph can be captured."""
    if SIMULATED:
        raise NotImplementedError("CUDA graph: NUMBA_ENABLE_CUDASIM is set, and the simulator has no graphs; unset it")
    version = _called(driver.cuDriverGetVersion)
    if version < LEAST_CUDA:
        raise NotImplementedError(
            f"CUDA graph: the driver supports CUDA {_named(version)}, {_named(LEAST_CUDA)} needed; update the driver"
        )


class Graph:
    """What `launch` launches on a stream of `cuda.stream`, which captures it. Raises RuntimeError where that fails."""

    def __init__(self, stream: Any, launch: Callable[[], None]) -> None:
        self.stream = stream
        # Freeing memory would end the capture, and the garbage collector may find some at any time.
        with cuda.defer_cleanup():
            # Other threads may do what they like.
            mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
            _called(driver.cuStreamBeginCapture, stream.handle, mode)
            try:
                launch()
            finally:
                captured = _called(driver.cuStreamEndCapture, stream.handle)
        self.executable = _called(driver.cuGraphInstantiate, captured, 0)
        _called(driver.cuGraphDestroy, captured)
        weakref.finalize(self, driver.cuGraphExecDestroy, self.executable)

    def replay(self) -> None:
        _called(driver.cuGraphLaunch, self.executable, self.stream.handle)


class GraphStep(Step):
    """A step that replays its kernels, on a batch at fixed addresses, to which each call copies its own.

    Raises NotImplementedError where no graph can be captured.
    """

    def __init__(
        self,
        network: Network,
        parameters: dict[str, Array],
        n: int,
        dtype: str,
        relu: str,
        launch: Launch | None = None,
    ) -> None:
        require()
        self.stream = cuda.stream()
        super().__init__(network, parameters, n, dtype, relu, (launch or device_launch())._replace(stream=self.stream))
        self.batch = self.put(random_batch(network, n))
        self._warm_up()
        self.graph = Graph(self.stream, partial(self.launch, self.batch))

    def _warm_up(self) -> None:
        """Make a step, which compiles the kernels and loads them to the device, and take back what it changed."""
        changed = [*self.parameters.values(), *self.velocities.values(), *self.statistics.values()]
        # On the host: they are no memory that training needs.
        before = [array.copy_to_host() for array in changed]
        super().__call__(self.batch)
        for array, value in zip(changed, before, strict=True):
            array.copy_to_device(value)

    def __call__(self, given: Any, mark: Callable[[str], None] = unmarked) -> Loss:
        for own, array in zip(_arrays(self.batch), _arrays(given), strict=True):
            # `copy_to_device` would first make views of both, which takes longer than the copy.
            device_to_device(own, array, array.nbytes, self.stream)
        self.graph.replay()
        return self._called()


def _arrays(given: Any) -> list[Any]:
    images, labels, masks = given
    return [images, labels, *masks]


def _called(function: Any, *arguments: Any) -> Any:
    """Return the driver's answer. Raises RuntimeError for any result but success."""
    result, *answer = function(*arguments)
    if result != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA graph: {function.__name__} returns {result.name}")
    return answer[0] if answer else None


def _named(version: int) -> str:
    """Return a version of CUDA as "12.0" for 12000."""
    return f"{version // 1000}.{version % 1000 // 10}"
