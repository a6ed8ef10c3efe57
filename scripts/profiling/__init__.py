"""Profile a training step or an operator's call: spans, a trace to open, and a table (`./scripts/profile`).

command.py       its arguments, and a process for each row
steps.py         a step: its operators, counters and memory
calls.py         a call of an operator's row: its operators, bytes and roof
spans.py         the types, and how time is attributed to operators
summary.py       what tables of both have in common
handwritten.py   spans of steps in NumPy and Numba: the methods of a step, timed from outside
array_calls.py   spans of calls in NumPy and Numba: arrays that report the functions that are called with them
torch_.py        spans from PyTorch's profiler
jax_.py          spans from JAX's profiler; those of steps are mapped to layers by the names in the compiled program
device_events.py spans of Triton and Numba on a GPU, between events that it records
nvtx.py          ranges for Nsight's tools, with the names of the traces
memory/          the arrays that are alive during a step
layers.py        nominal work of each layer, and its distance from its roof
roofs.py         the limits of the machine
counters.py      events of the processor, where Linux offers them
trace.py         the trace, in the format of Chrome and Perfetto
document.py      the tables, as JSON files that the report reads
"""

# The exit code after Ctrl-C.
INTERRUPTED = 130
