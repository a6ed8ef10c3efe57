"""Convolution with 3 x 3 filters in 16 multiplications per 2 x 2 outputs, where the plain sums take 36.

For a tile d of 4 x 4 pixels and a filter g, the outputs are y = A^T [(B^T d B) * (G g G^T)] A, where * multiplies
elementwise. Summed over channels, * becomes 16 matrix products of all tiles (tiles, channels) with the filters
(channels, filters). The gradients are those of this formula: matrix products of the same sizes.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4.1.

Arrays of tiles here are (4, 4, n, height, width, channels), where tile (y, x) starts at pixel (2 y, 2 x).
"""

import numpy as np

from impls.cnn.networks import Array

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
# G g G^T as one matrix (16, 9), to multiply the 9 weights of all filters at once.
OF_FILTERS = np.kron(G, G)
# Rows of B^T: a pixel plus or minus another.
PAIRS = ((0, 2, np.subtract), (1, 2, np.add), (2, 1, np.subtract), (1, 3, np.subtract))


def filters(weight: Array) -> Array:
    """Return G g G^T: (3, 3, channels, filters) to (16, channels, filters)."""
    return (OF_FILTERS.astype(weight.dtype) @ weight.reshape(9, -1)).reshape(16, *weight.shape[2:])


def filters_backward(grad: Array) -> Array:
    """Return the weight gradient, (3, 3, channels, filters)."""
    return (OF_FILTERS.T.astype(grad.dtype) @ grad.reshape(16, -1)).reshape(3, 3, *grad.shape[1:])


def tiles(frame: Array, out: Array, rows: Array) -> None:
    """Write B^T d B of all tiles of padded images to `out`. rows: scratch, (4, n, height, columns, channels)."""
    height, width = out.shape[3:5]
    frame = frame[:, :, : rows.shape[3]]
    for i, (first, other, add) in enumerate(PAIRS):
        add(_every_second(frame, 1, first, height), _every_second(frame, 1, other, height), out=rows[i])
    for j, (first, other, add) in enumerate(PAIRS):
        add(_every_second(rows, 3, first, width), _every_second(rows, 3, other, width), out=out[:, j])


def tiles_backward(grad: Array, frame_grad: Array, rows: Array) -> None:
    """Write the gradient of the padded images, from the gradient of the result of `tiles`. rows: scratch."""
    height, width = grad.shape[3:5]
    rows[...] = 0
    for j, (first, other, add) in enumerate(PAIRS):
        _every_second(rows, 3, first, width)[...] += grad[:, j]
        target = _every_second(rows, 3, other, width)
        add(target, grad[:, j], out=target)
    frame_grad[...] = 0
    frame_grad = frame_grad[:, :, : rows.shape[3]]
    for i, (first, other, add) in enumerate(PAIRS):
        _every_second(frame_grad, 1, first, height)[...] += rows[i]
        target = _every_second(frame_grad, 1, other, height)
        add(target, rows[i], out=target)


def outputs(products: Array, out: Array) -> None:
    """Write A^T m A to `out`: (4, 4, ...) to (2, 2, ...). Overwrites the products."""
    left, right = products[:, 0], products[:, 1]
    left += right
    left += products[:, 2]
    right -= products[:, 2]
    right -= products[:, 3]
    np.add(products[0, :2], products[1, :2], out=out[0])
    out[0] += products[2, :2]
    np.subtract(products[1, :2], products[2, :2], out=out[1])
    out[1] -= products[3, :2]


def outputs_backward(grad: Array, out: Array) -> None:
    """Write the gradient of the products to `out`: (2, 2, ...) to (4, 4, ...)."""
    upper, lower = grad
    out[0, :2] = upper
    np.add(upper, lower, out=out[1, :2])
    np.subtract(upper, lower, out=out[2, :2])
    np.negative(lower, out=out[3, :2])
    left, right = out[:, 0], out[:, 1]
    np.subtract(left, right, out=out[:, 2])
    np.negative(right, out=out[:, 3])
    right += left


def _every_second(array: Array, axis: int, first: int, count: int) -> Array:
    """Return a view of `count` elements along an axis: every second one from `first` on."""
    return array[(slice(None),) * axis + (slice(first, first + 2 * count - 1, 2),)]
