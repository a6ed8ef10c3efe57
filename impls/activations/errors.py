"""The largest errors of the activation family, which rows declare as tolerances, in units in the last place.

Twice the largest that `python -m scripts.verify.accuracy` measured on an AMD EPYC, with AVX-512 and without, rounded
up: NumPy, PyTorch and LLVM have other vector functions for other processors. On a GPU nothing was measured of Numba and
Triton: their formulas are Numba's on the CPU. Of Numba on CUDA gelu has twice that, as CUDA's erfc is documented within
4 ulps (CUDA C++ Programming Guide, "Mathematical functions").
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Errors:
    """Errors of an activation in a framework; 0 is exact.

    input, output: of the gradient from that value. roundtrip: the larger one of both halves. floored: those that count
    in ulps of the argument where the result is smaller (`tolerance_floor` of a row): the results subtract nearly equal
    numbers, or the gradient is computed from a rounded output.
    """

    forward: float = 0
    input: float = 0
    output: float = 0
    roundtrip: float = 0
    floored: tuple[str, ...] = ()


# By framework and activation.
ERRORS: dict[str, dict[str, Errors]] = {
    "numpy": {
        "leaky_relu": Errors(forward=2, output=2, roundtrip=2),
        "relu6": Errors(),
        "elu": Errors(forward=5, input=5, output=3, roundtrip=5, floored=("input", "roundtrip")),
        "selu": Errors(forward=7, input=5, output=4, roundtrip=7, floored=("input", "output", "roundtrip")),
        "gelu": Errors(forward=15, input=5, roundtrip=5, floored=("input", "roundtrip")),
        "gelu_tanh": Errors(forward=4, input=8, roundtrip=8, floored=("forward", "input", "roundtrip")),
        "silu": Errors(forward=4, input=8, roundtrip=8, floored=("forward", "input", "roundtrip")),
        "sigmoid": Errors(forward=6, input=2, output=4, roundtrip=6, floored=("forward", "input", "roundtrip")),
        "tanh": Errors(forward=3, input=5, output=4, roundtrip=6, floored=("input", "roundtrip")),
        "softplus": Errors(forward=6, input=4, output=7, roundtrip=5, floored=("input", "roundtrip")),
        "hardswish": Errors(forward=4, input=4, roundtrip=4),
        "squared_relu": Errors(forward=1, input=1, roundtrip=1),
        "prelu": Errors(forward=1, input=1, roundtrip=1),
        "prelu_channels": Errors(forward=1, input=1, roundtrip=1),
    },
    "numba": {
        "leaky_relu": Errors(forward=2, output=2, roundtrip=2),
        "relu6": Errors(),
        "elu": Errors(forward=2, input=3, output=3, roundtrip=3, floored=("input", "roundtrip")),
        "selu": Errors(forward=6, input=5, output=4, roundtrip=6, floored=("input", "output", "roundtrip")),
        "gelu": Errors(forward=6, input=8, roundtrip=8, floored=("forward", "input", "roundtrip")),
        "gelu_tanh": Errors(forward=4, input=8, roundtrip=8, floored=("forward", "input", "roundtrip")),
        "silu": Errors(forward=4, input=7, roundtrip=7, floored=("forward", "input", "roundtrip")),
        "sigmoid": Errors(forward=6, input=2, output=4, roundtrip=6, floored=("forward", "input", "roundtrip")),
        "tanh": Errors(forward=6, input=8, output=4, roundtrip=10, floored=("input", "roundtrip")),
        "softplus": Errors(forward=5, input=4, output=4, roundtrip=5, floored=("input", "roundtrip")),
        "hardswish": Errors(forward=5, input=5, roundtrip=5),
        "squared_relu": Errors(forward=1, input=1, roundtrip=1),
        "prelu": Errors(forward=1, input=1, roundtrip=1),
        "prelu_channels": Errors(forward=1, input=1, roundtrip=1),
    },
    "torch": {
        "leaky_relu": Errors(forward=2, input=2, roundtrip=2),
        "relu6": Errors(),
        "elu": Errors(forward=2, input=3, output=3, roundtrip=3, floored=("input", "roundtrip")),
        "selu": Errors(forward=4, input=4, output=4, roundtrip=4, floored=("input", "output", "roundtrip")),
        "gelu": Errors(forward=10, input=8, roundtrip=10, floored=("forward", "input", "roundtrip")),
        "gelu_tanh": Errors(forward=4, input=86, roundtrip=86, floored=("forward", "input", "roundtrip")),
        "silu": Errors(forward=4, input=72, roundtrip=72, floored=("forward", "input", "roundtrip")),
        "sigmoid": Errors(forward=4, output=4, roundtrip=4, floored=("forward", "roundtrip")),
        "tanh": Errors(forward=2, output=4, roundtrip=4, floored=("roundtrip",)),
        "softplus": Errors(forward=3, input=5, roundtrip=5, floored=("input", "roundtrip")),
        "hardswish": Errors(forward=4, input=4, roundtrip=4, floored=("input", "roundtrip")),
        "squared_relu": Errors(forward=1, input=1, roundtrip=1),
        "prelu": Errors(forward=1, input=1, roundtrip=1),
        "prelu_channels": Errors(forward=1, input=1, roundtrip=1),
    },
    "jax": {
        "leaky_relu": Errors(forward=2, output=2, roundtrip=2),
        "relu6": Errors(),
        "elu": Errors(forward=9, input=4, output=3, roundtrip=9, floored=("input", "roundtrip")),
        "selu": Errors(forward=10, input=6, output=3, roundtrip=10, floored=("input", "output", "roundtrip")),
        "gelu": Errors(forward=4, input=6, roundtrip=6, floored=("forward", "input", "roundtrip")),
        "gelu_tanh": Errors(forward=8, input=657, roundtrip=657, floored=("forward", "input", "roundtrip")),
        "silu": Errors(forward=4, input=70, roundtrip=70, floored=("forward", "input", "roundtrip")),
        "sigmoid": Errors(forward=8, input=3, output=4, roundtrip=4, floored=("input", "roundtrip")),
        "tanh": Errors(forward=12, input=28, output=4, roundtrip=28, floored=("input", "roundtrip")),
        "softplus": Errors(forward=6, input=64, output=3, roundtrip=64, floored=("input", "output", "roundtrip")),
        "hardswish": Errors(forward=5, input=4, roundtrip=4, floored=("input", "roundtrip")),
        "squared_relu": Errors(forward=1, input=1, roundtrip=1),
        "prelu": Errors(forward=1, input=1, roundtrip=1),
        "prelu_channels": Errors(forward=1, input=1, roundtrip=1),
    },
}
ERRORS["triton"] = ERRORS["numba"]
ERRORS["numba_cuda"] = {
    **ERRORS["numba"],
    "gelu": Errors(forward=12, input=16, roundtrip=16, floored=("forward", "input", "roundtrip")),
}
