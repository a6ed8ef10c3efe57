"""ReLU in plain Python over array.array: the example of how a framework is added (see README)."""

from array import array


def forward(x: array) -> array:
    return array(x.typecode, [value if value > 0 or value != value else 0.0 for value in x])


def forward_inplace(x: array) -> array:
    for i, value in enumerate(x):
        if value <= 0:
            x[i] = 0.0
    return x
