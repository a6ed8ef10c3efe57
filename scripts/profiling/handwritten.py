"""Spans of hand-written steps (NumPy, Numba): their methods are replaced by timed ones while steps are recorded.

The steps themselves have no hooks, so nothing is in their way when nobody looks.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from impls.cnn import operations
from impls.cnn.architecture import Network
from scripts.profiling.spans import Recorded, Span

# For each method, the operator it is shown as, and the kinds of operations of its layer that it computes. Where one
# calls another, the time of the inner one is not the outer one's. Methods without kinds compute no layer.
CONV, NORM, POOL, DENSE, DROPOUT, ACTIVATION = "conv", "norm", "pool", "dense", "dropout", "activation"
Methods = dict[str, tuple[str, tuple[str, ...]]]
# Returns what to call instead of a method that is shown as an operator of some kinds of operations.
Timed = Callable[[Callable[..., Any], str, tuple[str, ...]], Callable[..., Any]]
WHOLE_PHASES: Methods = {"loss": ("softmax, cross-entropy", ()), "update": ("SGD", ())}
METHODS: dict[str, Methods] = {
    "numpy": {
        "_columns": ("gather columns or tiles", (CONV,)),
        "_convolve": ("products", (CONV,)),
        "_convolve_and_sum": ("moments", (NORM,)),
        "_normalise": ("merge moments", (NORM,)),
        "_activate": ("normalise", (NORM,)),
        "_pool_and_activate": ("bias, pool, activation", (CONV, POOL, ACTIVATION)),
        "_dense": ("product, bias, activation, dropout", (DENSE, ACTIVATION, DROPOUT)),
        "_dense_backward": ("products, activation, dropout", (DENSE, ACTIVATION, DROPOUT)),
        "_pool_backward": ("pool, activation", (POOL, ACTIVATION)),
        "_convolve_backward": ("sum of the bias gradient", (CONV,)),
        "_sum_backward": ("sums", (NORM,)),
        "_normalise_backward": ("terms of the norm", (NORM,)),
        "_convolve_backward_normalised": ("normalise", (NORM,)),
        "_multiply_backward": ("products, scatter", (CONV,)),
        **WHOLE_PHASES,
    },
    "numba": {
        "_convolution": ("whole block, fused", (CONV, NORM, POOL, ACTIVATION)),
        "_normalise": ("merge moments", (NORM,)),
        "_dense": ("product, bias, activation, dropout", (DENSE, ACTIVATION, DROPOUT)),
        "_dense_backward": ("products, activation, dropout", (DENSE, ACTIVATION, DROPOUT)),
        "_convolution_backward": ("whole block, fused", (CONV, NORM, POOL, ACTIVATION)),
        **WHOLE_PHASES,
    },
}


def record(step: Any, arrays: Any, network: Network, count: int, framework: str) -> list[Recorded]:
    """Record steps of a `HandWritten` step, which is left as it was."""
    recorder = _Recorder(network)
    with timed_methods(step, METHODS[framework], recorder.timed):
        return [recorder.step(step, arrays) for _ in range(count)]


class _Recorder:
    """Collects the spans of one step at a time."""

    def __init__(self, network: Network) -> None:
        self.activation = network.activation
        self.existing = {operation.name for operation in operations.operations(network)}
        self.phase, self.spans = "", list[Span]()
        self.threads: dict[int, int] = {}

    def step(self, step: Any, arrays: Any) -> Recorded:
        self.spans, self.phase, ends = [], "forward", []
        following = dict(zip(("forward", "loss", "backward"), ("loss", "backward", "update"), strict=True))

        def mark(phase: str) -> None:
            ends.append((phase, perf_counter()))
            self.phase = following.get(phase, phase)

        start_s = perf_counter()
        step(arrays, mark)
        return Recorded(start_s, perf_counter(), tuple(self.spans), tuple(ends))

    def timed(self, method: Callable[..., Any], operator: str, kinds: tuple[str, ...]) -> Callable[..., Any]:
        """The method, with a span of each call. Its first argument is the layer's memory, if it computes one."""

        def call(*arguments: Any) -> Any:
            start_s = perf_counter()
            try:
                return method(*arguments)
            finally:
                end_s = perf_counter()
                layer = arguments[0].name if kinds else self.phase
                # Assigning to a dictionary and appending to a list need no lock.
                thread = self.threads.setdefault(threading.get_ident(), len(self.threads))
                covers = self._covers(layer, kinds)
                self.spans.append(Span(operator, self.phase, layer, start_s, end_s, thread, covers))

        return call

    def _covers(self, layer: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
        names = {
            CONV: layer,
            DENSE: layer,
            NORM: layer.replace("conv", "norm"),
            ACTIVATION: f"{layer}.{self.activation}",
        }
        return tuple(name for kind in kinds if (name := names.get(kind, f"{layer}.{kind}")) in self.existing)


@contextmanager
def timed_methods(step: Any, methods: Methods, timed: Timed) -> Iterator[None]:
    """Replace methods of this step by timed ones."""
    for name, (operator, kinds) in methods.items():
        setattr(step, name, timed(getattr(step, name), operator, kinds))
    try:
        yield
    finally:
        for name in methods:
            delattr(step, name)
