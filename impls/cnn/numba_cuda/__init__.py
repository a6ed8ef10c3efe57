"""A training step in Numba on CUDA, written by hand, in memory that is allocated once.

Read step.py first: it has the memory and the order of the kernels, which products.py, parts.py, convolution.py, norm.py
and dense.py define. `build_graph` makes a step that replays its kernels as one CUDA graph (graph.py).

- Each convolution, each dense layer and each of their gradients is one implicit GEMM (`products`): it reads the 3 x 3
  windows and the gradients of pooled images in place, and never materialises them.
- The four rows of a thread are the four outputs that a max-pool compares, so max-pool and ReLU happen in registers. A
  convolution's result is written to memory only for batch norm, which needs all of it.
- Bias is one more row of the weight, against a column of ones, so one product gives the gradients of both.
- The image gradient is written only where ReLU passed the image; the gradient of a pooled image is read at the position
  of its maximum.
- Long sums are split into parts, which the update adds in a fixed order: results are identical to the bit each time.

ReLU is always in place, in registers: `relu` is "inplace" or "none". Calls return before the device has finished, as is
usual on CUDA.
"""

from impls.cnn.architecture import Network
from impls.cnn.networks import Array
from impls.cnn.numba_cuda.step import Step


def build(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> Step:
    return Step(network, parameters, n, dtype, relu)


def build_graph(network: Network, parameters: dict[str, Array], n: int, dtype: str, relu: str) -> Step:
    # It needs cuda-bindings, which the other step does not.
    from impls.cnn.numba_cuda.graph import GraphStep

    return GraphStep(network, parameters, n, dtype, relu)
