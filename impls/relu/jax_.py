"""ReLU in JAX. The same functions run on the CPU and on CUDA.

forward, _inplace      `jax.nn.relu`, jitted; in place: the argument is donated, and XLA reuses its buffer
backward, _inplace     selection by the saved input or output
backward_bool          selection by a saved mask
backward_bits          selection by packed bits; XLA fuses the unpacking into it
roundtrip_vjp          the usual form: `jax.vjp`, with one XLA program for each half, so that the residuals between them
                       are stored in memory
roundtrip_inplace      both halves with donated arguments, saving the output

There is no out form: JAX cannot write into a given buffer. A donated array is deleted. Shapes are checked during
tracing, at no cost to later calls. A single `jax.jit` around forward and backward would save nothing, because XLA fuses
the two.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from impls.relu import checks

Backward = Callable[[Array], Array]


def _relu(x: Array) -> Array:
    return jax.nn.relu(x)


def _backward(grad: Array, saved: Array) -> Array:
    checks.alike(grad, saved, "grad", "saved")
    return jnp.where(saved > 0, grad, 0)


def _backward_bool(grad: Array, saved: Array) -> Array:
    checks.mask(grad, saved)
    return jnp.where(saved, grad, 0)


def _backward_bits(grad: Array, saved: Array) -> Array:
    checks.bits(grad, saved)
    mask = jnp.unpackbits(saved, count=grad.size, bitorder="little").astype(bool)
    return jnp.where(mask.reshape(grad.shape), grad, 0)


forward = jax.jit(_relu)
forward_inplace = jax.jit(_relu, donate_argnums=0)
backward = jax.jit(_backward)
backward_inplace = jax.jit(_backward, donate_argnums=0)
backward_bool = jax.jit(_backward_bool)
backward_bits = jax.jit(_backward_bits)

_vjp = jax.jit(lambda x: jax.vjp(_relu, x))


@jax.jit
def _apply_vjp(vjp: Any, grad: Array) -> Array:
    try:
        return vjp(grad)[0]
    except ValueError as error:
        raise ValueError(f"grad: {error}") from None


def roundtrip_vjp(x: Array) -> tuple[Array, Backward]:
    y, vjp = _vjp(x)
    return y, partial(_apply_vjp, vjp)


def roundtrip_inplace(x: Array) -> tuple[Array, Backward]:
    y = forward_inplace(x)
    return y, partial(backward_inplace, saved=y)
