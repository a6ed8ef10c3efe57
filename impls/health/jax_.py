"""Dead units of JAX functions, from activations that they tag.

    def model(parameters, x):
        x = tag("hidden", jax.nn.relu(x @ parameters["w"]))
        ...

    units = dead_units(lambda batch: model(parameters, batch), batches)

`tag` returns its argument; only within `captured` does it do more. There functions run without compilation, also those
that `jax.jit` has compiled, so that all they tag is seen.
"""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

from impls.health.units import Units, counted, totals

_tagged: ContextVar[dict[str, jax.Array] | None] = ContextVar("tagged", default=None)


def tag(name: str, activations: jax.Array) -> jax.Array:
    """Name activations, of shape (n, ..., units), and return them.

    Raises ValueError within `captured` where a function tags two of one name, or tags within jax.grad, jax.vmap or
    another transformation, where activations have no values.
    """
    tagged = _tagged.get()
    if tagged is not None:
        if name in tagged:
            raise ValueError(f"name: {name!r} given twice, each activation needs its own")
        if isinstance(activations, jax.core.Tracer):
            raise ValueError(
                f"{name}: tagged within a transformation such as jax.grad or jax.vmap; call the function alone"
            )
        tagged[name] = activations
    return activations


def captured(function: Callable[..., Any]) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """A function that also returns what `function` tags, by name."""

    def run(*arguments: Any) -> tuple[Any, dict[str, jax.Array]]:
        tagged: dict[str, jax.Array] = {}
        token = _tagged.set(tagged)
        try:
            with jax.disable_jit():
                return function(*arguments), tagged
        finally:
            _tagged.reset(token)

    return run


def dead_units(function: Callable[[Any], Any], batches: Iterable[Any], threshold: float = 0.0) -> dict[str, Units]:
    """Count the active values of each unit that a function tags, over all batches.

    Raises ValueError as `tag` does, and where there is no batch or nothing is tagged.
    """
    activations = (captured(function)(batch)[1] for batch in batches)
    return totals({name: counted(np.asarray(y), threshold) for name, y in layers.items()} for layers in activations)
