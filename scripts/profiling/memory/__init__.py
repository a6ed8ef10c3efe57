"""Record which arrays are alive during a training step, and what they are kept for.

buffers.py       the types, and the bytes alive at each layer
handwritten.py   NumPy and Numba: the arrays that a step holds, and the peaks between its methods, by tracemalloc
torch_.py        PyTorch: the events of its allocator
jax_.py          JAX: the buffers of XLA's plan of the program
"""
