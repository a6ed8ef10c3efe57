"""How to drive each framework. A driver is a module named after the framework and "_".

The catalog's `framework` names the module, so that adding a framework adds a file here. A driver
imports its framework in `start`, never before.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np


class Driver(Protocol):
    """What the harness asks of a framework. Arrays are the framework's own."""

    def environment(self, cache_dir: str | None) -> dict[str, str]:
        """Variables to set before the import. cache_dir: an empty folder for compiled code, for a first call."""

    def start(self, device: str) -> None:
        """Import the framework and make `device` the default. Raises Unavailable."""

    def threads(self) -> int:
        """Threads that the framework uses now."""

    def array(self, values: np.ndarray, dtype: str) -> Any:
        """A new array that owns its memory, on the device; `dtype` also bool and uint8."""

    def dtype(self, array: Any) -> str:
        """The name of its dtype, as the catalog has it."""

    def to_numpy(self, array: Any) -> np.ndarray:
        """Its values, exactly: half precisions come as float32. Waits for the work to be done."""

    def restore(self, target: Any, master: Any) -> Any:
        """`target` with the values of `master` again: the same memory, or a new array where the old one is gone."""

    def blocking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, returning when its work is done."""

    def transient_bytes(self, call: Callable[..., Any], function: Callable[..., Any], make: Callable[[], list]) -> int:
        """Peak of bytes allocated during `call(*make())`, its result included, above what was live before."""

    def saved_bytes(self, function: Callable[..., Any], x: Any) -> int:
        """Bytes that `function(x) -> (y, backward)` keeps for the backward pass."""

    def device_s(
        self,
        function: Callable[..., Any],
        arguments: Callable[[], Sequence[tuple[Any, ...]]],
        meanwhile: Callable[[], None],
    ) -> float | None:
        """Seconds that a GPU takes for calls in a row, by its own events; None where there are none (events.py)."""

    def free_bytes(self) -> int:
        """Bytes that a GPU has left for arrays of this framework."""

    def cache_bytes(self) -> int:
        """The last cache of the device. Raises Unsupported where the framework does not tell."""

    def step_saved_bytes(self, step: Any, given: Any) -> int:
        """Bytes that a training step keeps from its forward pass for its backward pass; not its state."""

    def step_peak_bytes(self, make: Callable[[], tuple[Any, Any]]) -> int:
        """Peak of bytes allocated while `make() -> (step, given)` makes a training step, which then runs twice."""


def driver(framework: str) -> Driver:
    """The driver module of a framework.

    Raises LookupError where there is none.
    """
    try:
        return import_module(f"{__name__}.{framework}_")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{framework}_":
            raise
        raise LookupError(
            f"no driver for {framework!r}: benchmarks/harness/frameworks/{framework}_.py is missing"
        ) from None
