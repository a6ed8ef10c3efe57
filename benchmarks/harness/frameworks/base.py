"""Base classes of drivers, through which the harness uses a framework.

A driver is a file named after the framework and "_". It subclasses `Driver`, adds `DeviceDriver` for a GPU and
`StepDriver` for training steps, and ends with `DRIVER = NameDriver()`. Arrays are the framework's own. A driver
imports its framework in `start`, never before.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Driver(ABC):
    """The members that every framework needs."""

    @abstractmethod
    def environment(self, cache_dir: str | None) -> dict[str, str]:
        """Environment variables to set before the import.

        cache_dir: an empty folder for compiled code, so that a first call compiles; None for the default folder.
        """

    @abstractmethod
    def start(self, device: str) -> None:
        """Import the framework and select `device`, "cpu" or "cuda". Raises Unavailable."""

    @abstractmethod
    def threads(self) -> int:
        """Number of CPU threads that the framework uses."""

    @abstractmethod
    def array(self, values: np.ndarray, dtype: str) -> Any:
        """Copy `values` into a new array on the device. `dtype`: a dtype of the catalog, "bool" or "uint8"."""

    @abstractmethod
    def dtype(self, array: Any) -> str:
        """Name of the array's dtype, as in the catalog."""

    @abstractmethod
    def to_numpy(self, array: Any) -> np.ndarray:
        """The array's values, exactly; half precisions become float32. Waits for pending work."""

    @abstractmethod
    def restore(self, target: Any, pristine: Any) -> Any:
        """Return `target` with the values of `pristine`: the same memory, or a new array if the old one was donated."""

    @abstractmethod
    def blocking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `function` to return only when its work is done."""

    @abstractmethod
    def cache_bytes(self) -> int:
        """Size of the last-level cache of the device in bytes."""

    @abstractmethod
    def transient_bytes(self, call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
        """Peak of bytes allocated during `call(*make())`, its result included, above those live before.

        call: `function` with the arguments of its operator. make: returns new arguments; `make(n)` those of n elements.
        """

    @abstractmethod
    def saved_bytes(self, function: Callable[..., Any], x: Any) -> int:
        """Bytes that `function(x) -> (y, backward)` keeps for the backward pass."""


class DeviceDriver(Driver):
    """A driver of a framework that runs on a GPU. most_queued: calls that the host queues without a wait."""

    most_queued = 256

    @abstractmethod
    def device_s(
        self,
        function: Callable[..., Any],
        arguments: Callable[[], Sequence[tuple[Any, ...]]],
        meanwhile: Callable[[], None],
    ) -> float | None:
        """Device time in seconds of consecutive calls; None if unknown, as where the host is not ahead."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Bytes of GPU memory that the framework can still allocate."""


class StepDriver(Driver):
    """A driver of a framework that runs training steps (`impls.cnn`)."""

    @abstractmethod
    def step_saved_bytes(self, step: Any, batch: Any) -> int:
        """Bytes that a training step keeps from its forward pass for its backward pass, without parameters."""

    @abstractmethod
    def step_peak_bytes(self, make: Callable[[], tuple[Any, Any]]) -> int:
        """Peak of bytes allocated while `make() -> (step, batch)` builds a training step that then runs twice."""

    def step_allocated_bytes(self) -> int | None:
        """The peak of the last `step_peak_bytes` in the allocator's blocks; None where it does not report them."""
        return None
