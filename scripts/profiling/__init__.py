"""Profile a training step: spans of its operators, a trace to open, and a table (`./scripts/profile`).

spans.py         the types, and how time is attributed to operators
handwritten.py   spans of steps in NumPy and Numba: the methods of a step, timed from outside
torch_.py        spans from PyTorch's profiler
jax_.py          spans from JAX's profiler, mapped to layers by the names in the compiled program
memory/          the arrays that are alive during a step
layers.py        nominal work of each layer, and its distance from its roof
roofs.py         the limits of the machine
counters.py      events of the processor, where Linux offers them
trace.py         the trace, in the format of Chrome and Perfetto
document.py      the table, as a JSON file that the report reads
"""
