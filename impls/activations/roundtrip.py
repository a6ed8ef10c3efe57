"""Forward and backward as a pair, as autograd makes it of them, for frameworks without autograd."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

Array = Any


@dataclass(frozen=True)
class Roundtrip:
    """A function and its gradient in two memory modes.

    forward: has fresh(x) and inplace(x). backward: has fresh(grad, saved) and inplace(grad, saved), where saved is the
    output of forward if from_output, else its input. A pair from the input has no form in place, which would overwrite
    it.
    """

    forward: Any
    backward: Any
    from_output: bool = False

    def fresh(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Return y and a function that returns the gradient of x, both in new arrays."""
        y = self.forward.fresh(x)
        return y, partial(self.backward.fresh, saved=y if self.from_output else x)

    def inplace(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Overwrite x with y, and return it with a function that overwrites grad with the gradient of x."""
        if not self.from_output:
            raise ValueError("in place, forward overwrites the input that backward needs")
        y = self.forward.inplace(x)
        return y, partial(self.backward.inplace, saved=y)
