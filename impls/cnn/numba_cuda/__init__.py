"""A training step written by hand in Numba on CUDA, in memory that is allocated once.

step.py has the memory and the order of kernels; products.py, convolution.py, norm.py and dense.py what they are.

- Each convolution and dense layer, and each of their gradients, is one tiled product (`products`) that reads its
  factors where they are: the 3 x 3 pixels around each pixel, and gradients of pooled images, are never in memory.
- The four rows of a thread are the four outputs that a max-pool compares, so max-pool and ReLU happen in registers:
  what a convolution gives before them is written only for batch norm, which needs all of it.
- Bias is one more row of the weight, against a column of ones; the gradients by both are one product.
- The gradient by an image is written only where ReLU let the image pass; a pooled one is read at its winner.
- Long sums are cut into parts, which the update adds up: results are the same to the bit each time.

ReLU is always in place, in registers: `relu` is "inplace" or "none". Calls return when the loss is on the host.
"""

from impls.cnn.architecture import Network
from impls.cnn.networks import Array
from impls.cnn.numba_cuda.step import Step


def build(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> Step:
    return Step(network, parameters, n, dtype, relu)
