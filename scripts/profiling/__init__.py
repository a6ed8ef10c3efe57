"""Profile a training step: spans of its operators, a trace to open, and a table (`./scripts/profile`).

spans.py         the types, and how time is attributed to operators
handwritten.py   spans of steps in NumPy and Numba: the methods of a step, timed from outside
torch_.py        spans from PyTorch's profiler
jax_.py          spans from JAX's profiler, mapped to layers by the names in the compiled program
trace.py         the trace, in the format of Chrome and Perfetto
document.py      the table, as a JSON file that the report reads
"""
