"""ReLU in plain Python over array.array: the example of how a framework is added (see impls/README.md)."""

from array import array


def forward(x: array) -> array:
    return forward_inplace(x[:])


def forward_inplace(x: array) -> array:
    for i, value in enumerate(x):
        if value <= 0:
            x[i] = 0.0
    return x
