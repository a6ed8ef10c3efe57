"""Ranges of NVTX around steps, phases and layers on a GPU, so that Nsight's tools show the names of the traces.

Nsight and the frameworks' profilers exclude one another, so these steps are not profiled. XLA marks the instructions of
JAX's programs itself: of their layers nothing is added.
Source: NVIDIA, "NVTX C API reference", push and pop of ranges.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

from benchmarks.harness.case import Unavailable
from impls.cnn.architecture import Network
from scripts.profiling.spans import layer_of

Push = Callable[[str], Any]
Pop = Callable[[], Any]


def functions() -> tuple[Push, Pop]:
    """Push and pop: PyTorch's, in a process that has imported it, or those of the package nvtx. Raises Unavailable."""
    if "torch" in sys.modules:
        import torch

        return torch.cuda.nvtx.range_push, torch.cuda.nvtx.range_pop
    try:
        import nvtx
    except ImportError:
        raise Unavailable("the package nvtx is not installed, which rows without PyTorch need for ranges") from None
    return nvtx.push_range, nvtx.pop_range


def run(framework: str, step: Any, arrays: Any, network: Network, count: int, push: Push, pop: Pop) -> None:
    """Make a step, and then steps with a range for each of them, each phase and each layer.

    The step is left as it was.
    """
    # A compiled step has no end of the loss; JAX's programs and CUDA graphs mark no phases.
    phases: list[str] = []
    step(arrays, phases.append)
    ranges = _Ranges(push, pop, phases)
    with _layers(framework, step, network, ranges):
        for _ in range(count):
            push("step")
            ranges.start_after("")
            step(arrays, ranges.end)
            pop()


class _Ranges:
    """Opens and closes ranges. phases: those that the step marks, in their order. phase: the one that is open."""

    def __init__(self, push: Push, pop: Pop, phases: Sequence[str]) -> None:
        self.push, self.pop, self.phase = push, pop, ""
        self.following = dict(pairwise(["", *phases]))

    def start_after(self, phase: str) -> None:
        """Start the phase that follows another one, or the first one after "", if there is one."""
        if phase in self.following:
            self.phase = self.following[phase]
            self.push(self.phase)

    def end(self, phase: str) -> None:
        """End a phase, and start the one that follows."""
        self.pop()
        self.start_after(phase)

    @contextmanager
    def opened(self, operation: str) -> Iterator[None]:
        """A range around an operation, named after its layer."""
        self.push(layer_of(operation))
        try:
            yield
        finally:
            self.pop()

    def timed(self, operator: str, layer: str, covers: tuple[str, ...], launch: Callable[[], Any]) -> Any:
        """Launch a kernel in a range, which Nsight times."""
        with self.opened(layer), self.opened(f"{layer}: {operator}"):
            return launch()


def _layers(framework: str, step: Any, network: Network, ranges: _Ranges) -> AbstractContextManager[None]:
    """Mark the layers of a step while the context is open."""
    if framework == "torch":
        from scripts.profiling.torch_ import hooks

        return hooks(step.net, network, ranges.opened, backward=True)
    if framework == "numba_cuda":
        from impls.cnn.numba_cuda.products import Kernel
        from scripts.profiling.device_events import timed_kernels

        return timed_kernels(Kernel, ranges)
    return nullcontext()
