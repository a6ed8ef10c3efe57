"""A training step of a convolutional ReLU network, one file per framework.

What every file promises
------------------------
`build(network, parameters, n, dtype, relu) -> step` makes a step of SGD with momentum for batches of n images. It
raises ValueError, which says what was given and what is accepted, and so does `put`.

network     a row of `networks.NETWORKS`, which also gives the layout of all arrays
parameters  the initial ones by name, float64 (`networks.initial_parameters`)
dtype       "float32" or "float64"
relu        "fresh": each ReLU writes to memory of its own; "inplace": over its input; "none": the network
            without its ReLUs, which tells what they cost

====================  =============================================================================
member of a step      what it is
====================  =============================================================================
`put(batch)`          the arrays of a `networks.Batch`, as the framework wants them
`step(given, mark)`   one step on what `put` gave; the loss before the update, a scalar. Where it can tell
                      them apart it calls `mark(phase)` at the end of each of PHASES
`state()`             parameters, velocities and statistics now (`reference.State`), as NumPy arrays
====================  =============================================================================

A step has a forward pass, the loss, a backward pass without a gradient for the images, the update,
and the running statistics of batch norm. `reference.py` is its definition, layer by layer; whatever a
file fuses or leaves out, its numbers are those of the reference. Steps in NumPy and Numba use threads of their own, for
which they limit BLAS to one thread in the whole process.
"""

PHASES = ("forward", "loss", "backward", "update")


def unmarked(phase: str) -> None:
    """Nothing at the end of a phase."""
