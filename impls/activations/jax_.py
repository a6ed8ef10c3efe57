"""The activation family in JAX: the library's functions, jitted. They run on the CPU and on CUDA.

NAME.fresh, .inplace                        the function; in place: the argument is donated
NAME_backward.fresh, .inplace               `jax.vjp` at the saved input: the program computes what the gradient needs
NAME_backward_from_output.fresh, .inplace   a formula
NAME.vjp                                    the usual form of a round trip: `jax.vjp`, with one program for each half,
                                            so that the residuals between them are stored in memory
prelu, prelu_inplace, prelu_backward        with a learnable slope
prelu_channels, prelu_channels_...          with a slope per channel, channels last: x has the shape (rows * channels,)

There is no out form: JAX cannot write into a given buffer. A donated array is deleted.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from impls.activations.constants import LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE
from impls.relu import checks
from impls.variant import DTYPES

Function = Callable[..., Array]


class Forward:
    """A function of x, compiled for each memory mode. It can be called and differentiated in other programs."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.fresh = jax.jit(function)
        self.inplace = jax.jit(function, donate_argnums=0)

    @cached_property
    def _halves(self) -> tuple[Callable[..., Any], Callable[..., Array]]:
        return jax.jit(lambda x: jax.vjp(self.function, x)), jax.jit(_apply)

    def vjp(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        first, second = self._halves
        y, pullback = first(x)
        return y, partial(second, pullback)


class Backward:
    """A gradient, compiled for each memory mode."""

    def __init__(self, function: Function) -> None:
        def checked(grad: Array, saved: Array) -> Array:
            checks.alike(grad, saved, "grad", "saved")
            return function(grad, saved)

        self.fresh = jax.jit(checked)
        self.inplace = jax.jit(checked, donate_argnums=0)


def _apply(pullback: Any, grad: Array) -> Array:
    try:
        return pullback(grad)[0]
    except ValueError as error:
        raise ValueError(f"grad: {error}") from None


def _of(forward: Forward) -> Backward:
    """The gradient of a function at the saved input."""
    return Backward(lambda grad, x: jax.vjp(forward.function, x)[1](grad)[0])


leaky_relu = Forward(lambda x: jax.nn.leaky_relu(x, LEAKY_SLOPE))
relu6 = Forward(jax.nn.relu6)
elu = Forward(jax.nn.elu)
selu = Forward(jax.nn.selu)
gelu = Forward(lambda x: jax.nn.gelu(x, approximate=False))
gelu_tanh = Forward(lambda x: jax.nn.gelu(x, approximate=True))
silu = Forward(jax.nn.silu)
sigmoid = Forward(jax.nn.sigmoid)
tanh = Forward(jnp.tanh)
softplus = Forward(jax.nn.softplus)
hardswish = Forward(jax.nn.hard_swish)
squared_relu = Forward(lambda x: jnp.square(jax.nn.relu(x)))

# These hold for the input and for the output.
leaky_relu_backward = Backward(lambda grad, saved: jnp.where(saved > 0, grad, LEAKY_SLOPE * grad))
relu6_backward = Backward(lambda grad, saved: jnp.where((saved > 0) & (saved < 6), grad, 0))

elu_backward = _of(elu)
selu_backward = _of(selu)
gelu_backward = _of(gelu)
gelu_tanh_backward = _of(gelu_tanh)
silu_backward = _of(silu)
sigmoid_backward = _of(sigmoid)
tanh_backward = _of(tanh)
softplus_backward = _of(softplus)
hardswish_backward = _of(hardswish)
squared_relu_backward = _of(squared_relu)

elu_backward_from_output = Backward(lambda grad, y: jnp.where(y > 0, grad, grad * (y + 1)))
selu_backward_from_output = Backward(lambda grad, y: grad * jnp.where(y > 0, SELU_SCALE, y + SELU_ALPHA * SELU_SCALE))
sigmoid_backward_from_output = Backward(lambda grad, y: grad * (y * (1 - y)))
tanh_backward_from_output = Backward(lambda grad, y: grad * ((1 - y) * (1 + y)))
softplus_backward_from_output = Backward(lambda grad, y: grad * -jnp.expm1(-y))


def _selected(x: Array, slope: Array) -> Array:
    # Selects a factor: of where(x > 0, x, slope * x), jax.vjp would multiply an infinite x by 0 in the other branch.
    return jnp.where(x > 0, 1, slope) * x


def _prelu(x: Array, slope: Array) -> Array:
    checks.floating(DTYPES, x=x)
    checks.parameter(x, slope)
    return _selected(x, slope)


def _prelu_backward(grad: Array, saved: Array, slope: Array) -> tuple[Array, Array]:
    checks.floating(DTYPES, grad=grad)
    checks.alike(grad, saved, "grad", "saved")
    return jax.vjp(_prelu, saved, slope)[1](grad)


prelu = jax.jit(_prelu)
prelu_inplace = jax.jit(_prelu, donate_argnums=0)
prelu_backward = jax.jit(_prelu_backward)


def _prelu_channels(x: Array, slope: Array) -> Array:
    checks.floating(DTYPES, x=x)
    checks.channels(x, slope)
    # With x as rows, XLA could not work in place.
    return _selected(x, jnp.tile(slope, x.size // slope.size))


def _prelu_channels_backward(grad: Array, saved: Array, slope: Array) -> tuple[Array, Array]:
    checks.floating(DTYPES, grad=grad)
    checks.alike(grad, saved, "grad", "saved")
    return jax.vjp(_prelu_channels, saved, slope)[1](grad)


prelu_channels = jax.jit(_prelu_channels)
prelu_channels_inplace = jax.jit(_prelu_channels, donate_argnums=0)
prelu_channels_backward = jax.jit(_prelu_channels_backward)
