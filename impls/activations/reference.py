"""The definitions that every implementation of the family is compared with, in float64.

Each is a `Reference`; all take arrays of any shape and convert them to float64. A gradient is grad times the
derivative. Where a function is constant, it is 0 whatever grad is, as for ReLU; so it is where x is NaN for relu6 and
squared_relu. At a kink the derivative is PyTorch's: relu6 and hardswish have that of the outer piece, the others that
of the left one.

Limits are as mathematics has them: silu(-inf) is 0, and so is its derivative there.

leaky_relu    Maas et al., "Rectifier nonlinearities improve neural network acoustic models", ICML workshop 2013
relu6         Krizhevsky, "Convolutional deep belief networks on CIFAR-10", 2010
prelu         He et al., "Delving deep into rectifiers", ICCV 2015, section 2.1: channel-shared, and channel-wise
elu           Clevert et al., "Fast and accurate deep network learning by exponential linear units", ICLR 2016
selu          Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017, section 2
gelu          Hendrycks and Gimpel, "Gaussian error linear units", 2016; gelu_tanh is their approximation
silu          Elfwing et al., "Sigmoid-weighted linear units", Neural Networks 107, 2018
softplus      Dugas et al., "Incorporating second-order functional knowledge", NeurIPS 2000
hardswish     Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2
squared_relu  So et al., "Primer", NeurIPS 2021, section 4
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit, ndtr

from impls.activations.constants import CUBIC, LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE, SQRT_2_OVER_PI

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

# Beyond these, the logistic and the normal distribution are 0 or 1 in float64.
LARGE = 1e3


@dataclass(frozen=True)
class Reference:
    """An activation function and its derivatives. of_output: the derivative, computed from the output.

    passes: where grad passes, for functions that are constant elsewhere: there the gradient is 0 whatever grad is. It
    takes the input or the output.
    """

    function: Function
    derivative: Function
    of_output: Function | None = None
    passes: Callable[[Array], NDArray[np.bool_]] | None = None

    def forward(self, x: ArrayLike) -> Array:
        """The function of x."""
        return self.function(np.asarray(x, np.float64))

    def backward(self, grad: ArrayLike, x: ArrayLike) -> Array:
        """The gradient of x, from the input."""
        return self._times(grad, self.derivative, np.asarray(x, np.float64))

    def backward_from_output(self, grad: ArrayLike, y: ArrayLike) -> Array:
        """The gradient of x, from the output. Raises TypeError if the function has no such gradient."""
        if self.of_output is None:
            raise TypeError("the output does not determine the gradient")
        return self._times(grad, self.of_output, np.asarray(y, np.float64))

    def _times(self, grad: ArrayLike, derivative: Function, saved: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            product = np.asarray(grad, np.float64) * derivative(saved)
        return np.where(self.passes(saved), product, 0.0) if self.passes else product


def _per_element(values: ArrayLike, x: Array) -> Array:
    """The value of each element of x, of which element i belongs to channel i mod channels."""
    return np.resize(np.asarray(values, np.float64), x.shape)


def _leaky(x: Array, slope: float | Array) -> Array:
    return np.where(x > 0, x, slope * x)


def _leaky_slope(x: Array, slope: float) -> Array:
    return np.where(x > 0, 1.0, slope)


def _elu(x: Array, alpha: float = 1.0, scale: float = 1.0) -> Array:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _elu_slope(x: Array, alpha: float = 1.0, scale: float = 1.0) -> Array:
    return scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0)))


def _elu_slope_of_output(y: Array, alpha: float = 1.0, scale: float = 1.0) -> Array:
    return np.where(y > 0, scale, y + alpha * scale)


def _from(x: Array) -> Array:
    """x, without the values that a factor of 0 follows."""
    return np.where(x < -LARGE, -LARGE, x)


def _finite(x: Array) -> Array:
    return np.clip(x, -LARGE, LARGE)


def _gelu_slope(x: Array) -> Array:
    x = _finite(x)
    return ndtr(x) + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


def _gate(x: Array) -> Array:
    x = _finite(x)
    return 2 * SQRT_2_OVER_PI * (x + CUBIC * x**3)


def _gelu_tanh_slope(x: Array) -> Array:
    x, gate = _finite(x), _gate(x)
    return expit(gate) + x * expit(gate) * expit(-gate) * 2 * SQRT_2_OVER_PI * (1 + 3 * CUBIC * x * x)


def _silu_slope(x: Array) -> Array:
    x = _finite(x)
    return expit(x) * (1 + x * expit(-x))


def _tanh_slope(x: Array) -> Array:
    small = np.exp(-2 * np.abs(_finite(x)))
    return 4 * small / (1 + small) ** 2


def _hardswish(x: Array) -> Array:
    return np.where(x <= -3, 0.0, np.where(x >= 3, x, _finite(x) * (_finite(x) + 3) / 6))


def _hardswish_slope(x: Array) -> Array:
    return np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (2 * _finite(x) + 3) / 6))


def _squared(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.maximum(x, 0) ** 2


def _squared_slope(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return 2 * np.maximum(x, 0)


leaky_relu = Reference(
    partial(_leaky, slope=LEAKY_SLOPE),
    partial(_leaky_slope, slope=LEAKY_SLOPE),
    partial(_leaky_slope, slope=LEAKY_SLOPE),
)
relu6 = Reference(
    lambda x: np.clip(x, 0, 6), np.ones_like, np.ones_like, passes=lambda saved: (saved > 0) & (saved < 6)
)
elu = Reference(_elu, _elu_slope, _elu_slope_of_output)
selu = Reference(
    partial(_elu, alpha=SELU_ALPHA, scale=SELU_SCALE),
    partial(_elu_slope, alpha=SELU_ALPHA, scale=SELU_SCALE),
    partial(_elu_slope_of_output, alpha=SELU_ALPHA, scale=SELU_SCALE),
)
gelu = Reference(lambda x: _from(x) * ndtr(x), _gelu_slope)
gelu_tanh = Reference(lambda x: _from(x) * expit(_gate(x)), _gelu_tanh_slope)
silu = Reference(lambda x: _from(x) * expit(x), _silu_slope)
sigmoid = Reference(expit, lambda x: expit(x) * expit(-x), lambda y: y * (1 - y))
tanh = Reference(np.tanh, _tanh_slope, lambda y: (1 - y) * (1 + y))
softplus = Reference(lambda x: -log_expit(-x), expit, lambda y: -np.expm1(-y))
hardswish = Reference(_hardswish, _hardswish_slope, passes=lambda x: ~(x <= -3))
squared_relu = Reference(_squared, _squared_slope, passes=lambda x: x > 0)


class prelu:  # noqa: N801, an operator's name
    """Leaky ReLU whose slope is learnt. slope: shape (1,), or (channels,), whose rows x consists of."""

    @staticmethod
    def forward(x: ArrayLike, slope: ArrayLike) -> Array:
        """x where x > 0, else slope x."""
        x = np.asarray(x, np.float64)
        return _leaky(x, _per_element(slope, x))

    @staticmethod
    def backward(grad: ArrayLike, x: ArrayLike, slope: ArrayLike) -> Array:
        """The gradient of x."""
        grad = np.asarray(grad, np.float64)
        return np.where(np.asarray(x, np.float64) > 0, grad, _per_element(slope, grad) * grad)

    @staticmethod
    def learnable_terms(grad: ArrayLike, x: ArrayLike, slope: ArrayLike) -> tuple[Array, ...]:
        """The terms whose sum, in each channel, is the gradient of the slope."""
        x = np.asarray(x, np.float64)
        with np.errstate(invalid="ignore"):
            return (np.where(x > 0, 0.0, np.asarray(grad, np.float64) * x),)
