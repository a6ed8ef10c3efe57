"""A training step of a convolutional network, in one file per framework.

Interface of every file
-----------------------
`build(network, parameters, n, dtype, relu) -> step` makes a step of SGD with momentum for batches of n images. `build`
and `put` raise ValueError, which says what was given and what is accepted. `build` raises NotImplementedError where
the framework cannot make such a step here, with the reason.

network     a row of `architecture.NETWORKS`, which describes it and the layout of all arrays
parameters  the initial parameters by name, float64 (`networks.initial_parameters`)
dtype       "float32" or "float64"
relu        "fresh": each ReLU writes to its own memory; "inplace": each overwrites its input; "none": the network
            without its ReLUs, which shows their cost. The same of other activations, which are never in place

====================  =============================================================================
member of a step      meaning
====================  =============================================================================
`put(batch)`          returns the arrays of a `networks.Batch` in the framework's form
`step(given, mark)`   runs one step on the result of `put`; returns the loss before the update, a
                      scalar, to be converted by float() before the next step. Calls `mark(phase)` at
                      the end of each of PHASES that it can tell apart
`state()`             returns parameters, velocities and statistics (`reference.State`) as NumPy arrays
====================  =============================================================================

A step computes the forward pass, the loss, the backward pass without a gradient for the images, the update, and the
running statistics of batch norm. `reference.py` is its definition, layer by layer; every file gives its numbers,
whatever it fuses or leaves out. Steps in NumPy and Numba run their own threads, and therefore limit BLAS to one thread
in the whole process.
"""

PHASES = ("forward", "loss", "backward", "update")


def unmarked(phase: str) -> None:
    """Ignore the end of a phase: the default of `mark`."""
